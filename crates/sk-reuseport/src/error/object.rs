//! Why an object was not loaded.

use std::fmt;
use std::io;
use std::path::PathBuf;

use aya_obj::btf::{BtfError, BtfRelocationError};
use aya_obj::relocation::EbpfRelocationError;
use aya_obj::{ParseError, VerifierLog};
use thiserror::Error;

use super::log::end_of;
use super::map::MapError;
use super::program::ProgramError;
use crate::hint::Hint;

/// An object was not loaded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EbpfError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    FileError {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        error: io::Error,
    },
    /// The data is no BPF object.
    #[error("error parsing BPF object")]
    ParseError(#[from] ParseError),
    /// The data is a BPF object whose parts contradict each other.
    #[error("the BPF object is damaged: {part}")]
    Damaged {
        /// The part that is wrong, as a clause.
        part: &'static str,
    },
    /// The object uses something that this loader does not support.
    #[error("the BPF object uses {what}, which is not supported")]
    Unsupported {
        /// What, with its name in the object.
        what: String,
        /// What to do about it.
        hint: Hint,
    },
    /// A program that is to be loaded refers to something that the object does not define.
    #[error("program `{program}` {of} `{name}`, which is not supported")]
    External {
        /// The program.
        program: String,
        /// The name that it refers to.
        name: String,
        /// What that is the name of.
        of: Extern,
    },
    /// There is no program of this name that this crate loads.
    #[error("the BPF object has no program `{name}`")]
    NoProgram {
        /// The name.
        name: String,
    },
    /// The object has more zeroed data (`.bss`) than a map takes.
    #[error("the BPF object has {zeros} bytes of zeros (.bss); {limit} are the most")]
    TooLarge {
        /// Bytes in sections of zeroed data.
        zeros: u64,
        /// The most that is loaded, in bytes.
        limit: u64,
    },
    /// The data is an ELF file for another machine than BPF.
    #[error("this is an ELF file for another machine (e_machine {machine}), not a BPF object")]
    WrongMachine {
        /// The machine, as ELF numbers them.
        machine: u16,
    },
    /// The object was compiled for the other byte order.
    #[error("the BPF object was compiled for the other byte order")]
    WrongEndianness,
    /// The object does not describe its types, which its maps need.
    #[error("the BPF object does not describe the types of its maps (BTF)")]
    NoTypes,
    /// The object's types, or the kernel's, cannot be used.
    #[error("BTF error")]
    BtfError(#[from] BtfError),
    /// The kernel refused the object's types, which the object needs.
    #[error("the BPF_BTF_LOAD syscall failed")]
    BtfLoadError {
        /// The kernel's error.
        #[source]
        io_error: io::Error,
        /// The kernel's log. [`hint`](Self::hint) has its end.
        verifier_log: VerifierLog,
    },
    /// A function's calls or references to maps cannot be resolved.
    #[error(transparent)]
    RelocationError(#[from] EbpfRelocationError),
    /// The kernel's types lack what the object's programs read.
    #[error(transparent)]
    BtfRelocationError(#[from] BtfRelocationError),
    /// The object needs the kernel's types, and the kernel has none.
    #[error("the object needs the kernel's BTF, which this kernel does not have")]
    NoBTF,
    /// An operation on a map failed.
    #[error(transparent)]
    MapError(#[from] MapError),
    /// An operation on a program failed.
    #[error(transparent)]
    ProgramError(#[from] ProgramError),
}

/// What a program refers to and the object does not define.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Extern {
    /// A value of the kernel's configuration (`__kconfig`).
    Configuration,
    /// A function of the kernel (`__ksym`).
    KernelFunction,
    /// A variable of the kernel (`__ksym`).
    KernelVariable,
    /// Something else: perhaps another object defines it.
    Undefined,
}

impl Extern {
    fn hint(self) -> Hint {
        match self {
            Self::Configuration => Hint::Configuration,
            Self::KernelFunction => Hint::KernelFunction,
            Self::KernelVariable => Hint::KernelVariable,
            Self::Undefined => Hint::Undefined,
        }
    }
}

/// A clause that the name follows.
impl fmt::Display for Extern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configuration => "reads the kernel's configuration (`__kconfig`):",
            Self::KernelFunction => "calls a function of the kernel (`__ksym`):",
            Self::KernelVariable => "reads a variable of the kernel (`__ksym`):",
            Self::Undefined => "refers to what the object does not define:",
        })
    }
}

impl EbpfError {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::ParseError(error) => match error {
                ParseError::ElfError(_) => Some(Hint::NotAnObject),
                ParseError::InvalidMapDefinition { .. } => Some(Hint::MapDefinition),
                ParseError::SymbolNotFound { .. } => Some(Hint::NoGlobal),
                ParseError::InvalidProgramSection { .. } => Some(Hint::Section),
                _ => None,
            },
            Self::NoTypes => Some(Hint::NoTypes),
            Self::Unsupported { hint, .. } => Some(hint.clone()),
            Self::External { of, .. } => Some(of.hint()),
            Self::WrongMachine { .. } => Some(Hint::NotAnObject),
            Self::WrongEndianness => Some(Hint::ByteOrder),
            Self::BtfLoadError { io_error, verifier_log } => {
                hint_for_types(io_error, end_of(verifier_log))
            }
            Self::NoBTF => Some(Hint::NoKernelTypes),
            Self::MapError(error) => error.hint(),
            Self::ProgramError(error) => error.hint(),
            _ => None,
        }
    }
}

/// What to do where the kernel does not load an object's types.
fn hint_for_types(error: &io::Error, output: String) -> Option<Hint> {
    Some(match error.raw_os_error()? {
        libc::EPERM => Hint::CapBpf,
        libc::ENOSYS => Hint::NoBpf,
        _ if !output.is_empty() => Hint::Types { output },
        _ => return None,
    })
}
