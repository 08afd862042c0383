//! Loading an object: its maps are created, its programs made ready.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya_obj::btf::{Btf, BtfError, BtfFeatures, BtfRelocationError};
use aya_obj::generated::{BPF_F_SLEEPABLE, bpf_map_type};
use aya_obj::relocation::EbpfRelocationError;
use aya_obj::{EbpfSectionKind, Object, ParseError, ProgramSection, VerifierLog};
use thiserror::Error;

use crate::btf::KernelBtf;
use crate::maps::{Map, MapData, MapError};
use crate::programs::{
    BtfTracePoint, Iter, Program, ProgramData, ProgramError, SkReuseport, UnsupportedProgram,
};
use crate::sys::{self, Pod, bytes_of};
use crate::util::nr_cpus;

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
    #[error("error parsing BPF object: {0}")]
    ParseError(#[from] ParseError),
    /// It was compiled for the other byte order.
    #[error(
        "the BPF object was compiled for the other byte order; compile it with -target bpf on this machine"
    )]
    WrongEndianness,
    /// Its type information, or the kernel's, is at fault.
    #[error("BTF error: {0}")]
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
    bytes: &'a [u8],
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

/// Where the kernel's own types come from.
#[derive(Debug)]
enum Types<'a> {
    /// From /sys/kernel/btf/vmlinux, if an object needs them.
    WhenNeeded,
    Parsed(&'a Btf),
    Raw(&'a KernelBtf),
    None,
}

/// Loads objects, with choices that must be made beforehand.
///
/// # Examples
///
/// ```no_run
/// use sk_reuseport::EbpfLoader;
///
/// # fn main() -> Result<(), sk_reuseport::EbpfError> {
/// let ebpf = EbpfLoader::new()
///     .override_global("POLICY", &3u32, true)
///     .map_max_entries("sockets", 64)
///     .load_file("select.o")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct EbpfLoader<'a> {
    btf: Types<'a>,
    globals: HashMap<&'a str, (&'a [u8], bool)>,
    max_entries: HashMap<&'a str, u32>,
    pin_directory: Option<PathBuf>,
    pin_paths: HashMap<&'a str, Cow<'a, Path>>,
    given_maps: HashMap<&'a str, &'a MapData>,
    log_level: VerifierLogLevel,
}

