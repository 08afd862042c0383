//! A program of an object, by its type.

use std::io;
use std::os::fd::AsFd as _;

use super::cgroup_sock::CgroupSock;
use super::fd::ProgramFd;
use super::info::{ProgramInfo, ProgramType};
use super::iter::Iter;
use super::select::SkReuseport;
use super::tp_btf::BtfTracePoint;
use crate::error::{PinError, ProgramError};

/// A program of an object, by its type.
#[derive(Debug)]
#[non_exhaustive]
pub enum Program {
    /// Selects a socket of a `SO_REUSEPORT` group.
    SkReuseport(SkReuseport),
    /// Runs at a tracepoint with typed arguments.
    BtfTracePoint(BtfTracePoint),
    /// Iterates over objects of the kernel.
    Iter(Iter),
    /// Runs when a cgroup's sockets are made, bound or closed.
    CgroupSock(CgroupSock),
    /// A program of a type that this crate does not load.
    Unsupported(UnsupportedProgram),
}

/// A program of a type that this crate does not load. Objects may contain some.
#[derive(Debug)]
pub struct UnsupportedProgram {
    section: String,
}

impl UnsupportedProgram {
    pub(crate) fn new(section: String) -> Self {
        Self { section }
    }

    /// The type of program according to its section, for messages.
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
            Self::CgroupSock(_) => ProgramType::CgroupSock,
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
            Self::CgroupSock(program) => program.fd(),
            Self::Unsupported(_) => Err(ProgramError::UnexpectedProgramType),
        }
    }

    /// The kernel's description of the program.
    ///
    /// # Errors
    ///
    /// [`ProgramError::NotLoaded`] before it is loaded.
    pub fn info(&self) -> Result<ProgramInfo, ProgramError> {
        match self {
            Self::SkReuseport(program) => program.info(),
            Self::BtfTracePoint(program) => program.info(),
            Self::Iter(program) => program.info(),
            Self::CgroupSock(program) => program.info(),
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
            Self::CgroupSock(program) => program.pin(path),
            Self::Unsupported(program) => Err(PinError::NoFd { name: program.section.clone() }),
        }
    }

    /// Closes this process's descriptor of the program. Detaches nothing.
    ///
    /// # Errors
    ///
    /// [`ProgramError::NotLoaded`] if it is not loaded.
    pub fn unload(&mut self) -> Result<(), ProgramError> {
        match self {
            Self::SkReuseport(program) => program.unload(),
            Self::BtfTracePoint(program) => program.unload(),
            Self::Iter(program) => program.unload(),
            Self::CgroupSock(program) => program.unload(),
            Self::Unsupported(_) => Err(ProgramError::UnexpectedProgramType),
        }
    }
}

/// Conversions from [`Program`], and the methods that all program types share.
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

            /// The kernel's description of the program: its id, its name, how often it ran.
            ///
            /// # Errors
            ///
            /// [`ProgramError::NotLoaded`] before it is loaded.
            pub fn info(&self) -> Result<ProgramInfo, ProgramError> {
                ProgramInfo::new_from_fd(self.fd()?.as_fd())
            }

            /// Closes this process's descriptor of the program, and the links that this value still
            /// holds. The kernel keeps a program that is pinned or attached to a group of sockets.
            ///
            /// # Errors
            ///
            /// [`ProgramError::NotLoaded`] if it is not loaded.
            pub fn unload(&mut self) -> Result<(), ProgramError> {
                self.data.unload()
            }

            /// Pins the program: it stays loaded after this process has ended, until the pin is
            /// removed. Pinning attaches nothing.
            ///
            /// # Errors
            ///
            /// If the program is not loaded, or if the path exists, is not on a bpffs, or has a dot
            /// in its last part.
            pub fn pin<P: AsRef<std::path::Path>>(&mut self, path: P) -> Result<(), PinError> {
                self.data.pin(path.as_ref())
            }

            /// Removes the pin that this program was pinned at or opened from. Does nothing if
            /// there is none. Detaches nothing.
            ///
            /// # Errors
            ///
            /// If the file could not be removed.
            pub fn unpin(&mut self) -> Result<(), io::Error> {
                self.data.unpin()
            }
        }
    )+};
}

impl_program!(SkReuseport, BtfTracePoint, Iter, CgroupSock);
