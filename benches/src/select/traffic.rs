//! A group on loopback and its traffic: one thread sends a lap and then receives it. Sending on loopback
//! runs all of the way to the receiver's queue, the program included.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::libc::{in_addr, in_pktinfo};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::net::{RecvFlags, SendFlags, accept, getsockname, recv, send, sockopt};
use sk_reuseport::net::Bind;
use test_support::loopback;

use crate::stats::median;

/// Datagrams or connections to a lap: what one member's buffer holds, should all go there.
const LAP: usize = 128;
/// Laps to a measurement.
const LAPS: usize = 5;
/// Flows of [`Traffic::Hot`].
const CONNECTED: usize = 64;
const DATAGRAM: [u8; 64] = [0; 64];

/// What is sent to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Traffic {
    /// Datagrams from a few connected sockets: the least that a datagram can cost, and so the strictest
    /// comparison. For few members only: the kernel's hash would leave most members idle.
    Hot,
    /// Each datagram of another flow, by its source address (127.0.0.0/8), through one socket, which
    /// looks up a route each time. The kernel's hash then spreads datagrams over as many members as
    /// round-robin does, and members that are not in the cache cost both the same.
    Scattered,
    /// Connections, which are made, accepted and closed.
    Connections,
}

/// Members with traffic to them.
pub(super) struct Group {
    pub(super) members: Vec<OwnedFd>,
    /// Datagrams and connections until now.
    pub(super) arrived: u64,
    pub(super) traffic: Traffic,
    address: SocketAddrV4,
    senders: Vec<UdpSocket>,
    /// Both ends of this lap's connections.
    open: Vec<OwnedFd>,
    epoll: OwnedFd,
}

impl Group {
    pub(super) fn new(traffic: Traffic, members: usize) -> Result<Self> {
        let bind = Bind::new(loopback(false)).nonblocking(true);
        let members: Vec<OwnedFd> = match traffic {
            Traffic::Connections => bind.listeners(members)?.into_iter().map(Into::into).collect(),
            _ => bind.udp_sockets(members)?.into_iter().map(Into::into).collect(),
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, member) in (0..).zip(&members) {
            epoll::add(&epoll, member, epoll::EventData::new_u64(index), epoll::EventFlags::IN)?;
            if traffic != Traffic::Connections {
                sockopt::set_socket_recv_buffer_size_force(member, LAP * 1024)?;
            }
        }
        let address: SocketAddrV4 = getsockname(&members[0])?.try_into()?;
        let connected = |_| {
            let socket = UdpSocket::bind(loopback(false))?;
            socket.connect(address).map(|()| socket)
        };
        let senders = match traffic {
            Traffic::Hot => (0..CONNECTED).map(connected).collect::<Result<_, _>>()?,
            _ => vec![UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?],
        };
        Ok(Self { members, arrived: 0, traffic, address, senders, open: Vec::new(), epoll })
    }

    /// The nanoseconds of a datagram or connection in the median lap, after a first lap to warm up.
    pub(super) fn measure(&mut self) -> Result<f64> {
        self.lap()?;
        let laps = (0..LAPS).map(|_| self.lap()).collect::<Result<Vec<_>>>()?;
        Ok(median(&laps))
    }

    pub(super) fn lap(&mut self) -> Result<f64> {
        let start = Instant::now();
        self.send()?;
        self.receive()?;
        Ok(start.elapsed().as_nanos() as f64 / LAP as f64)
    }

    /// Sends a lap's datagrams, or makes its connections.
    pub(super) fn send(&mut self) -> Result<()> {
        for _ in 0..LAP {
            let sender = &self.senders[self.arrived as usize % self.senders.len()];
            match self.traffic {
                Traffic::Hot => _ = send(sender, &DATAGRAM, SendFlags::empty())?,
                Traffic::Scattered => {
                    let source = &[ControlMessage::Ipv4PacketInfo(&source(self.arrived as u16))];
                    let (data, to) = ([IoSlice::new(&DATAGRAM)], SockaddrIn::from(self.address));
                    sendmsg(sender.as_raw_fd(), &data, source, MsgFlags::empty(), Some(&to))?;
                }
                Traffic::Connections => {
                    let client = TcpStream::connect(self.address)?;
                    // Closing resets the connection, which leaves none in TIME_WAIT.
                    sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
                    self.open.push(client.into());
                }
            }
            self.arrived += 1;
        }
        Ok(())
    }

    /// Receives a lap, one datagram or connection for each event of epoll, so that it does not matter
    /// how many wait at one member. Closes connections.
    pub(super) fn receive(&mut self) -> Result<()> {
        let (mut received, mut buffer, mut events) = (0, DATAGRAM, Vec::with_capacity(64));
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        while received < LAP {
            events.clear();
            epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&second))?;
            ensure!(!events.is_empty(), "{received} of {LAP} arrived");
            for event in &events {
                let member = &self.members[event.data.u64() as usize];
                match self.traffic {
                    Traffic::Connections => self.open.push(accept(member)?),
                    _ => _ = recv(member, &mut buffer, RecvFlags::DONTWAIT)?,
                }
            }
            received += events.len();
        }
        self.open.clear();
        Ok(())
    }
}

/// The source address of a flow, 127.1.0.0 and following.
fn source(flow: u16) -> in_pktinfo {
    let address = |bits: u32| in_addr { s_addr: bits.to_be() };
    let source = address(0x7f01_0000 + u32::from(flow));
    in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: address(0) }
}
