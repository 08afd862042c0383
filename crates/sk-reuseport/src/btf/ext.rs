//! `.BTF.ext`: the records that tie an object's instructions to its types.

use super::raw::u32_at;

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
