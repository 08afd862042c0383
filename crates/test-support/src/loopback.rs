//! Addresses to bind to.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// A loopback address with port 0, for which the kernel chooses a port.
pub fn loopback(v6: bool) -> SocketAddr {
    if v6 {
        SocketAddr::from((Ipv6Addr::LOCALHOST, 0))
    } else {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    }
}
