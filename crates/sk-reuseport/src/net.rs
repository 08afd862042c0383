//! Binds several sockets to one address so that they form a group.
//!
//! `SO_REUSEPORT` must be set before bind(2) on every socket, and with port 0 all sockets must use
//! the port of the first. The standard library's `TcpListener::bind` can do neither.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::net::{self, AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use crate::sys;

/// Binds a group of sockets.
///
/// # Minimum kernel version
///
/// Linux 3.9.
///
/// # Examples
///
/// ```
/// use sk_reuseport::net::Bind;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listeners = Bind::new("127.0.0.1:0".parse()?).backlog(1024).listeners(4)?;
/// let port = listeners[0].local_addr()?.port();
/// assert!(listeners.iter().all(|l| l.local_addr().is_ok_and(|a| a.port() == port)));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[doc(alias = "SO_REUSEPORT")]
pub struct Bind {
    address: SocketAddr,
    v6only: Option<bool>,
    device: Option<String>,
    backlog: i32,
    close_on_exec: bool,
    nonblocking: bool,
}

impl Bind {
    /// Binds to this address. With port 0 the kernel chooses a port, the same for all sockets.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            v6only: None,
            device: None,
            backlog: 4096,
            close_on_exec: true,
            nonblocking: false,
        }
    }

    /// Whether an IPv6 socket refuses IPv4 traffic: `net.ipv6.bindv6only` by default. Sockets that
    /// differ in this form different groups.
    #[doc(alias = "IPV6_V6ONLY")]
    pub fn v6only(mut self, v6only: bool) -> Self {
        self.v6only = Some(v6only);
        self
    }

    /// Receives traffic of one network device only. Sockets bound to another device, or to none,
    /// form another group.
    #[doc(alias = "SO_BINDTODEVICE")]
    pub fn device(mut self, name: impl Into<String>) -> Self {
        self.device = Some(name.into());
        self
    }

    /// The number of connections that may wait to be accepted at each listener: 4096 by default,
    /// and at most `net.core.somaxconn`.
    pub fn backlog(mut self, connections: i32) -> Self {
        self.backlog = connections;
        self
    }

    /// Whether the sockets are closed on exec: true by default.
    pub fn close_on_exec(mut self, close: bool) -> Self {
        self.close_on_exec = close;
        self
    }

    /// Whether the sockets are non-blocking, as asynchronous runtimes need them: false by default.
    pub fn nonblocking(mut self, nonblocking: bool) -> Self {
        self.nonblocking = nonblocking;
        self
    }

    /// Binds `count` TCP listeners. Each gets its share of the connections from the moment it
    /// listens.
    ///
    /// # Errors
    ///
    /// The kernel's: `EADDRINUSE` if a socket without `SO_REUSEPORT`, or of another user, has the
    /// address. All sockets are closed then.
    pub fn listeners(&self, count: usize) -> io::Result<Vec<TcpListener>> {
        self.sockets(
            count,
            SocketType::STREAM,
            |socket| {
                net::listen(&socket, self.backlog)?;
                Ok(TcpListener::from(socket))
            },
            TcpListener::local_addr,
        )
    }

    /// Binds `count` UDP sockets.
    ///
    /// # Errors
    ///
    /// As [`listeners`](Self::listeners).
    pub fn udp_sockets(&self, count: usize) -> io::Result<Vec<UdpSocket>> {
        self.sockets(
            count,
            SocketType::DGRAM,
            |socket| Ok(UdpSocket::from(socket)),
            UdpSocket::local_addr,
        )
    }

    fn sockets<S>(
        &self,
        count: usize,
        socket_type: SocketType,
        finish: impl Fn(OwnedFd) -> io::Result<S>,
        local_addr: impl Fn(&S) -> io::Result<SocketAddr>,
    ) -> io::Result<Vec<S>> {
        let mut address = self.address;
        let mut sockets = Vec::with_capacity(count);
        for _ in 0..count {
            let socket = finish(self.bound(socket_type, address)?)?;
            if address.port() == 0 {
                address.set_port(local_addr(&socket)?.port());
            }
            sockets.push(socket);
        }
        Ok(sockets)
    }

    /// One socket with every option set before it is bound.
    fn bound(&self, socket_type: SocketType, address: SocketAddr) -> io::Result<OwnedFd> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let protocol = if socket_type == SocketType::STREAM { ipproto::TCP } else { ipproto::UDP };
        let mut flags = SocketFlags::empty();
        flags.set(SocketFlags::CLOEXEC, self.close_on_exec);
        flags.set(SocketFlags::NONBLOCK, self.nonblocking);
        let socket = net::socket_with(family, socket_type, flags, Some(protocol))?;
        sockopt::set_socket_reuseport(&socket, true)?;
        if socket_type == SocketType::STREAM {
            // As the standard library does, so that a restart need not wait for old connections.
            sockopt::set_socket_reuseaddr(&socket, true)?;
        }
        if let (Some(v6only), AddressFamily::INET6) = (self.v6only, family) {
            sockopt::set_ipv6_v6only(&socket, v6only)?;
        }
        if let Some(device) = &self.device {
            sys::bind_to_device(socket.as_fd(), device)?;
        }
        net::bind(&socket, &address)?;
        Ok(socket)
    }
}
