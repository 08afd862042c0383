//! The descriptor of a map of sockets.

use std::os::fd::{AsFd, BorrowedFd};

use crate::maps::data::MapData;

/// The descriptor of a [`SockMap`](super::SockMap) or [`SockHash`](super::SockHash).
#[derive(Debug)]
pub struct SockMapFd<'a>(pub(super) &'a MapData);

impl AsFd for SockMapFd<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
