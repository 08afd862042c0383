//! A socket that only an io_uring refers to.

use std::fmt;
use std::os::fd::{AsRawFd as _, OwnedFd};

use io_uring::IoUring;

use crate::process::close;

/// A socket in the file table of an io_uring, without a descriptor. The kernel closes it some time after this
/// is dropped.
pub struct InRing(IoUring);

impl InRing {
    /// Registers the socket and closes the caller's descriptor.
    ///
    /// # Panics
    ///
    /// Where the kernel refuses rings: see [`crate::feature::IO_URING`].
    pub fn register(socket: impl Into<OwnedFd>) -> Self {
        let socket = socket.into();
        let ring = IoUring::new(1).unwrap_or_else(|error| panic!("no ring: {error}"));
        let registered = ring.submitter().register_files(&[socket.as_raw_fd()]);
        registered.unwrap_or_else(|error| panic!("the ring takes no file: {error}"));
        close(socket);
        Self(ring)
    }
}

impl fmt::Debug for InRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InRing").field(&self.0.as_raw_fd()).finish()
    }
}
