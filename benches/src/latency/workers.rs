//! The workers of one measurement: processes that are started for it and end with it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use rustix::net::sockopt::set_socket_incoming_cpu;
use sk_reuseport::net::Bind;

use super::hermes::Inherited;
use super::temper::Temper;
use super::worker::{Args, Counts};
use crate::process::Helper;

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
    running: Vec<Helper>,
    pub(super) address: SocketAddr,
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
        let Listeners { listening, sockets, address } = listeners;
        let mut running = Vec::new();
        for index in 0..workers {
            let temper = if index == 0 { temper } else { Temper::Steady };
            let args = Args { index, temper, shared: listening == Listening::Shared, hermes };
            let listener = &sockets[usize::from(index) % sockets.len()];
            let listener = OwnedFd::from(listener.try_clone()?);
            running.push(Helper::start(COMMAND, args.words(), listener)?);
        }
        running.iter_mut().try_for_each(Helper::wait_until_ready)?;
        Ok(Self { running, address })
    }

    /// Stops them and returns what each did.
    pub(super) fn finish(self) -> Result<Vec<Counts>> {
        self.running.iter().try_for_each(Helper::stop)?;
        let counts = |worker: Helper| {
            serde_json::from_str(&worker.report()?).context("a worker reports no counts")
        };
        self.running.into_iter().map(counts).collect()
    }
}
