//! Processes that have sockets and do nothing: servers' workers, each with its members of some groups,
//! and the crowd of other sockets that a busy host has.
//!
//! Every socket is watched by its process's epoll instance, as an event-driven server's are. Ports
//! are fixed: they are in a network namespace that has no other sockets.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::event::epoll;
use rustix::net::sockopt;
use sk_reuseport::net::Bind;

use crate::command::own;

/// Members that a process has, each of another group; the last one is UDP.
const EACH: u32 = 5;
/// Processes that share groups: one server's workers.
const WORKERS: u32 = 10;
const FIRST_PORT: u16 = 10_000;

/// Servers with their workers.
pub(crate) struct Members {
    pub(crate) processes: u32,
}

impl Members {
    pub(crate) fn sockets(&self) -> u32 {
        self.processes * EACH
    }

    pub(crate) fn groups(&self) -> u32 {
        self.processes.div_ceil(WORKERS) * EACH
    }

    pub(super) fn ports(&self) -> Range<u16> {
        FIRST_PORT..FIRST_PORT + self.groups() as u16
    }

    pub(crate) fn commands(&self) -> impl Iterator<Item = Vec<String>> {
        (0..self.processes).map(|process| {
            let first = u32::from(FIRST_PORT) + process / WORKERS * EACH;
            vec!["members".to_owned(), first.to_string()]
        })
    }
}

/// Sockets that are members of nothing.
pub(crate) struct Crowd {
    pub(crate) sockets: u32,
}

/// Sockets that a process of the crowd has.
const CROWD_EACH: u32 = 5000;

impl Crowd {
    pub(crate) fn commands(&self) -> impl Iterator<Item = Vec<String>> {
        let processes = self.sockets.div_ceil(CROWD_EACH);
        (0..processes).map(move |process| {
            let sockets = (self.sockets - process * CROWD_EACH).min(CROWD_EACH);
            vec!["crowd".to_owned(), process.to_string(), sockets.to_string()]
        })
    }
}

/// Processes that hold sockets until this is dropped.
pub(crate) struct Holders(Vec<Child>);

impl Holders {
    /// Starts `hold` with each of these arguments. All have their sockets when this returns.
    pub(crate) fn start(commands: impl Iterator<Item = Vec<String>>) -> Result<Self> {
        let own = own()?;
        let mut holders = Self(Vec::new());
        for arguments in commands {
            let mut command = Command::new(&own);
            command.arg("hold").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
            holders.0.push(command.spawn().context("cannot start a holder of sockets")?);
        }
        for holder in &mut holders.0 {
            let stdout = holder.stdout.as_mut().context("a holder has no output")?;
            let ready = stdout.read_exact(&mut [0]);
            ready.context("a holder of sockets ended before it had them")?;
        }
        Ok(holders)
    }
}

impl Drop for Holders {
    fn drop(&mut self) {
        for holder in &mut self.0 {
            drop(holder.stdin.take()); // for which it waits
        }
        for holder in &mut self.0 {
            let _ = holder.wait();
        }
    }
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

/// Makes the sockets, says so, and has them until its input ends.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut held = Held::new()?;
    match args.what {
        What::Members { first_port } => held.members(first_port)?,
        What::Crowd { number, sockets } => held.crowd(number, sockets)?,
    }
    let mut stdout = std::io::stdout();
    stdout.write_all(b"\n").and_then(|()| stdout.flush()).context("nobody waits for it")?;
    std::io::stdin().read_to_end(&mut Vec::new()).context("cannot wait")?;
    Ok(())
}

struct Held {
    epoll: OwnedFd,
    sockets: Vec<OwnedFd>,
}

impl Held {
    fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, sockets: Vec::new() })
    }

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
            for listener in bind(port).listeners(1)? {
                self.hold(listener)?;
            }
        }
        for socket in bind(last).udp_sockets(1)? {
            self.hold(socket)?;
        }
        Ok(())
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
            // No end of it shall be left in TIME_WAIT.
            sockopt::set_socket_linger(&client, Some(std::time::Duration::ZERO))?;
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
