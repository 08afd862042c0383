//! The options.

use crate::Common;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections in a simulation; with more than 750 workers, as many for each as 750 have
    #[arg(long, value_name = "NUMBER", default_value_t = 300_000)]
    pub(crate) connections: u64,
    /// Simulations of each case, with seeds 1, 2, ...
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) runs: u64,
    /// Only what the bench of latencies measures as well
    #[arg(long)]
    pub(crate) like_bench: bool,
}
