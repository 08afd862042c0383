//! Maps of sockets: what programs select from.

mod reuseport_sock_array;
mod sock_hash;
mod sock_map;

use std::os::fd::{AsFd, BorrowedFd};

pub use reuseport_sock_array::ReusePortSockArray;
pub use sock_hash::SockHash;
pub use sock_map::SockMap;

use super::MapData;

/// The descriptor of a [`SockMap`] or [`SockHash`].
#[derive(Debug)]
pub struct SockMapFd<'a>(&'a MapData);

impl AsFd for SockMapFd<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
