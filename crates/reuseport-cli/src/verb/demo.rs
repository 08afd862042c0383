//! `reuseport demo`: its options. The demo itself is in [`demo`](crate::demo).

use anyhow::Result;
use clap::Args;

use crate::demo;

/// Show in half a minute what a policy changes, with nothing to set up
///
/// Starts a server with four workers on a free port of 127.0.0.1, one of which hangs again and
/// again, and sends it a steady stream of connections: first under the kernel's hash, then under
/// round-robin, then under least-loaded. Shows what each worker got and how long clients waited. It
/// touches nothing else on this machine and leaves nothing behind.
///
/// It needs the same rights as `attach`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo reuseport demo
")]
pub(crate) struct Demo {
    /// How long each of the three rounds lasts, in seconds
    #[arg(long, value_name = "N", default_value_t = 6, hide = true,
          value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
}

impl Demo {
    pub(crate) fn run(self) -> Result<()> {
        demo::run(self.seconds)
    }
}
