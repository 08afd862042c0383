//! Checks of an object before aya-obj parses it. aya-obj reports most damage as an error; these are
//! the cases in which it would panic, allocate without bound, or read an invalid value into an
//! enum.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use aya_obj::ParseError;
use object::read::{Section, Symbol};
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex, SymbolKind,
};

use crate::btf;
use crate::error::EbpfError;
use crate::hint::Hint;

/// Refuses damaged objects. The parser reports data that is no ELF file.
pub(crate) fn check(bytes: &[u8]) -> Result<(), EbpfError> {
    let Ok(file) = object::File::parse(bytes) else { return Ok(()) };
    check_sizes(&file, bytes.len())?;
    check_types(&file)?;
    check_map_definitions(&file)?;
    check_code(&file)
}

/// Bytes of an instruction.
const INSTRUCTION: usize = 8;

// What can be wrong, for the message.
const TYPES: &str = "its types (.BTF, .BTF.ext) contradict each other";
const MAPS: &str = "the symbols of its maps contradict each other";
const RELOCATIONS: &str = "a relocation refers to no map, variable or function";

fn damaged(part: &'static str) -> EbpfError {
    EbpfError::Damaged { part }
}

/// Refuses ELF files for another machine or byte order.
pub(crate) fn check_header(data: &[u8]) -> Result<(), EbpfError> {
    // e_ident[EI_DATA]: 1 is little-endian, 2 big-endian.
    const EI_DATA: usize = 5;
    // e_machine: EM_BPF, or EM_NONE as early compilers had it.
    const E_MACHINE: std::ops::Range<usize> = 18..20;
    const EM_NONE: u16 = 0;
    const EM_BPF: u16 = 247;

    let other = if cfg!(target_endian = "little") { 2 } else { 1 };
    let (b"\x7fELF", Some(order), Some(&[first, second])) =
        (data.get(..4).unwrap_or_default(), data.get(EI_DATA), data.get(E_MACHINE))
    else {
        return Ok(());
    };
    let swapped = *order == other;
    let machine = u16::from_ne_bytes([first, second]);
    let machine = if swapped { machine.swap_bytes() } else { machine };
    match machine {
        EM_BPF | EM_NONE if swapped => Err(EbpfError::WrongEndianness),
        EM_BPF | EM_NONE => Ok(()),
        machine => Err(EbpfError::WrongMachine { machine }),
    }
}

/// Refuses overlapping sections and huge sections of zeros (`.bss`). The parser copies both, and
/// running out of memory ends the process.
fn check_sizes(file: &object::File<'_>, length: usize) -> Result<(), EbpfError> {
    /// More than programs have, less than machines have.
    const LIMIT: u64 = 1 << 26;

    let (mut zeros, mut rest) = (0u64, 0u64);
    for section in file.sections() {
        match section.file_range() {
            Some((_, length)) => rest = rest.saturating_add(length),
            None => zeros = zeros.saturating_add(section.size()),
        }
    }
    if zeros > LIMIT {
        return Err(EbpfError::TooLarge { zeros, limit: LIMIT });
    }
    if rest > length as u64 { Err(damaged("its sections overlap")) } else { Ok(()) }
}

fn check_types(file: &object::File<'_>) -> Result<(), EbpfError> {
    let section = |name| file.section_by_name(name).and_then(|section| section.data().ok());
    let Some(types) = section(".BTF") else { return Ok(()) };
    if btf::is_valid(types, section(".BTF.ext")) { Ok(()) } else { Err(damaged(TYPES)) }
}

/// Checks the maps. In sections named `maps` each symbol is a map, and the parser reads its kind of
/// pinning into an enum unchecked (`parse_map_def` in aya-obj's `obj.rs`).
fn check_map_definitions(file: &object::File<'_>) -> Result<(), EbpfError> {
    /// The last of `struct bpf_map_def`: 0 or 1.
    const PINNING: usize = 24;

    for section in file.sections().filter(is_of_maps) {
        let Ok(data) = section.data() else { continue };
        let mut names = HashSet::new();
        for symbol in
            file.symbols().filter(|symbol| symbol.section_index() == Some(section.index()))
        {
            // The parser keeps one of two maps of the same name, and the other's relocations fail.
            if symbol.kind() == SymbolKind::Data && !names.insert(symbol.name_bytes().ok()) {
                let name = String::from_utf8_lossy(symbol.name_bytes().unwrap_or_default());
                return Err(EbpfError::Unsupported {
                    what: format!("two maps with the name `{name}`"),
                    hint: Hint::SameName,
                });
            }
            if is_named(&section, b".maps") {
                continue;
            }
            let definition = range_of(&symbol).and_then(|range| data.get(range));
            let definition = definition.ok_or(damaged(MAPS))?;
            // Missing bytes count as zeros.
            let mut pinning = [0; 4];
            let given = definition.iter().skip(PINNING);
            pinning.iter_mut().zip(given).for_each(|(byte, given)| *byte = *given);
            if u32::from_ne_bytes(pinning) > 1 {
                let name = String::from_utf8_lossy(symbol.name_bytes().unwrap_or_default());
                return Err(ParseError::InvalidMapDefinition { name: name.into_owned() }.into());
            }
        }
    }
    Ok(())
}

