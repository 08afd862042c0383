//! Idle processes that hold sockets: workers with members of groups, and other sockets.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::epoll;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::sockopt;
use sk_reuseport::net::Bind;

const FIRST_PORT: u16 = 10_000;
/// Sockets of a process of the crowd.
const CROWD_EACH: u32 = 5000;

/// Servers with their workers.
pub(crate) struct Members {
    pub(crate) processes: u32,
    /// Processes that share groups: one server's workers.
    pub(crate) workers: u32,
    /// Members of a process, each of another group; the last one is UDP.
    pub(crate) each: u32,
}

impl Members {
    pub(crate) fn sockets(&self) -> u32 {
        self.processes * self.each
    }

    pub(crate) fn groups(&self) -> u32 {
        self.processes.div_ceil(self.workers) * self.each
    }

    pub(crate) fn ports(&self) -> Range<u16> {
        FIRST_PORT..FIRST_PORT + self.groups() as u16
    }

    pub(crate) fn start(&self) -> Result<Vec<Holder>> {
        let start = |process: u32| {
            let first = FIRST_PORT + (process / self.workers * self.each) as u16;
            let last = first + self.each as u16 - 1;
            let bind = |port| Bind::new((Ipv4Addr::LOCALHOST, port).into());
            let mut sockets: Vec<OwnedFd> = Vec::new();
            for port in first..last {
                sockets.extend(bind(port).listeners(1)?.into_iter().map(OwnedFd::from));
            }
            sockets.extend(bind(last).udp_sockets(1)?.into_iter().map(OwnedFd::from));
            Holder::start(sockets)
        };
        (0..self.processes).map(start).collect()
    }
}

/// Starts processes with this number of sockets that are members of nothing.
pub(crate) fn start_crowd(sockets: u32) -> Result<Vec<Holder>> {
    let part = |process: u32| crowd(process, (sockets - process * CROWD_EACH).min(CROWD_EACH));
    (0..sockets.div_ceil(CROWD_EACH)).map(|process| Holder::start(part(process)?)).collect()
}

/// Connections first, then UDP sockets that are bound each to an address of its own.
fn crowd(process: u32, count: u32) -> Result<Vec<OwnedFd>> {
    let network = Ipv4Addr::new(127, 1, 0, 0).to_bits() + (process << 16);
    let address = |host: u32, port| SocketAddrV4::new(Ipv4Addr::from_bits(network + host), port);
    let listener = TcpListener::bind(address(1, 0))?;
    let mut sockets: Vec<OwnedFd> = Vec::new();
    for _ in 1..count * 4 / 5 / 2 {
        let client = TcpStream::connect(listener.local_addr()?)?;
        // Neither end may stay in TIME_WAIT.
        sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
        sockets.extend([client.into(), listener.accept()?.0.into()]);
    }
    sockets.push(listener.into());
    for host in 2..2 + count - sockets.len() as u32 {
        sockets.push(UdpSocket::bind(address(host, 10_000))?.into());
    }
    Ok(sockets)
}

/// A process that has sockets until this is dropped, or the bench ends.
pub(crate) struct Holder(Child);

impl Holder {
    /// The process inherits the sockets and an epoll instance that watches them. No other process has them
    /// when this returns.
    fn start(sockets: Vec<OwnedFd>) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::empty())?;
        for socket in &sockets {
            epoll::add(&epoll, socket, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
            fcntl_setfd(socket, FdFlags::empty())?;
        }
        // It waits for the end of its input.
        let process = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        Ok(Self(process.context("cannot start cat")?))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // This closes its input.
        let _ = self.0.wait();
    }
}
