//! Why an operation on a program, a link or a group of sockets failed.

use std::io;

use aya_obj::VerifierLog;
use aya_obj::btf::BtfError;
use thiserror::Error;

use super::log::end_of;
use super::map::MapError;
use super::pin::PinError;
use crate::hint::Hint;
use crate::sys::{ENOTSUPP, SyscallError};

/// An operation on a program failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// The program is loaded already: it is loaded once, and may be attached many times.
    #[error("the program is already loaded")]
    AlreadyLoaded,
    /// The program must be loaded first.
    #[error("the program is not loaded: call `load` first")]
    NotLoaded,
    /// The program does not hold this link.
    #[error("the program is not attached")]
    NotAttached,
    /// The kernel refused the program.
    #[error("the BPF_PROG_LOAD syscall failed")]
    LoadError {
        /// The kernel's error.
        #[source]
        io_error: io::Error,
        /// The verifier's log. [`hint`](Self::hint) has its end.
        verifier_log: VerifierLog,
    },
    /// The kernel has no programs of this type: it refuses even one that does nothing.
    #[error("this kernel has no programs of type {program_type} (Linux {since})")]
    Unsupported {
        /// The type, as sections of objects name it.
        program_type: &'static str,
        /// The first kernel version that has it.
        since: &'static str,
        /// The kernel's error.
        #[source]
        io_error: io::Error,
    },
    /// A system call failed.
    #[error(transparent)]
    SyscallError(#[from] SyscallError),
    /// The program is of another type than the one asked for, or of one that this crate does not
    /// load.
    #[error("unexpected program type")]
    UnexpectedProgramType,
    /// An operation on a map failed.
    #[error(transparent)]
    MapError(#[from] MapError),
    /// Attaching to a group of sockets, or detaching, failed.
    #[error(transparent)]
    SkReuseportError(#[from] SkReuseportError),
    /// The kernel's types lack what the program needs.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The name has a zero byte.
    #[error("the program name `{name}` is invalid")]
    InvalidName {
        /// The name.
        name: String,
    },
    /// Reading or writing a file failed.
    #[error(transparent)]
    IOError(#[from] io::Error),
    /// A pinned program was not opened.
    #[error(transparent)]
    PinError(PinError),
    /// An operation on a link failed.
    #[error(transparent)]
    LinkError(#[from] LinkError),
}

impl From<PinError> for ProgramError {
    /// A system call that failed remains a [`SyscallError`], as with aya.
    fn from(error: PinError) -> Self {
        match error {
            PinError::SyscallError(error) => Self::SyscallError(error),
            error => Self::PinError(error),
        }
    }
}

impl ProgramError {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::LoadError { io_error, verifier_log } => {
                hint_for_loading(io_error, end_of(verifier_log))
            }
            Self::SyscallError(error) => error.hint(),
            Self::MapError(error) => error.hint(),
            Self::SkReuseportError(error) => error.hint(),
            Self::PinError(error) => error.hint(),
            Self::LinkError(error) => error.hint(),
            _ => None,
        }
    }
}

/// What to do where the kernel does not load a program. `output` is the end of the verifier's
/// output.
fn hint_for_loading(error: &io::Error, output: String) -> Option<Hint> {
    Some(match error.raw_os_error()? {
        libc::EPERM => Hint::CapBpfOrPerfmon,
        libc::E2BIG => Hint::TooComplex { output },
        libc::EACCES => Hint::Verifier { output },
        libc::ENOSYS => Hint::NoBpf,
        _ if !output.is_empty() => Hint::Verifier { output },
        _ => return None,
    })
}

/// Attaching a program to a group of sockets, or detaching it, failed.
#[derive(Debug, Error)]
pub enum SkReuseportError {
    /// The kernel refused the socket option.
    #[error("setsockopt {option} failed")]
    SetsockoptError {
        /// The socket option.
        option: &'static str,
        /// The kernel's error.
        #[source]
        io_error: io::Error,
    },
}

impl SkReuseportError {
    const ATTACH: &str = "SO_ATTACH_REUSEPORT_EBPF";
    const DETACH: &str = "SO_DETACH_REUSEPORT_BPF";

    pub(crate) fn attaching(io_error: io::Error) -> Self {
        Self::SetsockoptError { option: Self::ATTACH, io_error }
    }

    pub(crate) fn detaching(io_error: io::Error) -> Self {
        Self::SetsockoptError { option: Self::DETACH, io_error }
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<Hint> {
        let Self::SetsockoptError { option, io_error } = self;
        match *option {
            Self::ATTACH => hint_for_attaching(io_error),
            Self::DETACH => hint_for_detaching(io_error),
            _ => None,
        }
    }
}

/// What to do where a socket refuses a program.
fn hint_for_attaching(error: &io::Error) -> Option<Hint> {
    Some(match error.raw_os_error()? {
        libc::EINVAL => Hint::NotInGroup,
        libc::EPERM => Hint::FilterLocked,
        ENOTSUPP | libc::EOPNOTSUPP => Hint::NotSteered,
        _ => return None,
    })
}

/// What to do where a socket has no program to detach.
fn hint_for_detaching(error: &io::Error) -> Option<Hint> {
    Some(match error.raw_os_error()? {
        libc::ENOENT => Hint::NothingAttached,
        libc::ENOPROTOOPT => Hint::NoDetach,
        libc::EINVAL => Hint::NoReuseport,
        _ => return None,
    })
}

/// An operation on a link failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LinkError {
    /// What was opened is no link.
    #[error("not a link")]
    InvalidLink,
    /// A system call failed.
    #[error(transparent)]
    SyscallError(#[from] SyscallError),
    /// A pinned link was not opened.
    #[error(transparent)]
    PinError(PinError),
}

impl From<PinError> for LinkError {
    /// A system call that failed remains a [`SyscallError`], as with aya.
    fn from(error: PinError) -> Self {
        match error {
            PinError::SyscallError(error) => Self::SyscallError(error),
            error => Self::PinError(error),
        }
    }
}

impl LinkError {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::InvalidLink => None,
            Self::SyscallError(error) => error.hint(),
            Self::PinError(error) => error.hint(),
        }
    }
}
