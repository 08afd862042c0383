//! Real servers as children of the test, each with its own configuration. They listen when `start`
//! returns, and are ended and reaped when dropped. Their output is shown if the test fails.
//!
//! They listen on 127.0.0.1, on a port that was free. That is safe inside
//! [`crate::netns::isolated`], where no other test can take it.

mod daemon;
mod forking;
mod gunicorn;
mod haproxy;
mod nginx;
mod proc;
mod unbound;

use std::sync::atomic::{AtomicU16, Ordering};

pub use daemon::Daemon;
pub use forking::Forking;
pub use gunicorn::Gunicorn;
pub use haproxy::Haproxy;
pub use nginx::Nginx;
pub use proc::{Transport, bound_sockets, bound_sockets_here, open_descriptors};
pub use unbound::Unbound;

/// A port that no socket of this network namespace is bound to, over TCP or UDP, and that no other
/// call in this process returned.
///
/// It is below the range that the kernel takes source ports from. No socket is opened to find it:
/// a walk over the descriptors of all processes, which other tests do, can keep a closed socket,
/// and so its port, for a moment.
///
/// # Panics
///
/// If there is none.
pub fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    (0..COUNT)
        .map(|_| FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT)
        .find(|&port| !proc::is_used_here(port))
        .unwrap_or_else(|| panic!("no port is free"))
}