impl Default for EbpfLoader<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> EbpfLoader<'a> {
    /// A loader that takes objects as they are.
    pub fn new() -> Self {
        Self {
            btf: Types::WhenNeeded,
            globals: HashMap::new(),
            max_entries: HashMap::new(),
            pin_directory: None,
            pin_paths: HashMap::new(),
            given_maps: HashMap::new(),
            log_level: VerifierLogLevel::default(),
        }
    }

    /// Takes the kernel's types from `btf`, or from nowhere. By default they are read from
    /// `/sys/kernel/btf/vmlinux` if the object needs them.
    pub fn btf(&mut self, btf: Option<&'a Btf>) -> &mut Self {
        self.btf = btf.map_or(Types::None, Types::Parsed);
        self
    }

    /// Takes the kernel's types from `btf`, of which only what the object needs is parsed.
    pub fn kernel_btf(&mut self, btf: &'a KernelBtf) -> &mut Self {
        self.btf = Types::Raw(btf);
        self
    }

    /// Maps of kinds without a type of their own in this crate become [`Map::Unsupported`]
    /// anyway; here for programs written to aya.
    pub fn allow_unsupported_maps(&mut self) -> &mut Self {
        self
    }

    /// Where maps that ask for it (`LIBBPF_PIN_BY_NAME`) are pinned, or opened if they are there
    /// already. By default `/sys/fs/bpf`.
    pub fn default_map_pin_directory<P: AsRef<Path>>(&mut self, path: P) -> &mut Self {
        self.pin_directory = Some(path.as_ref().to_owned());
        self
    }

    /// Sets a global variable, or a constant (`const volatile`): the verifier then knows its
    /// value and removes what is never reached.
    ///
    /// With `must_exist`, an object without that variable is refused.
    pub fn override_global<T: Into<GlobalData<'a>>>(
        &mut self,
        name: &'a str,
        value: T,
        must_exist: bool,
    ) -> &mut Self {
        self.globals.insert(name, (value.into().bytes, must_exist));
        self
    }

    /// The number of elements that a map is created with, instead of what the object says.
    pub fn map_max_entries(&mut self, name: &'a str, size: u32) -> &mut Self {
        self.max_entries.insert(name, size);
        self
    }

    /// Pins a map at a path, or opens the one that is pinned there.
    pub fn map_pin_path<P: Into<Cow<'a, Path>>>(&mut self, name: &'a str, path: P) -> &mut Self {
        self.pin_paths.insert(name, path.into());
        self
    }

    /// Uses an existing map in place of one of the object's: this is how two objects share one.
    ///
    /// The map must have keys and values of the size that the object says. Its type is the
    /// caller's choice (a socket map for a socket array, say): the verifier has the last word.
    pub fn map(&mut self, name: &'a str, map: &'a MapData) -> &mut Self {
        self.given_maps.insert(name, map);
        self
    }

    /// How much the verifier is to tell about a program that it refuses.
    pub fn verifier_log_level(&mut self, level: VerifierLogLevel) -> &mut Self {
        self.log_level = level;
        self
    }

    /// Loads an object from a file.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load), and if the file cannot be read.
    pub fn load_file<P: AsRef<Path>>(&mut self, path: P) -> Result<Ebpf, EbpfError> {
        let path = path.as_ref();
        let data = fs::read(path)
            .map_err(|error| EbpfError::FileError { path: path.to_owned(), error })?;
        self.load(&data)
    }

    /// Loads an object: creates its maps and prepares its programs. Programs go into the kernel
    /// one by one, by their own `load`.
    ///
    /// # Errors
    ///
    /// If `data` is no BPF object, or the kernel refuses a map of it. Nothing is left behind
    /// then, except maps that were pinned.
    pub fn load(&mut self, data: &[u8]) -> Result<Ebpf, EbpfError> {
        let mut object = parse(data)?;
        object.patch_map_data(self.globals.clone())?;
        let btf = self.load_btf(&mut object)?;
        self.relocate_to_kernel(&mut object, data)?;
        let maps = self.create_maps(&mut object, btf.as_deref())?;
        let text_sections = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(
            maps.iter()
                .map(|(name, map)| (name.as_str(), map.fd().as_fd().as_raw_fd(), map.definition())),
            &text_sections,
        )?;
        object.relocate_calls(&text_sections)?;
        let programs = self.prepare_programs(object, btf);
        let maps = maps
            .into_iter()
            .map(|(name, map)| Ok((name, Map::from_map_data(map)?)))
            .collect::<Result<_, MapError>>()?;
        Ok(Ebpf { maps, programs })
    }

    /// Gives the object's own BTF to the kernel. Kernels refuse kinds of types that they do not
    /// know, so a refusal is met with a second try that leaves out what is newer than 5.2.
    fn load_btf(&self, object: &mut Object) -> Result<Option<Arc<OwnedFd>>, EbpfError> {
        let mut last = None;
        for features in [
            BtfFeatures::new(true, true, true, true, true, true, true, true),
            BtfFeatures::new(true, true, true, false, true, false, false, false),
            BtfFeatures::new(true, false, true, false, false, false, false, false),
        ] {
            let mut candidate = object.clone();
            let Some(btf) = candidate.fixup_and_sanitize_btf(&features)? else {
                return Ok(None);
            };
            let bytes = btf.to_bytes();
            let (result, log) = crate::programs::with_log(self.log_level, |log, level| {
                sys::bpf_btf_load(&bytes, log, level)
            });
            match result {
                Ok(fd) => {
                    *object = candidate;
                    return Ok(Some(Arc::new(fd)));
                }
                Err(error) => last = Some((error, log)),
            }
        }
        let needed = object.has_btf_relocations()
            || object.programs.values().any(|program| {
                matches!(
                    program.section,
                    ProgramSection::BtfTracePoint | ProgramSection::Iter { .. }
                )
            });
        match last {
            Some((io_error, log)) if needed => Err(EbpfError::BtfError(BtfError::LoadError {
                io_error,
                verifier_log: VerifierLog::new(log),
            })),
            // Types only make such an object easier to debug.
            _ => Ok(None),
        }
    }

    /// Adapts the programs to where this kernel has the fields that they read (CO-RE).
    fn relocate_to_kernel(&self, object: &mut Object, data: &[u8]) -> Result<(), EbpfError> {
        if !object.has_btf_relocations() {
            return Ok(());
        }
        match self.btf {
            Types::Parsed(btf) => object.relocate_btf(btf)?,
            Types::Raw(btf) => object.relocate_btf(&btf.for_object(data)?)?,
            Types::WhenNeeded => {
                let btf = KernelBtf::from_sys_fs()?;
                object.relocate_btf(&btf.for_object(data)?)?;
            }
            Types::None => return Err(EbpfError::NoBTF),
        }
        Ok(())
    }

    fn create_maps(
        &self,
        object: &mut Object,
        btf: Option<&OwnedFd>,
    ) -> Result<HashMap<String, MapData>, EbpfError> {
        object
            .maps
            .drain()
            .map(|(name, definition)| {
                let map = self.create_map(&name, definition, btf)?;
                Ok((name, map))
            })
            .collect()
    }

    fn create_map(
        &self,
        name: &str,
        mut definition: aya_obj::Map,
        btf: Option<&OwnedFd>,
    ) -> Result<MapData, EbpfError> {
        if let Some(given) = self.given_maps.get(name) {
            return Ok(given.stand_in(name, definition)?);
        }
        let map_type = bpf_map_type::try_from(definition.map_type()).map_err(MapError::from)?;
        if let Some(entries) =
            max_entries(map_type, self.max_entries.get(name).copied(), || definition.max_entries())?
        {
            definition.set_max_entries(entries);
        }
        if map_type == bpf_map_type::BPF_MAP_TYPE_RINGBUF {
            definition.set_value_size(0);
        }
        let by_name =
            || self.pin_directory.as_deref().unwrap_or(Path::new("/sys/fs/bpf")).join(name);
        let path = match self.pin_paths.get(name) {
            Some(path) => Some(path.to_path_buf()),
            None if definition.pinning() == aya_obj::maps::PinningType::ByName => Some(by_name()),
            None => None,
        };
        let freeze = definition.section_kind() == EbpfSectionKind::Rodata;
        let btf = btf.map(|btf| btf.as_fd());
        let map = match path {
            Some(path) => MapData::create_pinned_by_name(&path, definition, name, btf)?,
            None => MapData::create(definition, name, btf)?,
        };
        map.fill_section(freeze)?;
        Ok(map)
    }

    fn prepare_programs(
        &self,
        mut object: Object,
        btf: Option<Arc<OwnedFd>>,
    ) -> HashMap<String, Program> {
        let functions = &object.functions;
        object
            .programs
            .drain()
            .filter_map(|(name, program)| {
                let function = functions.get(&program.function_key())?.clone();
                let flags = match program.section {
                    ProgramSection::Iter { sleepable: true } => BPF_F_SLEEPABLE,
                    _ => 0,
                };
                let data = ProgramData::new(
                    name.clone(),
                    crate::programs::Code {
                        license: program.license,
                        function,
                        flags,
                        btf: btf.clone(),
                        log_level: self.log_level,
                    },
                );
                let program = match program.section {
                    ProgramSection::SkReuseport { attach_type } => {
                        Program::SkReuseport(SkReuseport::new(data, attach_type))
                    }
                    ProgramSection::BtfTracePoint => {
                        Program::BtfTracePoint(BtfTracePoint::new(data))
                    }
                    ProgramSection::Iter { .. } => Program::Iter(Iter::new(data)),
                    other => Program::Unsupported(UnsupportedProgram::new(format!("{other:?}"))),
                };
                Some((name, program))
            })
            .collect()
    }
}

