//! Takes out of an object's file what is not loaded, before the parser sees it: it refuses the whole object for a
//! section of programs that it does not know. All changes are made in place.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use object::elf;
use object::read::elf::{FileHeader as _, SectionHeader as _};
use object::{Object as _, ObjectSection as _, SectionIndex};

use crate::btf;
use crate::functions::{File, Function, Functions, Reach, SectionType};

/// Hides the sections of programs that are not reached, renames sections that the parser knows by no name, and
/// drops what describes either.
pub(crate) fn prune(bytes: &mut [u8], functions: &Functions, reach: &Reach) {
    let Some(plan) = plan(bytes, functions, reach) else { return };
    let Plan { hidden, renamed, types, ext } = plan;
    for header in hidden {
        // Programs are no notes: the parser passes over them, and over their relocations.
        write(bytes, header + 4, &elf::SHT_NOTE.to_ne_bytes());
        write(bytes, header + 8, &0u64.to_ne_bytes());
    }
    for (place, _, to) in &renamed {
        write(bytes, *place, to);
    }
    let Some(types) = types.filter(|types| types.end <= bytes.len()) else { return };
    btf::hide_externs(&mut bytes[types.clone()]);
    let Some(ext) = ext.filter(|ext| ext.end <= bytes.len()) else { return };
    let mut records = bytes[ext.clone()].to_vec();
    let kept = ranges(functions, reach);
    btf::retain_relocations(&bytes[types.clone()], &mut records, |section, offset| {
        kept.get(section).is_some_and(|ranges| ranges.iter().any(|range| range.contains(&offset)))
    });
    for (_, from, to) in &renamed {
        btf::rename_section(&mut bytes[types.clone()], &records, from, to);
    }
    write(bytes, ext.start, &records);
}

/// What to change, as places in the file.
struct Plan {
    /// Headers of sections to hide.
    hidden: Vec<usize>,
    /// Names of sections: the place, the name, and one that the parser knows.
    renamed: Vec<(usize, Vec<u8>, Vec<u8>)>,
    types: Option<Range<usize>>,
    ext: Option<Range<usize>>,
}

fn plan(bytes: &[u8], functions: &Functions, reach: &Reach) -> Option<Plan> {
    let file = File::parse(bytes).ok()?;
    let (endian, header) = (file.endian(), file.elf_header());
    let table = usize::try_from(header.e_shoff(endian)).ok()?;
    let size = usize::from(header.e_shentsize(endian));
    let place = |index: SectionIndex| index.0.checked_mul(size)?.checked_add(table);
    let reached: HashSet<usize> = reach.functions.iter().map(|(section, _)| *section).collect();
    let is_hidden = |index: SectionIndex| {
        let section = functions.sections.get(&index);
        section.is_some_and(|s| s.of.has_programs()) && !reached.contains(&index.0)
    };
    let names = file.section_by_index(SectionIndex(header.e_shstrndx(endian).into())).ok()?;
    let (names, _) = names.file_range()?;
    let (mut hidden, mut renamed) = (Vec::new(), Vec::new());
    for section in file.sections() {
        let header = section.elf_section_header();
        let target = match header.sh_type(endian) {
            elf::SHT_REL => SectionIndex(header.sh_info(endian) as usize),
            _ => section.index(),
        };
        if is_hidden(target) {
            hidden.push(place(section.index())?);
        } else if functions
            .sections
            .get(&section.index())
            .is_some_and(|s| matches!(s.of, SectionType::SelectsBySuffix))
        {
            let place = usize::try_from(names).ok()?.checked_add(header.sh_name(endian) as usize)?;
            let from = section.name_bytes().ok()?;
            renamed.push((place, from.to_vec(), stand_in(from)));
        }
    }
    let range = |name| {
        let (start, length) = file.section_by_name(name)?.file_range()?;
        let start = usize::try_from(start).ok()?;
        Some(start..start.checked_add(usize::try_from(length).ok()?)?)
    };
    Some(Plan { hidden, renamed, types: range(".BTF"), ext: range(".BTF.ext") })
}

/// A name of the same length, of a section that the parser knows. Only [`Functions`] tells the two apart. The suffix
/// stays, because other names may share its bytes.
fn stand_in(name: &[u8]) -> Vec<u8> {
    let suffix = name.strip_prefix(b"sk_reuseport/").unwrap_or(name);
    [b"sk_lookup/___", suffix].concat()
}

/// The parts of each section that are loaded.
fn ranges<'a>(functions: &'a Functions, reach: &Reach) -> HashMap<&'a [u8], Vec<Range<u64>>> {
    let mut ranges: HashMap<&[u8], Vec<Range<u64>>> = HashMap::new();
    for Function { section, range, .. } in
        functions.all.iter().filter(|function| reach.functions.contains(&function.key()))
    {
        if let Some(section) = functions.sections.get(section) {
            ranges.entry(section.name.as_bytes()).or_default().push(range.clone());
        }
    }
    ranges
}

fn write(bytes: &mut [u8], at: usize, new: &[u8]) {
    if let Some(place) = at.checked_add(new.len()).and_then(|end| bytes.get_mut(at..end)) {
        place.copy_from_slice(new);
    }
}
