//! Real servers, as children of the test: started with a configuration of their own, listening when
//! `start` returns, ended and reaped when dropped. What they print is shown if the test fails.
//!
//! They listen on 127.0.0.1, on a port that was free. That is safe within
//! [`crate::netns::isolated`], where nobody else takes it meanwhile.

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

/// A port that nobody in this network namespace uses on 127.0.0.1, for TCP or UDP.
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
    // A port that is free for TCP may be taken for UDP: look at a few.
    (0..100).find_map(|_| free()).unwrap_or_else(|| panic!("no port is free on 127.0.0.1"))
}
