//! Groups of TCP and UDP sockets, and their clients.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, sendto, socket_with,
};
use sk_reuseport::net::Bind;
use test_support::wait::BOUND;

use crate::fixtures::{cookie, ready};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// The protocol number in the IP header.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    fn socket_type(self) -> SocketType {
        match self {
            Self::Tcp => SocketType::STREAM,
            Self::Udp => SocketType::DGRAM,
        }
    }
}

/// The address of a group, and the IP version of its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    LoopbackV4,
    AnyV4,
    LoopbackV6,
    AnyV6,
    /// Bound to any IPv6 and IPv4 address; clients use IPv4.
    AnyV6ReachedByV4,
}

impl Bound {
    pub(crate) fn address(self) -> SocketAddr {
        match self {
            Self::LoopbackV4 => (Ipv4Addr::LOCALHOST, 0).into(),
            Self::AnyV4 => (Ipv4Addr::UNSPECIFIED, 0).into(),
            Self::LoopbackV6 => (Ipv6Addr::LOCALHOST, 0).into(),
            Self::AnyV6 | Self::AnyV6ReachedByV4 => (Ipv6Addr::UNSPECIFIED, 0).into(),
        }
    }

    pub(crate) fn is_any(self) -> bool {
        self.address().ip().is_unspecified()
    }

    /// The address at which clients reach such a group.
    pub(crate) fn reached_at(self, port: u16) -> SocketAddr {
        match self {
            Self::LoopbackV4 | Self::AnyV4 | Self::AnyV6ReachedByV4 => {
                (Ipv4Addr::LOCALHOST, port).into()
            }
            Self::LoopbackV6 | Self::AnyV6 => (Ipv6Addr::LOCALHOST, port).into(),
        }
    }
}

/// A socket of a group.
#[derive(Debug)]
pub(crate) enum Member {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Member {
    /// The members of a new group.
    pub(crate) fn group(protocol: Protocol, address: SocketAddr, count: usize) -> Vec<Self> {
        Self::bind(protocol, &Bind::new(address), count).unwrap()
    }

    /// Binds members with these options.
    pub(crate) fn bind(protocol: Protocol, bind: &Bind, count: usize) -> io::Result<Vec<Self>> {
        Ok(match protocol {
            Protocol::Tcp => bind.listeners(count)?.into_iter().map(Self::Tcp).collect(),
            Protocol::Udp => bind.udp_sockets(count)?.into_iter().map(Self::Udp).collect(),
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Tcp(listener) => listener.local_addr().unwrap(),
            Self::Udp(socket) => socket.local_addr().unwrap(),
        }
    }

    pub(crate) fn cookie(&self) -> u64 {
        cookie(self)
    }

    /// Receives `length` bytes of a connection or a datagram, and waits for them if necessary.
    fn receive(&self, length: usize) -> Vec<u8> {
        match self {
            Self::Tcp(listener) => {
                let (mut connection, _) = listener.accept().unwrap();
                connection.set_read_timeout(Some(BOUND)).unwrap();
                let mut bytes = vec![0; length];
                connection.read_exact(&mut bytes).unwrap();
                bytes
            }
            Self::Udp(socket) => {
                let mut bytes = vec![0; 2048];
                let received = socket.recv(&mut bytes).unwrap();
                bytes.truncate(received);
                bytes
            }
        }
    }
}

impl AsFd for Member {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

impl AsRawFd for Member {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// The member that receives `sent`.
#[track_caller]
pub(crate) fn receiver(members: &[Member], sent: &[u8]) -> usize {
    let member = ready(members, BOUND).expect("the data arrives");
    assert_eq!(members[member].receive(sent.len()), sent);
    assert_eq!(ready(members, Duration::ZERO), None, "only one member receives it");
    member
}

/// A client of a group.
#[derive(Debug)]
pub(crate) struct Client(OwnedFd);

impl Client {
    /// A client that has sent `payload`: a datagram, or, with TCP, data in a SYN.
    /// [`allow_data_in_syns`] goes before that.
    ///
    /// # Errors
    ///
    /// The socket's. A refused datagram is reported by the next call.
    pub(crate) fn send(protocol: Protocol, to: SocketAddr, payload: &[u8]) -> io::Result<Self> {
        const MSG_FASTOPEN: SendFlags = SendFlags::from_bits_retain(0x2000_0000);

        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, protocol.socket_type(), SocketFlags::CLOEXEC, None)?;
        for side in [Timeout::Send, Timeout::Recv] {
            sockopt::set_socket_timeout(&socket, side, Some(BOUND))?;
        }
        if protocol == Protocol::Tcp && !payload.is_empty() {
            sendto(&socket, payload, MSG_FASTOPEN, &to)?;
        } else {
            connect(&socket, &to)?;
            sendto_connected(&socket, protocol, payload)?;
        }
        Ok(Self(socket))
    }

    /// Whether the payload is refused: by TCP while connecting, by UDP with an ICMP message.
    pub(crate) fn is_refused(protocol: Protocol, to: SocketAddr, payload: &[u8]) -> bool {
        let refused = match Self::send(protocol, to, payload) {
            Ok(client) => rustix::net::recv(&client.0, &mut [0; 1][..], RecvFlags::empty())
                .map_err(io::Error::from)
                .map(drop),
            Err(error) => Err(error),
        };
        matches!(refused, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        rustix::net::getsockname(&self.0).unwrap().try_into().unwrap()
    }
}

impl From<Client> for TcpStream {
    fn from(client: Client) -> Self {
        client.0.into()
    }
}

fn sendto_connected(socket: &OwnedFd, protocol: Protocol, payload: &[u8]) -> io::Result<()> {
    if protocol == Protocol::Udp {
        rustix::net::send(socket, payload, SendFlags::empty())?;
    }
    Ok(())
}

/// Enables TCP Fast Open without cookies for clients and for new listeners of this network
/// namespace: TFO_CLIENT_ENABLE, _SERVER_ENABLE, _CLIENT_NO_COOKIE, _SERVER_COOKIE_NOT_REQD and
/// _SERVER_WO_SOCKOPT1 of include/net/tcp.h.
pub(crate) fn allow_data_in_syns() {
    set_sysctl("net/ipv4/tcp_fastopen", 0x1 | 0x2 | 0x4 | 0x200 | 0x400);
}

/// Sets a sysctl of the calling thread's network namespace.
pub(crate) fn set_sysctl(name: &str, value: u32) {
    let path = format!("/proc/sys/{name}");
    std::fs::write(&path, value.to_string()).unwrap_or_else(|error| panic!("{path}: {error}"));
}
