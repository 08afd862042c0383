//! A loaded object: its maps and its programs, and why it could not be loaded.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use aya_obj::ParseError;
use aya_obj::btf::{BtfError, BtfRelocationError};
use aya_obj::relocation::EbpfRelocationError;
use thiserror::Error;

use crate::hint;
use crate::loader::EbpfLoader;
use crate::maps::{Map, MapError};
use crate::programs::{Program, ProgramError};
use crate::sys::{Pod, bytes_of};

bitflags::bitflags! {
    /// How much the verifier tells about a program that it refuses.
    #[derive(Clone, Copy, Debug)]
    pub struct VerifierLogLevel: u32 {
        /// Nothing.
        const DISABLE = 0;
        /// What it objects to, and the way there.
        const DEBUG = 1;
        /// Every state that it looked at.
        const VERBOSE = 2 | Self::DEBUG.bits();
        /// How much work it was.
        const STATS = 4;
    }
}

impl Default for VerifierLogLevel {
    fn default() -> Self {
        Self::DEBUG | Self::STATS
    }
}

/// An object could not be loaded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EbpfError {
    /// A file could not be read.
    #[error("cannot read {}: {error}", path.display())]
    FileError {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It is no BPF object.
    #[error("error parsing BPF object: {}{}", .0, hint::of_parse(.0))]
    ParseError(#[from] ParseError),
    /// It is a BPF object, but says of itself what is not so. (Finding that out may have been a
    /// panic of the parser's, which is caught: a program that is built with `panic = "abort"` ends.)
    #[error("the BPF object is damaged")]
    Damaged,
    /// It has more zeroed data (`.bss`) than any map is made for.
    #[error("the BPF object has {zeros} bytes of zeros (.bss); {limit} are the most")]
    TooLarge {
        /// Bytes of such sections.
        zeros: u64,
        /// The most that is taken.
        limit: u64,
    },
    /// It is an ELF file, but for another machine than BPF.
    #[error(
        "this is an ELF file for another machine (e_machine {machine}), not a BPF object{}",
        hint::OBJECT
    )]
    WrongMachine {
        /// The machine, as ELF numbers them.
        machine: u16,
    },
    /// It was compiled for the other byte order.
    #[error(
        "the BPF object was compiled for the other byte order; compile it with -target bpf on this machine"
    )]
    WrongEndianness,
    /// Its type information, or the kernel's, is at fault.
    #[error("BTF error: {}", hint::of_btf(.0))]
    BtfError(#[from] BtfError),
    /// A function's calls or map references cannot be resolved.
    #[error("error relocating function: {0}")]
    RelocationError(#[from] EbpfRelocationError),
    /// The kernel's types do not have what the object's programs read.
    #[error("error relocating section: {0}")]
    BtfRelocationError(#[from] BtfRelocationError),
    /// The object needs the kernel's types, and the kernel has none.
    #[error(
        "the object needs the kernel's BTF, which this kernel does not have \
         (CONFIG_DEBUG_INFO_BTF, /sys/kernel/btf/vmlinux)"
    )]
    NoBTF,
    /// A map is at fault.
    #[error("map error: {0}")]
    MapError(#[from] MapError),
    /// A program is at fault.
    #[error("program error: {0}")]
    ProgramError(#[from] ProgramError),
}

/// The bytes of a value for a global variable of an object.
#[derive(Debug)]
pub struct GlobalData<'a> {
    pub(crate) bytes: &'a [u8],
}

impl<'a, T: Pod> From<&'a [T]> for GlobalData<'a> {
    fn from(values: &'a [T]) -> Self {
        Self { bytes: bytes_of(values) }
    }
}

impl<'a, T: Pod> From<&'a T> for GlobalData<'a> {
    fn from(value: &'a T) -> Self {
        Self { bytes: bytes_of(std::slice::from_ref(value)) }
    }
}

/// A loaded object: its maps, and its programs ready to be loaded.
///
/// Dropping it closes this process's descriptors of both. The kernel keeps what is attached to a
/// group of sockets or pinned, and the maps that such programs use.
///
/// # Examples
///
/// ```no_run
/// use sk_reuseport::{Ebpf, maps::Array};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut ebpf = Ebpf::load_file("select.o")?;
/// for (name, program) in ebpf.programs() {
///     println!("{name}: {:?}", program.prog_type());
/// }
/// let mut limits: Array<_, u32> = ebpf.map_mut("limits").ok_or("no map")?.try_into()?;
/// limits.set(0, 100, 0)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Ebpf {
    pub(crate) maps: HashMap<String, Map>,
    pub(crate) programs: HashMap<String, Program>,
}

impl Ebpf {
    /// Loads an object from a file. See [`EbpfLoader`] for choices.
    ///
    /// # Errors
    ///
    /// As [`EbpfLoader::load_file`].
    pub fn load_file<P: AsRef<Path>>(path: P) -> Result<Self, EbpfError> {
        EbpfLoader::new().load_file(path)
    }

    /// Loads an object. See [`EbpfLoader`] for choices.
    ///
    /// # Errors
    ///
    /// As [`EbpfLoader::load`].
    pub fn load(data: &[u8]) -> Result<Self, EbpfError> {
        EbpfLoader::new().load(data)
    }

    /// A map by its name in the object.
    pub fn map(&self, name: &str) -> Option<&Map> {
        self.maps.get(name)
    }

    /// A map by its name in the object, to be changed.
    pub fn map_mut(&mut self, name: &str) -> Option<&mut Map> {
        self.maps.get_mut(name)
    }

    /// Takes a map out, so that it can be kept apart from the rest.
    pub fn take_map(&mut self, name: &str) -> Option<Map> {
        self.maps.remove(name)
    }

    /// All maps with their names.
    pub fn maps(&self) -> impl Iterator<Item = (&str, &Map)> {
        self.maps.iter().map(|(name, map)| (name.as_str(), map))
    }

    /// All maps with their names, to be changed.
    pub fn maps_mut(&mut self) -> impl Iterator<Item = (&str, &mut Map)> {
        self.maps.iter_mut().map(|(name, map)| (name.as_str(), map))
    }

    /// Several maps by their names, to be changed at the same time.
    ///
    /// # Panics
    ///
    /// If two of the names are the same.
    pub fn maps_disjoint_mut<const N: usize>(&mut self, names: [&str; N]) -> [Option<&mut Map>; N] {
        self.maps.get_disjoint_mut(names)
    }

    /// A program by the name of its function.
    pub fn program(&self, name: &str) -> Option<&Program> {
        self.programs.get(name)
    }

    /// A program by the name of its function, to be loaded and attached.
    pub fn program_mut(&mut self, name: &str) -> Option<&mut Program> {
        self.programs.get_mut(name)
    }

    /// Takes a program out, so that it can be kept apart from the rest.
    pub fn take_program(&mut self, name: &str) -> Option<Program> {
        self.programs.remove(name)
    }

    /// All programs with their names.
    pub fn programs(&self) -> impl Iterator<Item = (&str, &Program)> {
        self.programs.iter().map(|(name, program)| (name.as_str(), program))
    }

    /// All programs with their names, to be loaded and attached.
    pub fn programs_mut(&mut self) -> impl Iterator<Item = (&str, &mut Program)> {
        self.programs.iter_mut().map(|(name, program)| (name.as_str(), program))
    }
}
