//! A loaded program's descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::error::PinError;
use crate::pin;

/// A loaded program's descriptor. The kernel unloads a program when its last descriptor, pin and
/// attachment are gone.
#[derive(Debug)]
pub struct ProgramFd(pub(crate) OwnedFd);

impl ProgramFd {
    /// Pins the program: it outlives this process, until the pin is removed.
    ///
    /// # Errors
    ///
    /// If the path exists or is not on a bpffs.
    pub fn pin<P: AsRef<Path>>(&self, path: P) -> Result<(), PinError> {
        pin::pin(self.0.as_fd(), path.as_ref())
    }

    /// A second descriptor of the same program.
    ///
    /// # Errors
    ///
    /// If the process has too many descriptors open.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

impl AsFd for ProgramFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
