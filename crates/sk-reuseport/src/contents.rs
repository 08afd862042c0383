//! What an object has, without loading it.

/// The type of a map.
pub use aya_obj::generated::bpf_map_type as MapType;
use aya_obj::maps::PinningType;
use aya_obj::{EbpfSectionKind, Object};
use object::read::elf::ElfSymbol64;
use object::{Endianness, Object as _, ObjectSection as _, ObjectSymbol as _};

use crate::btf::{self, ValueType, Variable};
use crate::error::{EbpfError, Extern};
use crate::functions::{File, Function, Functions};
use crate::links::{Refused, Value, ValueOf};
use crate::programs::SkReuseportAttachType;
use crate::relocate::{self, Aligned, Parsed};

/// What an object has: its programs, what each uses, its maps and its variables. Nothing is loaded.
///
/// # Examples
///
/// ```no_run
/// use sk_reuseport::Contents;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let contents = Contents::parse(&std::fs::read("select.o")?)?;
/// for program in contents.programs().filter(|program| program.attach_type().is_some()) {
///     println!("{} selects from {:?}", program.name(), contents.uses(program.name()).maps);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Contents {
    object: Object,
    bytes: Aligned,
    values: Vec<Value>,
    functions: Functions,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").field("functions", &self.functions).finish_non_exhaustive()
    }
}

/// A program of an object that is not loaded.
#[derive(Debug, Clone, Copy)]
pub struct ProgramContents<'a> {
    name: &'a str,
    section: &'a str,
    attach_type: Option<SkReuseportAttachType>,
}

impl<'a> ProgramContents<'a> {
    /// The name of its function.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Its section.
    pub fn section(&self) -> &'a str {
        self.section
    }

    /// How it selects sockets; `None` if it is of another type.
    pub fn attach_type(&self) -> Option<SkReuseportAttachType> {
        self.attach_type
    }
}

/// What a program uses, together with the functions that it calls.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Uses {
    /// Maps, also those that are initial values of such maps, and sections of variables.
    pub maps: Vec<String>,
    /// The first name that the object does not define.
    pub external: Option<(String, Extern)>,
    /// Whether it calls `bpf_sk_select_reuseport`.
    pub selects: bool,
}

/// A map of an object that is not created.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MapContents<'a> {
    /// The name.
    pub name: &'a str,
    /// The type; `None` for one that is not known.
    pub map_type: Option<MapType>,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// The number of elements.
    pub max_entries: u32,
    /// The flags that it is created with.
    pub map_flags: u32,
    /// Whether it is pinned by its name.
    pub is_pinned: bool,
    /// The type of its inner maps, if it is a map of maps.
    pub inner: Option<MapType>,
    /// Whether it has initial values that are not put into it: static maps.
    pub has_static_values: bool,
}

impl Contents {
    /// Reads an object.
    ///
    /// # Errors
    ///
    /// As [`EbpfLoader::load`](crate::EbpfLoader::load), for data that is no BPF object.
    pub fn parse(data: &[u8]) -> Result<Self, EbpfError> {
        let Parsed { object, bytes, values, functions, .. } = relocate::parse(data, None)?;
        Ok(Self { object, bytes, values, functions })
    }

