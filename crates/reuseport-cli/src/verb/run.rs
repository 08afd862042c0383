//! `reuseport run`: start a server's workers, keep their sockets, reload them.

use anyhow::Result;
use clap::Args;

use crate::supervise::{self, RunOptions};

/// Start workers of any server, and keep them: with a socket each, over deaths and reloads
///
/// Each worker is a process that runs COMMAND and inherits a listening socket of its own. The sockets
/// stay with this command: a worker that dies closes nothing, gets nothing, and its replacement takes
/// the same socket and what waits in it. `reuseport reload NAME`, or SIGHUP, starts a new generation
/// beside the old one and lets it serve in one step when all of its workers are ready; if it does not
/// get ready, or one of its workers dies soon, the old one goes on, and traffic has not noticed.
///
/// It stays in the foreground, for systemd and containers. SIGTERM and ^C stop the workers; a second
/// one kills them. If this command is killed, its workers go on, and the next `run` of the name goes on
/// with them.
#[derive(Debug, Args)]
#[command(after_help = "\
How a worker finds its socket (docs/run.md has examples for many servers):
  LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES   as systemd passes sockets
  SERVER_STARTER_PORT                      as start_server does
  {fd} and {worker} in COMMAND             --bind fd://{fd}, --id {worker}

Control:
  /run/reuseport/NAME.sock, for root and the user who runs this. `reload NAME
  -- COMMAND` runs what it is given, with the rights of this command.

systemd:
  Tells when all workers are ready, when it reloads, and that it is alive. The
  unit template reuseport@.service runs /etc/reuseport/NAME.toml; with
  KillMode=process, as there, workers outlive a supervisor that is killed.

Rights:
  As `attach`. Without them, --no-program.

Exit status:
  0   stopped by a signal
  2   the command, the name, or an address cannot be had; any other failure
  3   all workers died again and again, and were given up

Examples:
  reuseport run --listen tcp:0.0.0.0:8080 --workers 4 -- gunicorn app:app
  reuseport run --name web --listen tcp:0.0.0.0:8080 --workers 4 \\
      --ready both -- uvicorn --fd {fd} app:app
  reuseport run --config /etc/reuseport/web.toml
  reuseport reload web
")]
pub(crate) struct Run {
    #[command(flatten)]
    options: RunOptions,
}

impl Run {
    pub(crate) fn run(self) -> Result<()> {
        supervise::run(self.options)
    }
}
