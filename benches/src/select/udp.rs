//! Datagrams over loopback to groups of different sizes.
//!
//! One thread sends a lap's datagrams and then receives them. Sending on loopback runs all of the way
//! to the receiver's queue, the program included.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::sys::{Stats, enable_stats};
use nix::libc::{in_addr, in_pktinfo};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};
use sk_reuseport::net::{Bind, loopback};

use super::lap::{Watched, median_lap};
use super::programs::{Programs, Protocol, Variants};
use crate::stats::turns;

/// Datagrams to a lap: what one member's buffer holds, should all go there.
const LAP: usize = 256;
/// Laps to a measurement.
const LAPS: usize = 3;
/// Flows of [`Traffic::Scattered`].
const FLOWS: u32 = 1 << 16;
/// Flows of [`Traffic::Hot`].
const CONNECTED: usize = 64;
const DATAGRAM: [u8; 64] = [0; 64];

/// What is sent to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Traffic {
    /// From a few connected sockets: the least that a datagram can cost, and so the strictest
    /// comparison. For few members only: the kernel's hash would leave most members idle.
    Hot,
    /// Each datagram of another flow, by its source address (127.0.0.0/8), through one socket, which
    /// looks up a route each time. The kernel's hash then spreads datagrams over as many members as
    /// round-robin does, and members that are not in the cache cost both the same.
    Scattered,
}

/// Nanoseconds per datagram, round by round.
#[derive(Default)]
pub(super) struct Costs {
    /// Until it is in a member's queue.
    pub(super) sent: Vec<f64>,
    /// Until it is received.
    pub(super) whole: Vec<f64>,
    /// The program's running time, by the kernel's own count.
    pub(super) program: Vec<f64>,
}

/// A group with traffic to it, and what its datagrams cost.
pub(super) struct Group {
    pub(super) traffic: Traffic,
    pub(super) members: Vec<UdpSocket>,
    /// In the order of the variants.
    pub(super) costs: Vec<Costs>,
    senders: Senders,
    watched: Watched,
    programs: Programs,
}

impl Group {
    pub(super) fn new(members: usize, traffic: Traffic, variants: &Variants<'_>) -> Result<Self> {
        let members = Bind::new(loopback(false)).nonblocking(true).udp_sockets(members)?;
        for member in &members {
            sockopt::set_socket_recv_buffer_size_force(member, LAP * 1024)?;
        }
        let address = members[0].local_addr()?;
        Ok(Self {
            traffic,
            costs: variants.iter().map(|_| Costs::default()).collect(),
            senders: Senders::new(traffic, address)?,
            watched: Watched::new(&members)?,
            programs: Programs::load(&members, address, Protocol::Udp, variants)?,
            members,
        })
    }

    /// Measures each variant once. The first has no program.
    pub(super) fn round(&mut self, round: usize) -> Result<()> {
        for variant in turns(round, self.costs.len()) {
            self.programs.attach(variant, &self.members[0])?;
            let (sent, whole) = median_lap(LAPS, |cost: &(f64, f64)| cost.1, || self.lap())?;
            self.costs[variant].sent.push(sent);
            self.costs[variant].whole.push(whole);
        }
        for variant in turns(round, self.costs.len()).filter(|variant| *variant != 0) {
            let program = self.time_program(variant)?;
            self.costs[variant].program.push(program);
        }
        Ok(())
    }

    /// Refuses the measurements if a program did not pick whenever it should have.
    pub(super) fn check(&self) -> Result<()> {
        self.programs.check()
    }

    /// Nanoseconds until a datagram is in a member's queue, and until it is received.
    fn lap(&mut self) -> Result<(f64, f64)> {
        let start = Instant::now();
        self.send_lap()?;
        let sent = start.elapsed();
        self.receive_lap()?;
        let each = |time: Duration| time.as_nanos() as f64 / LAP as f64;
        Ok((each(sent), each(start.elapsed())))
    }

    /// The kernel's own count of a program's running time in nanoseconds, which includes two looks at the clock.
    pub(super) fn time_program(&mut self, variant: usize) -> Result<f64> {
        self.programs.attach(variant, &self.members[0])?;
        self.lap()?;
        let counting = enable_stats(Stats::RunTime).context("cannot count programs' runs")?;
        let (time, count) = self.programs.ran()?;
        self.send_lap()?;
        let (time_after, count_after) = self.programs.ran()?;
        drop(counting);
        self.receive_lap()?;
        Ok((time_after - time) as f64 / (count_after - count).max(1) as f64)
    }

    fn send_lap(&mut self) -> Result<()> {
        for _ in 0..LAP {
            self.senders.send()?;
        }
        self.programs.arrive(LAP);
        Ok(())
    }

    fn receive_lap(&self) -> Result<()> {
        let mut buffer = DATAGRAM;
        self.watched.receive(LAP, |member| {
            recv(&self.members[member], &mut buffer, RecvFlags::DONTWAIT)?;
            Ok(())
        })
    }
}

enum Senders {
    Hot { sockets: Vec<UdpSocket>, next: usize },
    Scattered { socket: UdpSocket, to: SockaddrIn, next: u32 },
}

impl Senders {
    fn new(traffic: Traffic, to: SocketAddr) -> Result<Self> {
        match (traffic, to) {
            (Traffic::Scattered, SocketAddr::V4(to)) => {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
                Ok(Self::Scattered { socket, to: to.into(), next: 0 })
            }
            (_, to) => {
                let connected = || -> Result<UdpSocket> {
                    let socket = UdpSocket::bind(loopback(to.is_ipv6()))?;
                    socket.connect(to)?;
                    Ok(socket)
                };
                let sockets = (0..CONNECTED).map(|_| connected()).collect::<Result<_>>()?;
                Ok(Self::Hot { sockets, next: 0 })
            }
        }
    }

    fn send(&mut self) -> Result<()> {
        match self {
            Self::Hot { sockets, next } => {
                send(&sockets[*next], &DATAGRAM, SendFlags::empty())?;
                *next = (*next + 1) % sockets.len();
            }
            Self::Scattered { socket, to, next } => {
                let source = ControlMessage::Ipv4PacketInfo(&from(*next));
                let payload = [IoSlice::new(&DATAGRAM)];
                sendmsg(socket.as_raw_fd(), &payload, &[source], MsgFlags::empty(), Some(to))?;
                *next = (*next + 1) % FLOWS;
            }
        }
        Ok(())
    }
}

/// The source address of a flow.
fn from(flow: u32) -> in_pktinfo {
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + flow);
    let in_network_order = |address: Ipv4Addr| in_addr { s_addr: address.to_bits().to_be() };
    in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: in_network_order(address),
        ipi_addr: in_network_order(Ipv4Addr::UNSPECIFIED),
    }
}