    /// The programs, sorted by name.
    pub fn programs(&self) -> impl Iterator<Item = ProgramContents<'_>> {
        let mut programs: Vec<_> = self.functions.programs().collect();
        programs.sort_unstable_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        programs.into_iter().map(|(function, section)| ProgramContents {
            name: &function.name,
            section: &section.name,
            attach_type: section.of.attach_type(),
        })
    }

    /// What the program of this name uses; nothing, if there is none.
    pub fn uses(&self, program: &str) -> Uses {
        let is_it = |function: &&Function| function.name == program;
        let programs = self.functions.programs().map(|(function, _)| function).filter(is_it);
        let reach = self.functions.reach(programs);
        let mut maps = reach.maps;
        for Value { outer, of } in &self.values {
            if let ValueOf::Map { inner, .. } = of
                && maps.contains(outer)
            {
                maps.insert(inner.clone());
            }
        }
        let maps = maps.into_iter().collect();
        Uses { maps, external: reach.external, selects: reach.selects }
    }

    /// The maps, sorted by name, without those of variables.
    pub fn maps(&self) -> impl Iterator<Item = MapContents<'_>> {
        let variables = [EbpfSectionKind::Data, EbpfSectionKind::Bss, EbpfSectionKind::Rodata];
        let mut maps: Vec<_> = self.object.maps.iter().collect();
        maps.retain(|(_, map)| !variables.contains(&map.section_kind()));
        maps.sort_unstable_by_key(|(name, _)| *name);
        let known = |map: &aya_obj::Map| MapType::try_from(map.map_type()).ok();
        maps.into_iter().map(move |(name, map)| MapContents {
            name,
            map_type: known(map),
            key_size: map.key_size(),
            value_size: map.value_size(),
            max_entries: map.max_entries(),
            map_flags: map.map_flags(),
            is_pinned: map.pinning() == PinningType::ByName,
            inner: map.inner().as_ref().and_then(known),
            has_static_values: self.values.iter().any(|value| {
                value.outer == *name && value.of == ValueOf::Refused(Refused::StaticMap)
            }),
        })
    }

    /// The type of the values of a map.
    pub fn value_type(&self, map: &str) -> ValueType {
        let size = self.object.maps.get(map).map_or(0, aya_obj::Map::value_size);
        match self.object.maps.get(map) {
            Some(aya_obj::Map::Btf(map)) => {
                self.with_types(|types| btf::value_type(types, map.def.btf_value_type_id, size))
            }
            _ => ValueType::Unknown { size },
        }
    }

    /// A global variable or constant; `None` if there is none of this name, or without a description of its type.
    pub fn variable(&self, name: &str) -> Option<Variable> {
        let file = File::parse(self.bytes.bytes()).ok()?;
        let types = types_in(&file);
        let mut symbols = file.symbols().filter(|symbol| symbol.name() == Ok(name));
        symbols.find_map(|symbol| variable(&file, types, &symbol, name))
    }

    /// The names of the global variables and constants, sorted.
    pub fn variables(&self) -> Vec<String> {
        let Ok(file) = File::parse(self.bytes.bytes()) else { return Vec::new() };
        let types = types_in(&file);
        let of = |symbol: ElfSymbol64<'_, '_, Endianness>| {
            let name = symbol.name().ok()?;
            variable(&file, types, &symbol, name).map(|_| name.to_owned())
        };
        let mut names: Vec<String> = file.symbols().filter_map(of).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn with_types<T>(&self, read: impl FnOnce(&[u8]) -> T) -> T {
        let file = File::parse(self.bytes.bytes()).ok();
        read(file.as_ref().map(types_in).unwrap_or_default())
    }
}

/// The object's own BTF.
fn types_in<'a>(file: &File<'a>) -> &'a [u8] {
    let types = file.section_by_name(".BTF").and_then(|section| section.data().ok());
    types.unwrap_or_default()
}

/// The variable that this symbol is of, if it is one.
fn variable(
    file: &File<'_>,
    types: &[u8],
    symbol: &ElfSymbol64<'_, '_, Endianness>,
    name: &str,
) -> Option<Variable> {
    let prefixes = [".rodata", ".data", ".bss"];
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    let section = section.name().ok()?;
    prefixes.iter().find(|prefix| section.starts_with(**prefix))?;
    let size = u32::try_from(symbol.size()).ok()?;
    let (of, elements) = btf::variable(types, name, size)?;
    let offset = u32::try_from(symbol.address()).ok()?;
    Some(Variable { section: section.to_owned(), offset, of, elements })
}
