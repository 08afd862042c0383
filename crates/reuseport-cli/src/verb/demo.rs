//! `reuseport demo`: the options of it; the demo itself is in [`demo`](crate::demo).

use anyhow::Result;
use clap::Args;

use crate::demo;

/// Watch what a policy changes, in half a minute, with nothing to set up
///
/// Starts a server of four workers on a port of its own on 127.0.0.1, one of which hangs again and
/// again, and sends it a steady stream of connections: while the kernel's hash decides, then while
/// our program deals in turn, then while it picks the shortest queue. Shows who got what, and how long
/// clients waited. It touches nothing else on this machine and leaves nothing behind.
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
