//! Links between the parts of an object that aya-obj does not follow: static maps, and initial values of maps
//! of maps. What cannot be linked is refused by its name, if it is used.
//!
//! A static map is referred to by its section and its offset in it, and aya-obj would take any map of the
//! section: [`resolve`] makes these relocations refer to the map's own symbol.

use object::read::elf::{ElfFile64, ElfSection64, SectionHeader as _};
use object::{Endianness, Object as _, ObjectSection as _, ObjectSymbol as _};
use object::{SectionIndex, SectionKind, SymbolIndex, SymbolKind, elf};

use crate::btf;
use crate::error::EbpfError;
use crate::hint::Hint;

/// An initial value of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) outer: String,
    pub(crate) of: ValueOf,
}

/// What the value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ValueOf {
    /// A map that is an element of a map of maps from the beginning.
    Map { index: u32, inner: String },
    /// One that this crate does not put there.
    Refused(Refused),
}

/// Why an initial value is not put into its map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Program,
    StaticMap,
    Unclear,
}

impl Refused {
    /// The error for a map that has such a value.
    pub(crate) fn error(self, outer: &str) -> EbpfError {
        let (what, hint) = match self {
            Self::Program => ("that are programs", Hint::ProgramsAsValues),
            Self::StaticMap => ("that are static maps", Hint::StaticMapsAsValues),
            Self::Unclear => ("whose places are unclear", Hint::UnclearValues),
        };
        let what = format!("initial values (`.values`) of the map `{outer}` {what}");
        EbpfError::Unsupported { what, hint }
    }
}

type File<'a> = ElfFile64<'a, Endianness>;
type Section<'a, 'b> = ElfSection64<'a, 'b, Endianness>;
type Symbol<'a, 'b> = object::read::elf::ElfSymbol64<'a, 'b, Endianness>;

/// One entry of a relocation section.
struct Relocation {
    /// Where it is in the file.
    place: usize,
    /// What it changes in its target.
    offset: u64,
    symbol: SymbolIndex,
    kind: u32,
}

/// Bytes of an `Elf64_Rel`.
const ENTRY: usize = 16;

/// Makes relocations refer to static maps by their symbols, and returns the initial values of maps.
/// Data that is no 64-bit ELF file is left to the parser.
pub(crate) fn resolve(bytes: &mut [u8]) -> Vec<Value> {
    let Ok(file) = File::parse(&*bytes) else { return Vec::new() };
    let (mut values, mut patches) = (Vec::new(), Vec::new());
    for section in file.sections() {
        let header = section.elf_section_header();
        if header.sh_type(file.endian()) != elf::SHT_REL {
            continue;
        }
        let target = SectionIndex(header.sh_info(file.endian()) as usize);
        let Ok(target) = file.section_by_index(target) else { continue };
        for relocation in relocations(&section) {
            let Ok(symbol) = file.symbol_by_index(relocation.symbol) else { continue };
            if target.kind() == SectionKind::Text {
                if let Some(info) = own_symbol(&file, &target, &relocation, &symbol) {
                    patches.push((relocation.place + 8, info));
                }
            } else if is_of_maps(&target) {
                values.push(value(&file, &target, &relocation, &symbol));
            }
        }
    }
    for (place, info) in patches {
        if let Some(bytes) = bytes.get_mut(place..place + 8) {
            bytes.copy_from_slice(&info.to_ne_bytes());
        }
    }
    values
}

fn relocations(section: &Section<'_, '_>) -> Vec<Relocation> {
    let (Ok(data), Some((start, _))) = (section.data(), section.file_range()) else {
        return Vec::new();
    };
    let word = |entry: &[u8], at: usize| {
        entry.get(at..at + 8).and_then(|word| word.try_into().ok()).map(u64::from_ne_bytes)
    };
    let read = |(index, entry): (usize, &[u8])| {
        let info = word(entry, 8)?;
        Some(Relocation {
            place: usize::try_from(start).ok()?.checked_add(index * ENTRY)?,
            offset: word(entry, 0)?,
            symbol: SymbolIndex((info >> 32) as usize),
            kind: info as u32,
        })
    };
    data.chunks_exact(ENTRY).enumerate().filter_map(read).collect()
}

/// The same relocation with the symbol of the static map that it refers to by section and offset.
fn own_symbol(
    file: &File<'_>,
    code: &Section<'_, '_>,
    relocation: &Relocation,
    symbol: &Symbol<'_, '_>,
) -> Option<u64> {
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    if symbol.kind() != SymbolKind::Section || !is_of_maps(&section) {
        return None;
    }
    // The offset is the immediate of the instruction.
    let start = usize::try_from(relocation.offset).ok()?.checked_add(4)?;
    let immediate = code.data().ok()?.get(start..start.checked_add(4)?)?;
    let offset = u64::from(u32::from_ne_bytes(immediate.try_into().ok()?));
    let address = symbol.address().checked_add(offset)?;
    let map = map_at(file, section.index(), address).filter(|map| map.address() == address)?;
    Some((map.index().0 as u64) << 32 | u64::from(relocation.kind))
}

/// The map whose definition covers an address of a section.
fn map_at<'a, 'b>(
    file: &'b File<'a>,
    section: SectionIndex,
    address: u64,
) -> Option<Symbol<'a, 'b>> {
    file.symbols().find(|symbol| {
        let end = symbol.address().saturating_add(symbol.size().max(1));
        symbol.section_index() == Some(section)
            && symbol.kind() == SymbolKind::Data
            && (symbol.address()..end).contains(&address)
    })
}

/// The initial value that a relocation in a section of maps describes.
fn value(
    file: &File<'_>,
    section: &Section<'_, '_>,
    relocation: &Relocation,
    symbol: &Symbol<'_, '_>,
) -> Value {
    const POINTER: u64 = 8;

    let map = map_at(file, section.index(), relocation.offset);
    let name = |symbol: &Symbol<'_, '_>| symbol.name().unwrap_or_default().to_owned();
    let outer = map.as_ref().map(name).unwrap_or_default();
    let refused = |why| Value { outer: outer.clone(), of: ValueOf::Refused(why) };
    let is_map = symbol.section_index() == Some(section.index());
    let inner = match symbol.kind() {
        SymbolKind::Data if is_map => name(symbol),
        // A static map: the offset is what the section has at that place.
        SymbolKind::Section if is_map => return refused(Refused::StaticMap),
        _ => return refused(Refused::Program),
    };
    let types = file.section_by_name(".BTF").and_then(|section| section.data().ok());
    let index = map.and_then(|map| {
        let inside = relocation.offset.checked_sub(map.address())?;
        let values = btf::size_of_variable(types?, outer.as_bytes())?;
        let inside = inside.checked_sub(u64::from(values))?;
        inside.is_multiple_of(POINTER).then(|| u32::try_from(inside / POINTER).ok())?
    });
    match index {
        Some(index) => Value { outer, of: ValueOf::Map { index, inner } },
        None => refused(Refused::Unclear),
    }
}

fn is_of_maps(section: &Section<'_, '_>) -> bool {
    section.name_bytes().is_ok_and(|name| name.starts_with(b"maps") || name.starts_with(b".maps"))
}