/// Checks that functions lie inside their sections, at whole instructions, and that relocations are
/// of the kinds that aya-obj's `relocation.rs` handles.
fn check_code(file: &object::File<'_>) -> Result<(), EbpfError> {
    // Compiled without `-g`.
    if file.section_by_name(".BTF").is_none() && file.section_by_name(".maps").is_some() {
        return Err(EbpfError::NoTypes);
    }
    let code = Code::of(file).ok_or(damaged("a function lies outside its section"))?;
    for section in file.sections().filter(|section| code.sections.contains(&section.index())) {
        let Ok(data) = section.data() else { continue };
        for (offset, relocation) in section.relocations() {
            let RelocationTarget::Symbol(index) = relocation.target() else { continue };
            let Ok(symbol) = file.symbol_by_index(index) else { continue };
            let place = Place { section: section.index(), offset, data };
            code.check(file, &place, &symbol, relocation.size()).ok_or(damaged(RELOCATIONS))?;
        }
    }
    Ok(())
}

/// The functions and maps of an object.
struct Code<'a> {
    /// The sections that hold functions.
    sections: HashSet<SectionIndex>,
    functions: Vec<(SectionIndex, Range<usize>)>,
    /// The names of the maps in each section of maps that the object's types describe.
    maps: HashMap<SectionIndex, HashSet<&'a [u8]>>,
}

/// An instruction that a relocation changes.
struct Place<'a> {
    section: SectionIndex,
    offset: u64,
    data: &'a [u8],
}

impl<'a> Code<'a> {
    fn of(file: &object::File<'a>) -> Option<Self> {
        let types = file.section_by_name(".BTF").and_then(|section| section.data().ok());
        let maps = file
            .sections()
            .filter(|section| is_named(section, b".maps"))
            .filter_map(|section| {
                let names = btf::variables(types.unwrap_or_default(), section.name_bytes().ok()?);
                Some((section.index(), names))
            })
            .collect();
        let mut code = Self { sections: HashSet::new(), functions: Vec::new(), maps };
        for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
            let Some(index) = symbol.section_index() else { continue };
            let Ok(section) = file.section_by_index(index) else { continue };
            let range = range_of(&symbol)?;
            let is_whole = [range.start, range.end].iter().all(|at| at.is_multiple_of(INSTRUCTION));
            let is_inside = section.data().is_ok_and(|data| range.end <= data.len());
            if !is_whole || !is_inside || section.address() != 0 {
                return None;
            }
            code.sections.insert(index);
            code.functions.push((index, range));
        }
        Some(code)
    }

    /// `None` for a relocation that makes aya-obj panic.
    fn check(
        &self,
        file: &object::File<'_>,
        place: &Place<'_>,
        symbol: &Symbol<'_, '_>,
        size: u8,
    ) -> Option<()> {
        let valid = |condition: bool| condition.then_some(());
        let start = usize::try_from(place.offset).ok()?;
        let immediate = place.data.get(start.checked_add(4)?..start.checked_add(INSTRUCTION)?)?;
        let immediate = i32::from_ne_bytes(immediate.try_into().ok()?);
        let Some(section) = symbol.section_index() else {
            // The linker reports undefined symbols, except for functions.
            return valid(symbol.kind() != SymbolKind::Text);
        };
        if self.sections.contains(&section) {
            return match (symbol.kind(), size) {
                (SymbolKind::Text, _) => Some(()),
                (SymbolKind::Section, 32) => valid((-1..i32::MAX).contains(&immediate)),
                (SymbolKind::Section, 64) => valid(immediate >= 0),
                _ => None,
            };
        }
        // A map is referred to by its own symbol, never by that of its section.
        if let Some(maps) = self.maps.get(&section) {
            return valid(maps.contains(symbol.name_bytes().ok()?));
        }
        if is_named(&file.section_by_index(section).ok()?, b"maps") {
            return Some(());
        }
        // A variable's address takes two instructions and is added to the immediate.
        let inside = |(index, range): &(SectionIndex, Range<usize>)| {
            *index == place.section && range.start <= start && start < range.end
        };
        let address = symbol.address() as i32;
        valid(immediate.checked_add(address).is_some())?;
        valid(
            self.functions
                .iter()
                .filter(|function| inside(function))
                .all(|(_, range)| start + 2 * INSTRUCTION <= range.end),
        )
    }
}

/// The bytes of its section that a symbol covers.
fn range_of(symbol: &Symbol<'_, '_>) -> Option<Range<usize>> {
    let end = symbol.address().checked_add(symbol.size())?;
    Some(usize::try_from(symbol.address()).ok()?..usize::try_from(end).ok()?)
}

fn is_named(section: &Section<'_, '_>, prefix: &[u8]) -> bool {
    section.name_bytes().is_ok_and(|name| name.starts_with(prefix))
}

fn is_of_maps(section: &Section<'_, '_>) -> bool {
    is_named(section, b"maps") || is_named(section, b".maps")
}
