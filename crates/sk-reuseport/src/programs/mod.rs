//! Programs: what an object holds and the kernel runs.

mod data;
pub mod info;
pub mod iter;
pub mod links;
pub mod sk_reuseport;
pub mod tp_btf;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya_obj::VerifierLog;
use aya_obj::btf::BtfError;
use thiserror::Error;

pub(crate) use data::{Code, ProgramData, with_log};
pub use info::{ProgramInfo, ProgramType};
pub use iter::Iter;
pub use links::{FdLink, LinkError, PinnedLink};
pub use sk_reuseport::{SkReuseport, SkReuseportAttachType, SkReuseportError};
pub use tp_btf::BtfTracePoint;

use crate::maps::MapError;
use crate::pin::PinError;
use crate::sys::SyscallError;

/// An operation on a program failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// The program is loaded already: it is loaded once, and attached as often as one likes.
    #[error("the program is already loaded")]
    AlreadyLoaded,
    /// The program must be loaded first.
    #[error("the program is not loaded: call `load` first")]
    NotLoaded,
    /// The link is no longer among the program's.
    #[error("the program is not attached")]
    NotAttached,
    /// The kernel refused the program.
    #[error(
        "the BPF_PROG_LOAD syscall returned {io_error}{}{}",
        crate::hint::of_load(io_error),
        telling_end(verifier_log)
    )]
    LoadError {
        /// What it said.
        #[source]
        io_error: io::Error,
        /// The verifier's log. The message shows its end; this has all of it.
        verifier_log: VerifierLog,
    },
    /// A system call failed.
    #[error(transparent)]
    SyscallError(#[from] SyscallError),
    /// The program is of another type than the one asked for, or of one that this crate does not
    /// load.
    #[error("unexpected program type")]
    UnexpectedProgramType,
    /// A map failed.
    #[error(transparent)]
    MapError(#[from] MapError),
    /// Attaching to a group of sockets, or detaching, failed.
    #[error(transparent)]
    SkReuseportError(#[from] SkReuseportError),
    /// The kernel's types did not have what the program needs.
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
    /// A pinned program could not be opened.
    #[error(transparent)]
    PinError(PinError),
    /// A link failed.
    #[error(transparent)]
    LinkError(#[from] LinkError),
}

impl From<PinError> for ProgramError {
    /// What the kernel said remains a [`SyscallError`], as aya has it.
    fn from(error: PinError) -> Self {
        match error {
            PinError::SyscallError(error) => Self::SyscallError(error),
            error => Self::PinError(error),
        }
    }
}

/// The end of the verifier's log, where it says what it objects to.
pub(crate) fn telling_end(log: &VerifierLog) -> String {
    /// The lines that matter are the last instructions and the complaint about them.
    const LINES: usize = 12;

    let text = log.to_string();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        // The statistics that follow the complaint tell nothing about it.
        .filter(|line| {
            !line.is_empty()
                && !["processed ", "verification time", "stack depth"]
                    .iter()
                    .any(|statistic| line.starts_with(statistic))
        })
        .collect();
    if lines.is_empty() {
        return String::new();
    }
    let first = lines.len().saturating_sub(LINES);
    let cut = if first > 0 { "[...]\n" } else { "" };
    format!("\nVerifier output:\n{cut}{}", lines[first..].join("\n"))
}

/// A loaded program's descriptor. The kernel unloads a program when its last descriptor, pin and
/// attachment are gone.
#[derive(Debug)]
pub struct ProgramFd(pub(crate) OwnedFd);

impl ProgramFd {
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

/// A program of an object, by its type.
#[derive(Debug)]
#[non_exhaustive]
pub enum Program {
    /// Selects a socket of a `SO_REUSEPORT` group.
    SkReuseport(SkReuseport),
    /// Runs at a tracepoint, with typed arguments.
    BtfTracePoint(BtfTracePoint),
    /// Lists objects of the kernel.
    Iter(Iter),
    /// A program of a type that this crate does not load.
    Unsupported(UnsupportedProgram),
}

/// A program of a type that this crate does not load: an object may well hold some beside the
/// ones that concern us.
#[derive(Debug)]
pub struct UnsupportedProgram {
    section: String,
}

impl UnsupportedProgram {
    pub(crate) fn new(section: String) -> Self {
        Self { section }
    }

    /// What kind of program its section makes it, for a message to people.
    pub fn section(&self) -> &str {
        &self.section
    }
}

impl Program {
    /// The program's type.
    pub fn prog_type(&self) -> ProgramType {
        match self {
            Self::SkReuseport(_) => ProgramType::SkReuseport,
            Self::BtfTracePoint(_) | Self::Iter(_) => ProgramType::Tracing,
            Self::Unsupported(_) => ProgramType::Unspecified,
        }
    }

    /// The program's descriptor.
    ///
    /// # Errors
    ///
    /// [`ProgramError::NotLoaded`] before it is loaded.
    pub fn fd(&self) -> Result<&ProgramFd, ProgramError> {
        match self {
            Self::SkReuseport(program) => program.fd(),
            Self::BtfTracePoint(program) => program.fd(),
            Self::Iter(program) => program.fd(),
            Self::Unsupported(_) => Err(ProgramError::UnexpectedProgramType),
        }
    }

    /// What the kernel says of the program.
    ///
    /// # Errors
    ///
    /// [`ProgramError::NotLoaded`] before it is loaded.
    pub fn info(&self) -> Result<ProgramInfo, ProgramError> {
        match self {
            Self::SkReuseport(program) => program.info(),
            Self::BtfTracePoint(program) => program.info(),
            Self::Iter(program) => program.info(),
            Self::Unsupported(_) => Err(ProgramError::UnexpectedProgramType),
        }
    }

    /// Pins the program. See [`SkReuseport::pin`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn pin<P: AsRef<std::path::Path>>(&mut self, path: P) -> Result<(), PinError> {
        match self {
            Self::SkReuseport(program) => program.pin(path),
            Self::BtfTracePoint(program) => program.pin(path),
            Self::Iter(program) => program.pin(path),
            Self::Unsupported(program) => Err(PinError::NoFd { name: program.section.clone() }),
        }
    }

    /// Drops this process's descriptor of the program. Detaches nothing.
    ///
    /// # Errors
    ///
    /// [`ProgramError::NotLoaded`] if there is none.
    pub fn unload(&mut self) -> Result<(), ProgramError> {
        match self {
            Self::SkReuseport(program) => program.unload(),
            Self::BtfTracePoint(program) => program.unload(),
            Self::Iter(program) => program.unload(),
            Self::Unsupported(_) => Err(ProgramError::UnexpectedProgramType),
        }
    }
}

/// Conversions from [`Program`], and what all program types have.
macro_rules! impl_program {
    ($($program:ident),+) => {$(
        impl<'a> TryFrom<&'a Program> for &'a $program {
            type Error = ProgramError;

            fn try_from(program: &'a Program) -> Result<Self, ProgramError> {
                match program {
                    Program::$program(program) => Ok(program),
                    _ => Err(ProgramError::UnexpectedProgramType),
                }
            }
        }

        impl<'a> TryFrom<&'a mut Program> for &'a mut $program {
            type Error = ProgramError;

            fn try_from(program: &'a mut Program) -> Result<Self, ProgramError> {
                match program {
                    Program::$program(program) => Ok(program),
                    _ => Err(ProgramError::UnexpectedProgramType),
                }
            }
        }

        impl $program {
            /// The program's descriptor.
            ///
            /// # Errors
            ///
            /// [`ProgramError::NotLoaded`] before it is loaded.
            pub fn fd(&self) -> Result<&ProgramFd, ProgramError> {
                self.data.fd()
            }

            /// What the kernel says of the program: its id, its name, how often it ran.
            ///
            /// # Errors
            ///
            /// [`ProgramError::NotLoaded`] before it is loaded.
            pub fn info(&self) -> Result<ProgramInfo, ProgramError> {
                ProgramInfo::new_from_fd(self.fd()?.as_fd())
            }

            /// Drops this process's descriptor of the program, and with it the links that this
            /// value still holds. The kernel keeps a program that is pinned or attached to a
            /// group of sockets.
            ///
            /// # Errors
            ///
            /// [`ProgramError::NotLoaded`] if there is none.
            pub fn unload(&mut self) -> Result<(), ProgramError> {
                self.data.unload()
            }

            /// Pins the program: it stays loaded until the pin is removed, whatever becomes of
            /// this process. Pinning attaches nothing.
            ///
            /// # Errors
            ///
            /// If the program is not loaded, the path is taken, is not on a bpffs, or has a dot
            /// in its last part.
            pub fn pin<P: AsRef<std::path::Path>>(&mut self, path: P) -> Result<(), PinError> {
                self.data.pin(path.as_ref())
            }

            /// Removes the pin at which this program was pinned or from which it was opened.
            /// Detaches nothing.
            ///
            /// # Errors
            ///
            /// If the file could not be removed; without a known pin nothing is done.
            pub fn unpin(&mut self) -> Result<(), io::Error> {
                self.data.unpin()
            }
        }
    )+};
}

impl_program!(SkReuseport, BtfTracePoint, Iter);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_telling_end_of_a_long_log_is_shown() {
        let mut log: String = (0..100).map(|n| format!("{n}: (b7) r0 = 0\n")).collect();
        log.push_str("R1 invalid mem access 'scalar'\nprocessed 100 insns (limit 1000000)\n");
        let end = telling_end(&VerifierLog::new(log));
        assert!(end.ends_with("R1 invalid mem access 'scalar'"), "{end}");
        assert!(end.lines().count() < 16, "{end}");
        assert!(end.contains("[...]"));
        assert_eq!(telling_end(&VerifierLog::new(String::new())), "");
    }
}
