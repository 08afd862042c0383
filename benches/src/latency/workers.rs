//! The workers of one measurement: processes that are started for it and end with it.

use std::io::Read as _;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt::set_socket_incoming_cpu;
use sk_reuseport::net::Bind;

use super::hermes::Inherited;
use super::temper::Temper;
use super::worker::{Args, Counts};
use crate::command::own;

/// The name of the hidden sub-command that is a worker.
pub(crate) const COMMAND: &str = "latency-worker";

/// What workers listen at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listening {
    /// Each has a listener of its own, and these are a group.
    Own,
    /// The same, and each listener says which CPU's connections it would like (SO_INCOMING_CPU).
    OwnByCpu,
    /// There is one listener.
    Shared,
}

/// Listeners before they are given to their workers.
pub(super) struct Listeners {
    listening: Listening,
    pub(super) sockets: Vec<TcpListener>,
    pub(super) address: SocketAddr,
}

impl Listeners {
    /// For so many workers.
    pub(super) fn new(workers: u8, listening: Listening) -> Result<Self> {
        let count = if listening == Listening::Shared { 1 } else { workers.into() };
        let bind = Bind::new((Ipv4Addr::LOCALHOST, 0).into()).nonblocking(true);
        let sockets = bind.listeners(count).context("cannot listen")?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        if listening == Listening::OwnByCpu {
            for (index, socket) in sockets.iter().enumerate() {
                set_socket_incoming_cpu(socket, (index % cpus) as u32)?;
            }
        }
        let address = sockets[0].local_addr()?;
        Ok(Self { listening, sockets, address })
    }
}

/// Processes that answer until this is dropped.
pub(super) struct Workers {
    running: Vec<Worker>,
    pub(super) address: SocketAddr,
}

struct Worker {
    process: Child,
    control: UnixStream,
}

impl Workers {
    /// Starts them: the first one is of this temper, the others are steady. All are ready when this
    /// returns, and have the listeners for themselves.
    pub(super) fn start(
        workers: u8,
        temper: Temper,
        listeners: Listeners,
        hermes: Option<Inherited>,
    ) -> Result<Self> {
        let own = own()?;
        let Listeners { listening, sockets, address } = listeners;
        let mut started = Self { running: Vec::new(), address };
        for index in 0..workers {
            let temper = if index == 0 { temper } else { Temper::Steady };
            let args = Args { index, temper, shared: listening == Listening::Shared, hermes };
            let listener = &sockets[usize::from(index) % sockets.len()];
            let (control, workers_end) = UnixStream::pair()?;
            let mut command = Command::new(&own);
            command.arg(COMMAND).args(args.words());
            command.stdin(Stdio::from(OwnedFd::from(listener.try_clone()?)));
            command.stdout(Stdio::from(OwnedFd::from(workers_end)));
            let process = command.spawn().context("cannot start a worker")?;
            started.running.push(Worker { process, control });
        }
        for worker in &mut started.running {
            let ready = worker.control.read_exact(&mut [0]);
            ready.context("a worker ended before it was ready")?;
        }
        Ok(started)
    }

    /// Stops them and returns what each did.
    pub(super) fn finish(mut self) -> Result<Vec<Counts>> {
        for worker in &self.running {
            worker.control.shutdown(Shutdown::Write).context("cannot stop a worker")?;
        }
        let mut counts = Vec::new();
        for worker in &mut self.running {
            let mut said = String::new();
            worker.control.read_to_string(&mut said).context("a worker says nothing")?;
            let said = serde_json::from_str(&said);
            counts.push(said.with_context(|| format!("worker {} failed", counts.len()))?);
            let status = worker.process.wait()?;
            ensure!(status.success(), "worker {} ended with {status}", counts.len() - 1);
        }
        Ok(counts)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.running {
            // Those that have ended and were waited for are not meant any more.
            let _ = worker.process.kill();
            let _ = worker.process.wait();
        }
    }
}