/// Parses an object. The parser needs it aligned, which bytes of a file or a constant need not be.
fn parse(data: &[u8]) -> Result<Object, EbpfError> {
    // e_ident[EI_DATA]: 1 is little-endian, 2 big-endian.
    const EI_DATA: usize = 5;
    let other = if cfg!(target_endian = "little") { 2 } else { 1 };
    if data.starts_with(b"\x7fELF") && data.get(EI_DATA) == Some(&other) {
        return Err(EbpfError::WrongEndianness);
    }
    let mut aligned = vec![0u64; data.len().div_ceil(size_of::<u64>())];
    let bytes = zerocopy::IntoBytes::as_mut_bytes(aligned.as_mut_slice());
    bytes[..data.len()].copy_from_slice(data);
    Ok(Object::parse(&bytes[..data.len()])?)
}

/// The number of elements, where it is not simply what the object says.
fn max_entries(
    map_type: bpf_map_type,
    chosen: Option<u32>,
    said: impl Fn() -> u32,
) -> Result<Option<u32>, EbpfError> {
    Ok(match map_type {
        bpf_map_type::BPF_MAP_TYPE_PERF_EVENT_ARRAY if chosen.unwrap_or_else(&said) == 0 => {
            let cpus = nr_cpus().map_err(|(path, error)| EbpfError::FileError {
                path: PathBuf::from(path),
                error,
            })?;
            Some(cpus as u32)
        }
        // The size in bytes, which must be a power of two and whole pages.
        bpf_map_type::BPF_MAP_TYPE_RINGBUF => {
            let size = chosen.unwrap_or_else(&said);
            let page = crate::util::page_size() as u32;
            Some(size.checked_next_power_of_two().unwrap_or(size).max(page.min(size * page)))
        }
        _ => chosen,
    })
}

/// A loaded object: its maps, and its programs ready to be loaded.
///
/// Dropping it closes this process's descriptors of both. The kernel keeps what is attached to a
/// group of sockets or pinned, and the maps that such programs use.
#[derive(Debug)]
pub struct Ebpf {
    maps: HashMap<String, Map>,
    programs: HashMap<String, Program>,
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
