//! Datagrams over loopback to groups of different sizes, and what each costs under each variant.
//!
//! One thread sends a lap's datagrams and then receives them. Sending on loopback runs all of the way
//! to the receiver's queue, the program included.
//!
//! Two kinds of traffic, see [`Traffic`]. In both, one datagram is received for each event of epoll, so
//! that it does not matter how many wait at one member.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use aya::sys::{Stats, enable_stats};
use nix::libc::{in_addr, in_pktinfo};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};
use sk_reuseport::net::{Bind, loopback};

use super::programs::{Programs, Variant};

/// Datagrams to a lap: what one member's buffer holds, should all go there.
const LAP: usize = 256;
/// Flows of [`Traffic::Scattered`].
const FLOWS: u32 = 1 << 16;
/// Flows of [`Traffic::Hot`].
const CONNECTED: usize = 64;
/// Laps to a measurement, of which the median counts, after one that nobody times.
const LAPS: usize = 3;
/// Bytes of a datagram.
const PAYLOAD: usize = 64;

/// What a datagram costs, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// Until it is in a member's queue.
    pub(super) sent: f64,
    /// Until it is received.
    pub(super) whole: f64,
}

/// What is sent to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Traffic {
    /// From a few connected sockets: the least that a datagram can cost, and so the strictest
    /// comparison. For few members only: most would get nothing from the kernel's hash.
    Hot,
    /// Each of another flow, by its source address (all of 127.0.0.0/8 is ours to send from), through
    /// one socket, which looks up a route each time. The kernel's hash then spreads datagrams over as
    /// many members as round-robin does, and members that are not in the cache cost both the same.
    Scattered,
}

enum Senders {
    Hot { sockets: Vec<UdpSocket>, next: usize },
    Scattered { socket: UdpSocket, to: SockaddrIn, next: u32 },
}

/// A group with traffic to it.
pub(super) struct Group {
    traffic: Traffic,
    members: Vec<UdpSocket>,
    senders: Senders,
    epoll: OwnedFd,
    programs: Programs,
    /// By variant: datagrams that were sent under it.
    dealt: Vec<u64>,
}

impl Group {
    pub(super) fn new(members: usize, traffic: Traffic) -> Result<Self> {
        let members = Bind::new(loopback(false)).nonblocking(true).udp_sockets(members)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, member) in (0..).zip(&members) {
            sockopt::set_socket_recv_buffer_size_force(member, LAP * 1024)?;
            epoll::add(&epoll, member, epoll::EventData::new_u64(index), epoll::EventFlags::IN)?;
        }
        let senders = Senders::new(traffic, members[0].local_addr()?)?;
        let programs = Programs::load(&members, members[0].local_addr()?, 17)?;
        let dealt = vec![0; Variant::ALL.len()];
        Ok(Self { traffic, members, senders, epoll, programs, dealt })
    }

    pub(super) fn traffic(&self) -> Traffic {
        self.traffic
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// What a datagram costs under the variant with this index.
    pub(super) fn measure(&mut self, variant: usize) -> Result<Cost> {
        self.programs.attach(variant, &self.members[0])?;
        self.lap(variant)?;
        let mut costs = (0..LAPS).map(|_| self.lap(variant)).collect::<Result<Vec<Cost>>>()?;
        costs.sort_unstable_by(|one, other| one.whole.total_cmp(&other.whole));
        Ok(costs[LAPS / 2])
    }

    /// How long the variant's program runs for a datagram, in nanoseconds, by the kernel's own
    /// count. The kernel looks at the clock before and after, which is in it.
    pub(super) fn measure_program(&mut self, variant: usize) -> Result<f64> {
        self.programs.attach(variant, &self.members[0])?;
        self.lap(variant)?;
        let counting = enable_stats(Stats::RunTime).context("cannot count programs' runs")?;
        let (time, count) = self.programs.ran(variant)?;
        self.send_lap(variant)?;
        let (time_after, count_after) = self.programs.ran(variant)?;
        drop(counting);
        self.receive_lap()?;
        Ok((time_after - time) as f64 / (count_after - count).max(1) as f64)
    }

    /// Refuses the measurements if a program did not pick whenever it should have.
    pub(super) fn check(&self) -> Result<()> {
        let mut dealt = self.dealt.iter().enumerate();
        dealt.try_for_each(|(variant, dealt)| self.programs.check_picks(variant, *dealt))
    }

    fn lap(&mut self, variant: usize) -> Result<Cost> {
        let start = Instant::now();
        self.send_lap(variant)?;
        let sent = start.elapsed();
        self.receive_lap()?;
        let whole = start.elapsed();
        let each = |time: std::time::Duration| time.as_nanos() as f64 / LAP as f64;
        Ok(Cost { sent: each(sent), whole: each(whole) })
    }

    fn send_lap(&mut self, variant: usize) -> Result<()> {
        for _ in 0..LAP {
            self.senders.send()?;
        }
        self.dealt[variant] += LAP as u64;
        Ok(())
    }

    fn receive_lap(&self) -> Result<()> {
        let mut events = Vec::with_capacity(64);
        let mut payload = [0; PAYLOAD];
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        let mut received = 0;
        while received < LAP {
            events.clear();
            epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&second))?;
            if events.is_empty() {
                bail!("{received} of {LAP} datagrams arrived");
            }
            for event in &events {
                let member = &self.members[event.data.u64() as usize];
                recv(member, &mut payload, RecvFlags::DONTWAIT)?;
            }
            received += events.len();
        }
        Ok(())
    }
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
        const DATAGRAM: [u8; PAYLOAD] = [0; PAYLOAD];

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
