//! Real servers as children of the test, each with its own configuration. They listen when `start`
//! returns, and are ended and reaped when dropped. Their output is shown if the test fails.
//!
//! They listen on 127.0.0.1, on a port that was free. That is safe inside
//! [`crate::netns::isolated`], where no other test can take it.

mod daemon;
mod gunicorn;
mod haproxy;
mod nginx;
mod proc;
mod unbound;

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

pub use daemon::Daemon;
pub use gunicorn::Gunicorn;
pub use haproxy::Haproxy;
pub use nginx::Nginx;
pub use proc::{Transport, bound_sockets, bound_sockets_here, open_descriptors};
pub use unbound::Unbound;

/// A port that is free for TCP and UDP on 127.0.0.1 in this network namespace.
///
/// # Panics
///
/// If there is none.
pub fn free_port() -> u16 {
    let free = || {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        let port = tcp.local_addr().ok()?.port();
        UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok().map(|_| port)
    };
    // A port that is free for TCP may be taken for UDP: try several.
    (0..100).find_map(|_| free()).unwrap_or_else(|| panic!("no port is free on 127.0.0.1"))
}
