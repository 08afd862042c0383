//! Loads objects: options first, then the maps and programs.

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
use object::SectionIndex;

use crate::bpf::{Ebpf, GlobalData};
use crate::btf::{KernelBtf, Variable};
use crate::error::{EbpfError, MapError};
use crate::functions::Functions;
use crate::hint::Hint;
use crate::links::{Value, ValueOf};
use crate::maps::{Map, MapData, MapFd, size};
use crate::pin::NewPins;
use crate::programs::{
    BtfTracePoint, CgroupSock, Code, Iter, Program, ProgramData, SkReuseport, UnsupportedProgram,
};
use crate::relocate::{self, Parsed, Types, undamaged};
use crate::util::{nr_cpus, page_size};
use crate::verifier::VerifierLogLevel;

/// Loads objects, with options that apply before loading.
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
    variables: Vec<(&'a Variable, u32, &'a [u8])>,
    max_entries: HashMap<&'a str, u32>,
    pin_directory: Option<PathBuf>,
    pin_paths: HashMap<&'a str, Cow<'a, Path>>,
    given_maps: HashMap<&'a str, &'a MapData>,
    kernel_functions: HashMap<u32, u32>,
    log_level: VerifierLogLevel,
    only: Option<&'a str>,
}

impl Default for EbpfLoader<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> EbpfLoader<'a> {
    /// A loader without options.
    pub fn new() -> Self {
        Self {
            btf: Types::WhenNeeded,
            globals: HashMap::new(),
            variables: Vec::new(),
            max_entries: HashMap::new(),
            pin_directory: None,
            pin_paths: HashMap::new(),
            given_maps: HashMap::new(),
            kernel_functions: HashMap::new(),
            log_level: VerifierLogLevel::default(),
            only: None,
        }
    }

    /// Takes the kernel's types from `btf`; `None` takes none. By default they are read from
    /// `/sys/kernel/btf/vmlinux` if the object needs them.
    pub fn btf(&mut self, btf: Option<&'a Btf>) -> &mut Self {
        self.btf = btf.map_or(Types::None, Types::Parsed);
        self
    }

    /// Takes the kernel's types from `btf` and parses only those that the object needs.
    pub fn kernel_btf(&mut self, btf: &'a KernelBtf) -> &mut Self {
        self.btf = Types::Raw(btf);
        self
    }

    /// Does nothing: maps without a Rust type in this crate always become [`Map::Unsupported`]. It
    /// is here for programs written for aya.
    pub fn allow_unsupported_maps(&mut self) -> &mut Self {
        self
    }

    /// The directory in which maps with `LIBBPF_PIN_BY_NAME` are pinned, or opened if they are
    /// pinned there already: `/sys/fs/bpf` by default. See [`map_pin_path`](Self::map_pin_path).
    pub fn default_map_pin_directory<P: AsRef<Path>>(&mut self, path: P) -> &mut Self {
        self.pin_directory = Some(path.as_ref().to_owned());
        self
    }

    /// Sets a global variable or a constant (`const volatile`). The verifier knows the value of a
    /// constant and removes the code that it makes unreachable.
    ///
    /// With `must_exist`, loading an object without that variable fails.
    pub fn override_global<T: Into<GlobalData<'a>>>(
        &mut self,
        name: &'a str,
        value: T,
        must_exist: bool,
    ) -> &mut Self {
        self.globals.insert(name, (value.into().bytes, must_exist));
        self
    }

    /// Sets a variable or a constant, or this element of an array, as [`Contents`](crate::Contents) describes it.
    pub fn variable(&mut self, variable: &'a Variable, element: u32, value: &'a [u8]) -> &mut Self {
        self.variables.push((variable, element, value));
        self
    }

    /// Creates a map with this number of elements instead of the object's.
    pub fn map_max_entries(&mut self, name: &'a str, size: u32) -> &mut Self {
        self.max_entries.insert(name, size);
        self
    }

    /// Pins a map at a path, or opens the one that is pinned there.
    ///
    /// An opened map must have the type and the sizes of keys and values that the object declares.
    /// It keeps its number of elements, its flags and its content, even if it is the map of a
    /// section (`.data`, `.rodata`).
    pub fn map_pin_path<P: Into<Cow<'a, Path>>>(&mut self, name: &'a str, path: P) -> &mut Self {
        self.pin_paths.insert(name, path.into());
        self
    }

    /// Uses an existing map in place of one of the object's: this is how two objects share one.
    ///
    /// The map must have the sizes of keys and values that the object declares. It may be of
    /// another type (a socket map in place of a socket array, for example): the verifier decides
    /// whether the program may use it, and [`Ebpf::map`] returns it as its own type. A name that
    /// the object does not have is ignored.
    pub fn map(&mut self, name: &'a str, map: &'a MapData) -> &mut Self {
        self.given_maps.insert(name, map);
        self
    }

    /// Replaces calls of the helper `number`, which no kernel has, by calls of a kernel function (a
    /// *kfunc*). `id` is the function's id among the kernel's types, as
    /// [`KernelTypes`](crate::KernelTypes) returns it for
    /// [`BtfKind::Func`](aya_obj::btf::BtfKind::Func).
    ///
    /// In C such a function is declared as `static void *(*const name)(...) = (void *)NUMBER;`. The
    /// parser does not understand libbpf's `extern ... __ksym`.
    ///
    /// # Minimum kernel version
    ///
    /// Linux 5.13, and the version that introduced the function. The verifier refuses functions
    /// that this type of program may not call.
    pub fn kernel_function(&mut self, number: u32, id: u32) -> &mut Self {
        self.kernel_functions.insert(number, id);
        self
    }

    /// How much the verifier logs about a program that it refuses.
    pub fn verifier_log_level(&mut self, level: VerifierLogLevel) -> &mut Self {
        self.log_level = level;
        self
    }

    /// Loads only this program, and creates only the maps that it uses. What the object has besides may be of
    /// kinds that this crate does not support.
    pub fn only(&mut self, program: &'a str) -> &mut Self {
        self.only = Some(program);
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

    /// Loads an object: creates its maps and prepares its programs. Each program is loaded into the
    /// kernel by its own `load`.
    ///
    /// An object without a section `license` counts as GPL, as with aya.
    ///
    /// # Errors
    ///
    /// If `data` is no BPF object, if the kernel refuses one of its maps, or if its maps would take
    /// more than 1 GiB of memory when they are created (not counting maps with a number of elements
    /// set by [`map_max_entries`](Self::map_max_entries)). New pins are removed then; older ones
    /// stay.
    ///
    /// An object that makes the parser panic is [`EbpfError::Damaged`], unless the program is built
    /// with `panic = "abort"`. Most such objects are found before they are parsed.
    pub fn load(&mut self, data: &[u8]) -> Result<Ebpf, EbpfError> {
        let Parsed { mut object, bytes, values, functions, reach } =
            relocate::parse(data, self.only)?;
        relocate::refuse_externals(&functions, self.only)?;
        if self.only.is_some() {
            object.maps.retain(|name, _| relocate::is_used(name, &reach, &values));
        }
        undamaged(|| Ok(object.patch_map_data(self.globals.clone())?))?;
        for (variable, element, value) in &self.variables {
            relocate::set_variable(&mut object, variable, *element, value)?;
        }
        let btf = relocate::load_btf(&mut object, self.log_level)?.map(Arc::new);
        relocate::relocate_to_kernel(&mut object, bytes.bytes(), &self.btf)?;
        let mut pins = NewPins::default();
        self.refuse_values(&object, &values)?;
        let maps = self.create_maps(&mut object, btf.as_deref(), &mut pins)?;
        self.fill(&values, &maps)?;
        relocate::relocate_to_maps(&mut object, &maps)?;
        relocate::call_kernel_functions(&mut object, &self.kernel_functions);
        let fds: Arc<[MapFd]> = maps.values().map(|map| map.fd().share()).collect();
        let mut programs = self.prepare_programs(object, &functions, &btf, &fds);
        if self.only.is_none() {
            programs.extend(unsupported(&functions));
        }
        let maps = maps
            .into_iter()
            .map(|(name, map)| Ok((name, Map::from_map_data(map)?)))
            .collect::<Result<_, MapError>>()?;
        Ok(Ebpf { maps, programs, new_pins: pins.keep() })
    }

    /// Refuses initial values that cannot be put into their maps. A pinned map of maps may be in use already, so
    /// its values are not the object's to set.
    fn refuse_values(&self, object: &Object, values: &[Value]) -> Result<(), EbpfError> {
        for Value { outer, of } in values {
            let Some(definition) = object.maps.get(outer) else { continue };
            if let ValueOf::Refused(why) = of {
                return Err(why.error(outer));
            }
            if definition.pinning() == PinningType::ByName
                || self.pin_paths.contains_key(outer.as_str())
            {
                let what = format!("initial values (`.values`) of the pinned map `{outer}`");
                return Err(EbpfError::Unsupported { what, hint: Hint::ValuesOfPinned });
            }
        }
        Ok(())
    }

    /// Puts the initial values into maps of maps, except those that the caller passes.
    fn fill(&self, values: &[Value], maps: &HashMap<String, MapData>) -> Result<(), EbpfError> {
        for Value { outer, of } in values {
            let ValueOf::Map { index, inner } = of else { continue };
            if self.given_maps.contains_key(outer.as_str()) {
                continue;
            }
            if let (Some(outer), Some(inner)) = (maps.get(outer), maps.get(inner)) {
                outer.insert_map(*index, inner)?;
            }
        }
        Ok(())
    }

    fn create_maps(
        &self,
        object: &mut Object,
        btf: Option<&OwnedFd>,
        pins: &mut NewPins,
    ) -> Result<HashMap<String, MapData>, EbpfError> {
        // In a fixed order, so that failures are reproducible.
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

    /// Refuses maps that together would take too much memory. Maps that the caller passes, or whose
    /// number of elements the caller sets, do not count.
    fn check_memory(&self, definitions: &[(String, aya_obj::Map)]) -> Result<(), EbpfError> {
        const LIMIT: u64 = 1 << 30;

        let (mut bytes, mut largest) = (0u64, (0, ""));
        for (name, map) in definitions {
            let name = name.as_str();
            if self.given_maps.contains_key(name) {
                continue;
            }
            let own = if self.max_entries.contains_key(name) { 0 } else { memory_of(map)? };
            // The kernel also creates the template of a map of maps, for a moment.
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

    /// Where a map with `LIBBPF_PIN_BY_NAME` is pinned. Its name must not lead to another
    /// directory.
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
        functions: &Functions,
        btf: &Option<Arc<OwnedFd>>,
        maps: &Arc<[MapFd]>,
    ) -> HashMap<String, Program> {
        let code = &object.functions;
        object
            .programs
            .drain()
            .filter_map(|(name, program)| {
                let function = code.get(&program.function_key())?.clone();
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
                let section = functions.sections.get(&SectionIndex(program.section_index));
                let attach_type = section.and_then(|section| section.of.attach_type());
                let program = match program.section {
                    _ if let Some(attach_type) = attach_type => {
                        Program::SkReuseport(SkReuseport::new(data, attach_type))
                    }
                    ProgramSection::BtfTracePoint => {
                        Program::BtfTracePoint(BtfTracePoint::new(data))
                    }
                    ProgramSection::Iter { .. } => Program::Iter(Iter::new(data)),
                    ProgramSection::CgroupSock { attach_type } => {
                        Program::CgroupSock(CgroupSock::new(data, attach_type))
                    }
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

/// The programs of types that this crate does not load.
fn unsupported(functions: &Functions) -> impl Iterator<Item = (String, Program)> + '_ {
    functions.programs().filter(|(_, section)| !section.of.is_loaded()).map(
        |(function, section)| {
            let program = UnsupportedProgram::new(section.name.clone());
            (function.name.clone(), Program::Unsupported(program))
        },
    )
}

/// Whether this is the map of an empty section of variables: assemblers write such sections into
/// every object.
fn is_empty(map: &aya_obj::Map) -> bool {
    let variables = [EbpfSectionKind::Data, EbpfSectionKind::Bss, EbpfSectionKind::Rodata];
    variables.contains(&map.section_kind()) && map.value_size() == 0
}

/// Bytes that the kernel allocates when it creates a map; 0 for an unknown type.
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

/// The number of elements, if it is not the object's.
fn max_entries(
    map_type: bpf_map_type,
    chosen: Option<u32>,
    declared: impl Fn() -> u32,
) -> Result<Option<u32>, EbpfError> {
    Ok(match map_type {
        bpf_map_type::BPF_MAP_TYPE_PERF_EVENT_ARRAY if chosen.unwrap_or_else(&declared) == 0 => {
            Some(possible_cpus()?)
        }
        // The size in bytes: a power of two and a multiple of the page size.
        bpf_map_type::BPF_MAP_TYPE_RINGBUF => {
            let size = chosen.unwrap_or_else(&declared);
            let page = page_size() as u32;
            // The kernel refuses 0 and sizes that are too large.
            let rounded = size.checked_next_power_of_two().unwrap_or(size).max(page);
            Some(if size == 0 { 0 } else { rounded })
        }
        _ => chosen,
    })
}
