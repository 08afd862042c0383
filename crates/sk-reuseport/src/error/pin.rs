//! Why an object was not pinned, or a pin not opened.

use std::ffi::NulError;
use std::path::PathBuf;

use thiserror::Error;

use crate::hint::Hint;
use crate::sys::SyscallError;

/// An object was not pinned, or a pinned one not opened.
#[derive(Error, Debug)]
pub enum PinError {
    /// The object has not been loaded, so there is nothing to pin.
    #[error("the BPF object `{name}` is not loaded: load it before pinning it")]
    NoFd {
        /// The object's name.
        name: String,
    },
    /// The path contains a zero byte.
    #[error("invalid pin path `{}`", path.display())]
    InvalidPinPath {
        /// The path.
        path: PathBuf,
        /// Where the zero byte is.
        #[source]
        error: NulError,
    },
    /// The kernel refused.
    #[error(transparent)]
    SyscallError(#[from] SyscallError),
}

impl PinError {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::SyscallError(error) => error.hint(),
            Self::NoFd { .. } | Self::InvalidPinPath { .. } => None,
        }
    }
}
