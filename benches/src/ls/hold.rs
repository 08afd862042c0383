//! Processes that only have sockets: servers' workers, each with its members of some groups, and the
//! crowd of other sockets that a busy host has.
//!
//! Every socket is watched by its process's epoll instance, as an event-driven server's are. Ports
//! are fixed: they are in a network namespace that has no other sockets.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::event::epoll;
use rustix::net::sockopt;
use sk_reuseport::net::Bind;

use crate::process::{Helper, ready};

/// Members of a process, each of another group; the last one is UDP.
const EACH: u32 = 5;
/// Processes that share groups: one server's workers.
const WORKERS: u32 = 10;
const FIRST_PORT: u16 = 10_000;
/// Sockets of a process of the crowd.
const CROWD_EACH: u32 = 5000;

/// Servers with their workers.
pub(super) struct Members {
    pub(super) processes: u32,
}

impl Members {
    pub(super) fn sockets(&self) -> u32 {
        self.processes * EACH
    }

    pub(super) fn groups(&self) -> u32 {
        self.processes.div_ceil(WORKERS) * EACH
    }

    pub(super) fn ports(&self) -> Range<u16> {
        FIRST_PORT..FIRST_PORT + self.groups() as u16
    }

    pub(super) fn start(&self) -> Result<Vec<Helper>> {
        let first_port = |process| u32::from(FIRST_PORT) + process / WORKERS * EACH;
        start(
            (0..self.processes).map(|process| ["members".into(), first_port(process).to_string()]),
        )
    }
}

/// Starts processes with this number of sockets that are members of nothing.
pub(super) fn start_crowd(sockets: u32) -> Result<Vec<Helper>> {
    let part = |process: u32| {
        let sockets = (sockets - process * CROWD_EACH).min(CROWD_EACH);
        ["crowd".into(), process.to_string(), sockets.to_string()]
    };
    start((0..sockets.div_ceil(CROWD_EACH)).map(part))
}

/// Starts `hold` with each of these arguments. All have their sockets when this returns.
fn start<const N: usize>(commands: impl Iterator<Item = [String; N]>) -> Result<Vec<Helper>> {
    let start = |arguments| Helper::start("hold", arguments, Stdio::null());
    let mut holders = commands.map(start).collect::<Result<Vec<_>>>()?;
    holders.iter_mut().try_for_each(Helper::wait_until_ready)?;
    Ok(holders)
}

/// A holder: a part of `ls`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Members { first_port: u16 },
    Crowd { number: u16, sockets: u32 },
}

/// Makes the sockets, says so, and has them until it is stopped.
pub(crate) fn run(args: &Args) -> Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut held = Held { epoll, sockets: Vec::new() };
    match args.what {
        What::Members { first_port } => held.members(first_port)?,
        What::Crowd { number, sockets } => held.crowd(number, sockets)?,
    }
    ready()?.read_to_end(&mut Vec::new())?;
    Ok(())
}

struct Held {
    epoll: OwnedFd,
    sockets: Vec<OwnedFd>,
}

impl Held {
    fn hold(&mut self, socket: impl Into<OwnedFd>) -> Result<()> {
        let socket = socket.into();
        let data = epoll::EventData::new_u64(self.sockets.len() as u64);
        epoll::add(&self.epoll, socket.as_fd(), data, epoll::EventFlags::IN)?;
        self.sockets.push(socket);
        Ok(())
    }

    fn members(&mut self, first_port: u16) -> Result<()> {
        let bind = |port| Bind::new(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let last = first_port + EACH as u16 - 1;
        for port in first_port..last {
            bind(port).listeners(1)?.into_iter().try_for_each(|socket| self.hold(socket))?;
        }
        bind(last).udp_sockets(1)?.into_iter().try_for_each(|socket| self.hold(socket))
    }

    /// Connections first, then UDP sockets that are bound each to an address of its own.
    fn crowd(&mut self, number: u16, sockets: u32) -> Result<()> {
        let network = Ipv4Addr::new(127, 1, 0, 0).to_bits() + (u32::from(number) << 16);
        let address =
            |host: u32, port| SocketAddrV4::new(Ipv4Addr::from_bits(network + host), port);

        let listener = TcpListener::bind(address(1, 0))?;
        let connections = (sockets * 4 / 5 / 2).saturating_sub(1);
        for _ in 0..connections {
            let client = TcpStream::connect(listener.local_addr()?)?;
            // Neither end may stay in TIME_WAIT.
            sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
            self.hold(client)?;
            self.hold(listener.accept()?.0)?;
        }
        self.hold(listener)?;
        for host in 2..2 + sockets - 2 * connections - 1 {
            self.hold(UdpSocket::bind(address(host, 10_000))?)?;
        }
        ensure!(self.sockets.len() == sockets as usize, "{} sockets", self.sockets.len());
        Ok(())
    }
}
