//! Pinning: files in a bpffs that keep maps, programs and links alive without a process.
//!
//! Maps, programs and links have a method `pin`; `from_pin` opens a pinned one. Removing the file,
//! by `unpin` or otherwise, removes the pin. Names in a bpffs have no dots, so they cannot be IPv4
//! addresses.

use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

pub use crate::error::PinError;
use crate::sys::{self, Operation, SyscallError};

fn c_path(path: &Path) -> Result<CString, PinError> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|error| PinError::InvalidPinPath { path: path.to_owned(), error })
}

/// Pins an object at a path on a bpffs.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> Result<(), PinError> {
    let c_path = c_path(path)?;
    Ok(sys::bpf_obj_pin(object, &c_path).map_err(SyscallError::of(Operation::Pin))?)
}

/// Opens what is pinned at a path.
pub(crate) fn open(path: &Path) -> Result<OwnedFd, PinError> {
    let c_path = c_path(path)?;
    Ok(sys::bpf_obj_get(&c_path).map_err(SyscallError::of(Operation::OpenPin))?)
}

/// New pins, which are removed on drop unless [`keep`](Self::keep) was called: loading that fails
/// leaves none behind.
#[derive(Debug, Default)]
pub(crate) struct NewPins(Vec<PathBuf>);

impl NewPins {
    pub(crate) fn add(&mut self, path: &Path) {
        self.0.push(path.to_owned());
    }

    /// Keeps the pins, and returns their paths.
    pub(crate) fn keep(mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.0)
    }
}

impl Drop for NewPins {
    fn drop(&mut self) {
        for path in &self.0 {
            // Another process may have removed it, and an error is being reported already.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The kind of BPF object that a descriptor refers to. BPF_OBJ_GET_INFO_BY_FD does not tell them
/// apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectKind {
    Map,
    Program,
    Link,
    /// Not a BPF object, or /proc is not mounted.
    Unknown,
}

pub(crate) fn kind_of(fd: BorrowedFd<'_>) -> ObjectKind {
    use std::os::fd::AsRawFd as _;

    let Ok(target) = std::fs::read_link(format!("/proc/thread-self/fd/{}", fd.as_raw_fd())) else {
        return ObjectKind::Unknown;
    };
    match target.as_os_str().as_bytes() {
        b"anon_inode:bpf-map" => ObjectKind::Map,
        b"anon_inode:bpf-prog" => ObjectKind::Program,
        b"anon_inode:bpf-link" | b"anon_inode:bpf_link" => ObjectKind::Link,
        _ => ObjectKind::Unknown,
    }
}
