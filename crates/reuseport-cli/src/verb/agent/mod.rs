//! `reuseport agent`: one process that keeps many groups as a file says.

mod exporter;
mod service;

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context as _, Result};
use clap::Args;
use reuseport::watch::Sole;
use reuseport::{Host, Stop};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::config::{Config, FILE};
use crate::output;
use service::Service;

/// Keep many groups as a file says, over restarts of their servers
///
/// Attaches to every group that matches the file, now or later, before or after its server starts,
/// and follows it as `attach --watch` does: new sockets get a slot, and after a restart they take the
/// slots of the old ones. While nothing happens, it sleeps.
///
/// Ending it, in whatever way, changes no traffic: the programs stay attached, and the next agent goes
/// on with them. SIGHUP reads the file again; a file that is wrong changes nothing. Groups that are no
/// longer in the file are followed no more, and keep their programs.
#[derive(Debug, Args)]
#[command(after_help = "\
File:
  retake = true                       as `attach --retake`, for all groups
  silence = [\"drops@udp::53\"]         findings that `doctor` and metrics omit
  [metrics]
  listen = \"127.0.0.1:9719\"           as `metrics --listen`
  [server.web]                        any name, for messages
  groups = [\"tcp:*:80\", \"udp::53\"]    all that match, as `ls` names groups
  policy = \"least-loaded\"             as `attach --policy`; left out: the
                                      current one, or the default
  load = \"queue\"                      these four as the options of `attach`
  max-share = 2
  cpus = \"0-3\"
  slots = 256
  hold-new = true                     as `attach --hold-new`
  weights = { \"slot:0\" = 3 }          for the first member in a slot

  The first server that matches a group decides. Only root, or the user who
  runs the agent, may be able to change the file.

systemd:
  Tells when it is ready, and that it is alive (Type=notify, WatchdogSec=); the
  package has a unit. Lines in the journal have a priority.

Rights:
  As `attach --watch`. One agent runs at a time.

Examples:
  reuseport agent
  reuseport agent --config ./reuseport.toml
  reuseport agent --check && systemctl reload reuseport
")]
pub(crate) struct Agent {
    /// The file
    #[arg(long, value_name = "FILE", default_value = FILE)]
    config: PathBuf,

    /// Only check the file
    #[arg(long)]
    check: bool,
}

impl Agent {
    pub(crate) fn run(self) -> Result<()> {
        let config = Config::read(&self.config)?;
        if self.check {
            let servers = output::count(config.servers.len(), "server");
            output::print(&format!("{}: {servers}\n", self.config.display()))?;
            return Ok(());
        }
        let host = Host::open()?;
        let _sole = Sole::claim(&host)?;
        let (stop, reload) = signals()?;
        let mut service = Service::new(host, stop)?;
        service.follow(&config)?;
        service.run(&reload, &self.config)
    }
}

/// A stop that SIGINT and SIGTERM request, and a stream that is readable after SIGHUP.
fn signals() -> Result<(Stop, UnixStream)> {
    let stop = Stop::default();
    let (reload, mut hangup) = UnixStream::pair().context("cannot make a pair of sockets")?;
    for stream in [&reload, &hangup] {
        stream.set_nonblocking(true).context("cannot make a socket nonblocking")?;
    }
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]);
    let mut signals = signals.context("cannot install handlers for signals")?;
    let request = stop.clone();
    thread::spawn(move || {
        for signal in signals.forever() {
            match signal {
                // A stream that is full is readable.
                SIGHUP => drop(hangup.write(&[0])),
                _ => request.set(),
            }
        }
    });
    Ok((stop, reload))
}
