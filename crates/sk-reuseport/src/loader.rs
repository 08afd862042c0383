//! What is chosen before an object is loaded, and loading it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya_obj::btf::Btf;
use aya_obj::generated::{BPF_F_SLEEPABLE, bpf_map_type};
use aya_obj::maps::PinningType;
use aya_obj::{EbpfSectionKind, Object, ProgramSection};

use crate::bpf::{Ebpf, GlobalData};
use crate::btf::KernelBtf;
use crate::error::{EbpfError, MapError};
use crate::maps::{Map, MapData, MapFd, size};
use crate::pin::NewPins;
use crate::programs::{
    BtfTracePoint, Code, Iter, Program, ProgramData, SkReuseport, UnsupportedProgram,
};
use crate::relocate::{self, Types, undamaged};
use crate::util::{nr_cpus, page_size};
use crate::verifier::VerifierLogLevel;

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
#[derive(Debug, Clone)]
pub struct EbpfLoader<'a> {
    btf: Types<'a>,
    globals: HashMap<&'a str, (&'a [u8], bool)>,
    max_entries: HashMap<&'a str, u32>,
    pin_directory: Option<PathBuf>,
    pin_paths: HashMap<&'a str, Cow<'a, Path>>,
    given_maps: HashMap<&'a str, &'a MapData>,
    kernel_functions: HashMap<u32, u32>,
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
            kernel_functions: HashMap::new(),
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
    /// already. By default `/sys/fs/bpf`. See [`map_pin_path`](Self::map_pin_path).
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
    ///
    /// A map that is opened must have the type, and keys and values of the size, that the object
    /// says. It is taken as it is: its number of elements, its flags and what it holds count, also
    /// where it is that of a section (`.data`, `.rodata`).
    pub fn map_pin_path<P: Into<Cow<'a, Path>>>(&mut self, name: &'a str, path: P) -> &mut Self {
        self.pin_paths.insert(name, path.into());
        self
    }

    /// Uses an existing map in place of one of the object's: this is how two objects share one.
    ///
    /// The map must have keys and values of the size that the object says. Its type is the
    /// caller's choice (a socket map for a socket array, say): the verifier has the last word, and
    /// [`Ebpf::map`] gives it as what it is. A name that the object does not have is ignored.
    pub fn map(&mut self, name: &'a str, map: &'a MapData) -> &mut Self {
        self.given_maps.insert(name, map);
        self
    }

    /// Makes calls of a helper with this number, which the kernel does not have, calls of one of the
    /// kernel's own functions (a *kfunc*): the one with this id among the kernel's types, as
    /// [`KernelTypes`](crate::KernelTypes) gives it for [`BtfKind::Func`](aya_obj::btf::BtfKind::Func).
    ///
    /// In the object such a function is `static void *(*const name)(...) = (void *)NUMBER;`. What
    /// libbpf makes of it, `extern ... __ksym`, the parser does not understand.
    ///
    /// # Minimum kernel version
    ///
    /// Linux 5.13, and the version that brought the function. The verifier refuses what it does not
    /// let this type of program call.
    pub fn kernel_function(&mut self, number: u32, id: u32) -> &mut Self {
        self.kernel_functions.insert(number, id);
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
    /// An object without a section `license` counts as GPL, as it does for aya.
    ///
    /// # Errors
    ///
    /// If `data` is no BPF object, or the kernel refuses a map of it, or its maps would take more
    /// than 1 GiB of memory at once (where the caller chose a map's number of elements by
    /// [`map_max_entries`](Self::map_max_entries), that map does not count). Nothing is left
    /// behind then: a pin that was there before stays, a new one does not.
    pub fn load(&mut self, data: &[u8]) -> Result<Ebpf, EbpfError> {
        let mut object = relocate::parse(data)?;
        undamaged(|| Ok(object.patch_map_data(self.globals.clone())?))?;
        let btf = relocate::load_btf(&mut object, self.log_level)?.map(Arc::new);
        relocate::relocate_to_kernel(&mut object, data, &self.btf)?;
        let mut pins = NewPins::default();
        let maps = self.create_maps(&mut object, btf.as_deref(), &mut pins)?;
        relocate::relocate_to_maps(&mut object, &maps)?;
        relocate::call_kernel_functions(&mut object, &self.kernel_functions);
        let fds: Arc<[MapFd]> = maps.values().map(|map| map.fd().share()).collect();
        let programs = self.prepare_programs(object, &btf, &fds);
        let maps = maps
            .into_iter()
            .map(|(name, map)| Ok((name, Map::from_map_data(map)?)))
            .collect::<Result<_, MapError>>()?;
        pins.keep();
        Ok(Ebpf { maps, programs })
    }

    fn create_maps(
        &self,
        object: &mut Object,
        btf: Option<&OwnedFd>,
        pins: &mut NewPins,
    ) -> Result<HashMap<String, MapData>, EbpfError> {
        // Always in the same order, so that what fails once fails again.
        let mut definitions: Vec<_> =
            object.maps.drain().filter(|(_, map)| !is_empty(map)).collect();
        definitions.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        self.check_memory(&definitions)?;
        definitions
            .into_iter()
            .map(|(name, definition)| {
                let map = self.create_map(&name, definition, btf, pins)?;
                Ok((name, map))
            })
            .collect()
    }

    /// Refuses maps of the object's that together would take too much of the kernel's memory; not
    /// those that the caller gives, or whose number of elements he chose.
    fn check_memory(&self, definitions: &[(String, aya_obj::Map)]) -> Result<(), EbpfError> {
        const LIMIT: u64 = 1 << 30;

        let (mut bytes, mut largest) = (0u64, (0, ""));
        for (name, map) in definitions {
            let name = name.as_str();
            if self.given_maps.contains_key(name) {
                continue;
            }
            let own = if self.max_entries.contains_key(name) { 0 } else { memory_of(map)? };
            // The pattern of a map of maps is a map itself, for a moment.
            let inner = map.inner().map_or(Ok(0), |inner| memory_of(&inner))?;
            let size = own.saturating_add(inner);
            bytes = bytes.saturating_add(size);
            largest = largest.max((size, name));
        }
        if bytes <= LIMIT {
            return Ok(());
        }
        Err(MapError::TooLarge { name: largest.1.to_owned(), bytes, limit: LIMIT }.into())
    }

    fn create_map(
        &self,
        name: &str,
        mut definition: aya_obj::Map,
        btf: Option<&OwnedFd>,
        pins: &mut NewPins,
    ) -> Result<MapData, EbpfError> {
        if let Some(given) = self.given_maps.get(name) {
            return Ok(given.stand_in(name, &definition)?);
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
        let path = match self.pin_paths.get(name) {
            Some(path) => Some(path.to_path_buf()),
            None if definition.pinning() == PinningType::ByName => Some(self.pin_by_name(name)?),
            None => None,
        };
        let btf = btf.map(|btf| btf.as_fd());
        Ok(match path {
            Some(path) => MapData::create_pinned_by_name(&path, definition, name, btf, pins)?,
            None => MapData::create_filled(definition, name, btf)?,
        })
    }

    /// Where a map is pinned that asks for it. A name from an object leads to no other directory.
    fn pin_by_name(&self, name: &str) -> Result<PathBuf, MapError> {
        let directory = self.pin_directory.as_deref().unwrap_or(Path::new("/sys/fs/bpf"));
        match Path::new(name).file_name() {
            Some(file) if file == name => Ok(directory.join(name)),
            _ => Err(MapError::InvalidName { name: name.to_owned() }),
        }
    }

    fn prepare_programs(
        &self,
        mut object: Object,
        btf: &Option<Arc<OwnedFd>>,
        maps: &Arc<[MapFd]>,
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
                    Code {
                        license: program.license,
                        function,
                        flags,
                        btf: btf.clone(),
                        _maps: Arc::clone(maps),
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
}

/// Whether it would be the map of a section of variables without any: assemblers write such sections
/// into every object.
fn is_empty(map: &aya_obj::Map) -> bool {
    let variables = [EbpfSectionKind::Data, EbpfSectionKind::Bss, EbpfSectionKind::Rodata];
    variables.contains(&map.section_kind()) && map.value_size() == 0
}

/// Bytes that the kernel takes at once for a map; none for one of a type that nobody knows.
fn memory_of(map: &aya_obj::Map) -> Result<u64, EbpfError> {
    let Ok(map_type) = bpf_map_type::try_from(map.map_type()) else { return Ok(0) };
    let cpus = if size::is_per_cpu(map_type) { possible_cpus()?.into() } else { 1 };
    Ok(size::at_once(map_type, map, cpus))
}

fn possible_cpus() -> Result<u32, EbpfError> {
    match nr_cpus() {
        Ok(cpus) => Ok(cpus as u32),
        Err((path, error)) => Err(EbpfError::FileError { path: PathBuf::from(path), error }),
    }
}

/// The number of elements, where it is not simply what the object says.
fn max_entries(
    map_type: bpf_map_type,
    chosen: Option<u32>,
    said: impl Fn() -> u32,
) -> Result<Option<u32>, EbpfError> {
    Ok(match map_type {
        bpf_map_type::BPF_MAP_TYPE_PERF_EVENT_ARRAY if chosen.unwrap_or_else(&said) == 0 => {
            Some(possible_cpus()?)
        }
        // The size in bytes, which must be a power of two and whole pages.
        bpf_map_type::BPF_MAP_TYPE_RINGBUF => {
            let size = chosen.unwrap_or_else(&said);
            let page = page_size() as u32;
            // What is too large, and a size of 0, is the kernel's to refuse.
            let rounded = size.checked_next_power_of_two().unwrap_or(size).max(page);
            Some(if size == 0 { 0 } else { rounded })
        }
        _ => chosen,
    })
}
