//! `.BTF.ext`: the records that tie an object's instructions to its types.

use super::raw::{Raw, u32_at};

/// The parts, with the offset of their fields in `struct btf_ext_header`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    FuncInfo = 8,
    LineInfo = 16,
    Relocations = 24,
}

impl Part {
    /// Bytes of `struct bpf_func_info`, `struct bpf_line_info` and `struct bpf_core_relo`.
    fn record_size(self) -> usize {
        match self {
            Self::FuncInfo => 8,
            Self::LineInfo | Self::Relocations => 16,
        }
    }
}

/// The records of one part that belong to one section.
#[derive(Debug)]
pub(super) struct SectionRecords<'a> {
    /// The offset of the section's name in the strings of the object's BTF.
    pub(super) name: u32,
    /// Bytes of a record, at least as many as this crate reads.
    record_size: usize,
    bytes: &'a [u8],
}

impl<'a> SectionRecords<'a> {
    pub(super) fn records(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.bytes.chunks_exact(self.record_size)
    }
}

/// One part of `.BTF.ext`, section by section. `None` if it is damaged.
pub(super) fn sections(ext: &[u8], part: Part) -> Option<Vec<SectionRecords<'_>>> {
    let header = u32_at(ext, 4)? as usize;
    if header < part as usize + 8 {
        return Some(Vec::new());
    }
    let start = header.checked_add(u32_at(ext, part as usize)? as usize)?;
    let length = u32_at(ext, part as usize + 4)? as usize;
    let bytes = ext.get(start..start.checked_add(length)?)?;
    let mut sections = Vec::new();
    if bytes.is_empty() {
        return Some(sections);
    }
    let record_size = u32_at(bytes, 0)? as usize;
    if record_size < part.record_size() {
        return None;
    }
    let mut rest = &bytes[4..];
    while rest.len() > 8 {
        let (name, count) = (u32_at(rest, 0)?, u32_at(rest, 4)? as usize);
        let end = count.checked_mul(record_size)?.checked_add(8)?;
        sections.push(SectionRecords { name, record_size, bytes: rest.get(8..end)? });
        rest = &rest[end..];
    }
    Some(sections)
}

/// Drops the relocations of fields (CO-RE) that `keep` does not want, by section and offset: those of code that is
/// not loaded. The parser looks for the function of each.
pub(crate) fn retain_relocations(types: &[u8], ext: &mut [u8], keep: impl Fn(&[u8], u64) -> bool) {
    let raw = Raw::new(types).unwrap_or_default();
    let Some(sections) = sections(ext, Part::Relocations) else { return };
    let mut kept: Vec<u8> = Vec::new();
    let mut dropped = false;
    for section in &sections {
        let name = raw.string(section.name);
        let of_section: Vec<&[u8]> = section
            .records()
            .filter(|record| u32_at(record, 0).is_some_and(|at| keep(name, at.into())))
            .collect();
        dropped |= of_section.len() < section.records().count();
        if of_section.is_empty() {
            continue;
        }
        kept.extend(section.name.to_ne_bytes());
        kept.extend((of_section.len() as u32).to_ne_bytes());
        of_section.iter().for_each(|record| kept.extend_from_slice(record));
    }
    let place = || {
        let start = (u32_at(ext, 4)? as usize)
            .checked_add(u32_at(ext, Part::Relocations as usize)? as usize)?;
        start.checked_add(4)
    };
    let (true, Some(start)) = (dropped, place()) else { return };
    // The size of a record stays in front of them.
    let length = (kept.len() + 4) as u32;
    if let Some(place) = ext.get_mut(start..start + kept.len()) {
        place.copy_from_slice(&kept);
        let at = Part::Relocations as usize + 4;
        ext[at..at + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// Gives a section another name of the same length, where the records name it.
pub(crate) fn rename_section(types: &mut [u8], ext: &[u8], from: &[u8], to: &[u8]) {
    let raw = Raw::new(types).unwrap_or_default();
    let parts = [Part::FuncInfo, Part::LineInfo, Part::Relocations];
    let named = parts.into_iter().flat_map(|part| sections(ext, part).unwrap_or_default());
    let places: Vec<usize> = named
        .filter(|section| raw.string(section.name) == from)
        .filter_map(|section| raw.place_of(types, section.name))
        .collect();
    for place in places {
        if let Some(name) = types.get_mut(place..place + to.len()) {
            name.copy_from_slice(to);
        }
    }
}
