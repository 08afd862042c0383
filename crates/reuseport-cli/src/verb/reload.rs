//! `reuseport reload`: ask a supervisor for a new generation of its workers.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use reuseport::id::Percent;

use crate::args;
use crate::output;
use crate::supervise::{self, Canary, Request};

/// Start a new version of what `run` runs, and let it take over when it is ready
///
/// New workers are started beside the old ones, and get nothing. When all are ready, they serve from one
/// connection to the next, and the old ones finish what they have. A new worker that does not get
/// ready, or ends on probation (`run --probation`), takes all of this back: the old ones serve, and
/// traffic has not noticed. Otherwise the old ones take what still waits at them (--drain-timeout), get
/// SIGTERM and, after --stop-timeout, SIGKILL. Returns when they are gone.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  0   the new generation serves, and the old one is gone
  1   no supervisor of this name runs
  2   refused, as while another reload is under way; nothing was changed
  3   rolled back; or an old worker had to be killed

Examples:
  reuseport reload web
  reuseport reload web --canary 10% --for 5m        a tenth first, then all
  reuseport reload web -- gunicorn app_v2:app       another command from now on
")]
pub(crate) struct Reload {
    /// The name of the supervisor: that of `run --name`, or of its command
    #[arg(value_name = "NAME")]
    name: String,

    /// Give the new generation only this part of all picks first, 1% to 99%
    #[arg(long, value_name = "N%", value_parser = args::percent, requires = "trial_time")]
    canary: Option<Percent>,

    /// With --canary: how long; then it serves
    #[arg(long = "for", value_name = "TIME", value_parser = args::time, requires = "canary")]
    trial_time: Option<Duration>,

    /// Another command for the new generation, and for those after it
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Reload {
    pub(crate) fn run(self) -> Result<()> {
        let canary = self.canary.zip(self.trial_time).map(|(share, time)| Canary {
            percent: share.get(),
            milliseconds: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        });
        let command = Some(self.command).filter(|command| !command.is_empty());
        supervise::ask(&self.name, &Request::Reload { command, canary }, |text| {
            // If it is not read, the reload goes on all the same.
            let _ = output::print(&format!("{text}\n"));
        })
    }
}
