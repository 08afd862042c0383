//! A system call that failed.

use std::io;

use thiserror::Error;

use crate::hint::Hint;

/// A system call failed.
#[derive(Debug, Error)]
#[error("`{call}` failed")]
pub struct SyscallError {
    /// The call that failed: for bpf(2), its command.
    pub call: &'static str,
    /// The kernel's error.
    #[source]
    pub io_error: io::Error,
}

impl SyscallError {
    /// For `map_err`: `.map_err(SyscallError::of(Operation::FreezeMap))`.
    pub(crate) fn of(operation: Operation) -> impl FnOnce(io::Error) -> Self {
        move |io_error| Self { call: operation.name(), io_error }
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<Hint> {
        Operation::named(self.call)?.hint(self.io_error.raw_os_error()?)
    }
}

/// `ENOTSUPP`, a number that the kernel does not document for user space but returns from some
/// calls.
pub(crate) const ENOTSUPP: i32 = 524;

/// The purpose of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Pin,
    OpenPin,
    GetInfo,
    OpenMap,
    OpenProgram,
    LookUp,
    Update,
    /// An update of a map of sockets, whose errors have other reasons.
    StoreSocket,
    Delete,
    NextKey,
    Freeze,
    Bind,
    Map,
    AttachTracepoint,
    AttachIterator,
    OpenIterator,
    AttachCgroup,
}

impl Operation {
    const ALL: [Self; 17] = [
        Self::Pin,
        Self::OpenPin,
        Self::GetInfo,
        Self::OpenMap,
        Self::OpenProgram,
        Self::LookUp,
        Self::Update,
        Self::StoreSocket,
        Self::Delete,
        Self::NextKey,
        Self::Freeze,
        Self::Bind,
        Self::Map,
        Self::AttachTracepoint,
        Self::AttachIterator,
        Self::OpenIterator,
        Self::AttachCgroup,
    ];

    /// The text in [`SyscallError::call`], which is a string for compatibility with aya.
    fn name(self) -> &'static str {
        match self {
            Self::Pin => "BPF_OBJ_PIN",
            Self::OpenPin => "BPF_OBJ_GET",
            Self::GetInfo => "BPF_OBJ_GET_INFO_BY_FD",
            Self::OpenMap => "BPF_MAP_GET_FD_BY_ID",
            Self::OpenProgram => "BPF_PROG_GET_FD_BY_ID",
            Self::LookUp => "BPF_MAP_LOOKUP_ELEM",
            Self::Update => "BPF_MAP_UPDATE_ELEM",
            Self::StoreSocket => "BPF_MAP_UPDATE_ELEM of a socket",
            Self::Delete => "BPF_MAP_DELETE_ELEM",
            Self::NextKey => "BPF_MAP_GET_NEXT_KEY",
            Self::Freeze => "BPF_MAP_FREEZE",
            Self::Bind => "BPF_PROG_BIND_MAP",
            Self::Map => "mmap",
            Self::AttachTracepoint => "BPF_RAW_TRACEPOINT_OPEN",
            Self::AttachIterator => "BPF_LINK_CREATE",
            Self::OpenIterator => "BPF_ITER_CREATE",
            Self::AttachCgroup => "BPF_LINK_CREATE of a cgroup",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }

    fn hint(self, errno: i32) -> Option<Hint> {
        Some(match (self, errno) {
            (Self::StoreSocket, libc::EBUSY) => Hint::SocketTaken,
            (Self::StoreSocket, libc::EINVAL) => Hint::NotBound,
            (Self::StoreSocket, ENOTSUPP | libc::EOPNOTSUPP) => Hint::NotSelected,
            (Self::Pin, libc::EPERM) => Hint::NotBpffs,
            (Self::Pin, libc::EEXIST) => Hint::PinExists,
            (Self::Pin, libc::ENOENT) => Hint::NoDirectory,
            (Self::OpenPin, libc::ENOENT) => Hint::NothingPinned,
            (Self::Pin | Self::OpenPin, libc::EACCES) => Hint::PinForbidden,
            (Self::AttachTracepoint | Self::AttachIterator | Self::OpenIterator, libc::EPERM) => {
                Hint::CapPerfmon
            }
            (Self::Update | Self::Delete, libc::EPERM) => Hint::ReadOnly,
            (Self::Map, libc::EPERM) => Hint::Frozen,
            (Self::Map, libc::EINVAL) => Hint::NotMmapable,
            (Self::OpenMap | Self::OpenProgram, libc::EPERM) => Hint::CapSysAdmin,
            (_, libc::EPERM) => Hint::CapBpf,
            (_, libc::ENOSYS) => Hint::NoBpf,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_is_found_by_the_name_that_errors_carry() {
        for operation in Operation::ALL {
            assert_eq!(Operation::named(operation.name()), Some(operation));
        }
        assert_eq!(Operation::named("read"), None);
    }

    #[test]
    fn an_error_without_a_number_gets_no_advice() {
        let error = SyscallError::of(Operation::Pin)(io::Error::other("made up"));
        assert_eq!(error.hint(), None);
    }
}
