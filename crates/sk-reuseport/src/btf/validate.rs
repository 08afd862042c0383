//! Checks of an object's types before aya-obj reads them: it follows some ids and offsets
//! unchecked, and panics if they are out of range.

use std::collections::HashSet;

use super::ext::{Part, sections};
use super::raw::{Entry, Raw, kind, kind_of, u32_at};

/// Whether aya-obj can read an object's types (`.BTF`), and the records that tie its instructions
/// to them (`.BTF.ext`).
pub(crate) fn is_valid(types: &[u8], ext: Option<&[u8]>) -> bool {
    let Some(raw) = Raw::new(types) else { return false };
    let (entries, rest) = raw.parsed();
    if !rest.is_empty() {
        // The parser reports a kind that it does not know, but takes kind 0 for a type without a
        // body.
        return u32_at(rest, 4).is_none_or(|info| kind_of(info) != kind::NONE);
    }
    let types = Types { raw, entries };
    types.entries.iter().all(|entry| types.is_valid_type(entry))
        && ext.is_none_or(|ext| types.is_valid_ext(ext).is_some())
}

/// The names of the variables in a section, according to an object's types.
pub(crate) fn variables<'a>(types: &'a [u8], section: &[u8]) -> HashSet<&'a [u8]> {
    let raw = Raw::new(types).unwrap_or_default();
    let (entries, _) = raw.parsed();
    let of_section = |entry: &&Entry<'_>| entry.kind == kind::DATASEC && raw.name(entry) == section;
    entries
        .iter()
        .filter(of_section)
        .flat_map(|entry| entry.words())
        .step_by(3)
        .filter_map(|id| Some(raw.name(entries.get((id as usize).checked_sub(1)?)?)))
        .collect()
}

/// The size of a variable whose type is a structure, without a flexible array at its end.
pub(crate) fn size_of_variable(types: &[u8], name: &[u8]) -> Option<u32> {
    let raw = Raw::new(types)?;
    let (entries, _) = raw.parsed();
    let at = |id: u32| entries.get((id as usize).checked_sub(1)?);
    let variable =
        entries.iter().find(|entry| entry.kind == kind::VAR && raw.name(entry) == name)?;
    let mut entry = at(variable.size_or_type)?;
    // Damaged types may form a circle.
    for _ in 0..entries.len() {
        match entry.kind {
            kind::STRUCT => return Some(entry.size_or_type),
            kind::TYPEDEF | kind::CONST | kind::VOLATILE | kind::TYPE_TAG => {
                entry = at(entry.size_or_type)?;
            }
            _ => return None,
        }
    }
    None
}

struct Types<'a> {
    raw: Raw<'a>,
    entries: Vec<Entry<'a>>,
}

impl Types<'_> {
    fn is_valid_type(&self, entry: &Entry<'_>) -> bool {
        /// `BTF_VAR_GLOBAL_EXTERN`.
        const LAST_LINKAGE: u32 = 2;

        let words = entry.words();
        let of_size = |length| words.chunks_exact(length);
        self.is_name(entry.name)
            && match entry.kind {
                kind::PTR
                | kind::TYPEDEF
                | kind::VOLATILE
                | kind::CONST
                | kind::RESTRICT
                | kind::FUNC
                | kind::DECL_TAG
                | kind::TYPE_TAG => self.is_id(entry.size_or_type),
                // Read into an enum unchecked (`BtfType::read` in aya-obj's `btf/types.rs`).
                kind::VAR => self.is_id(entry.size_or_type) && words[0] <= LAST_LINKAGE,
                kind::ARRAY => {
                    let size = self.size_of(words[0]).checked_mul(words[2].into());
                    words[..2].iter().all(|id| self.is_id(*id))
                        && size.is_some_and(|size| u32::try_from(size).is_ok())
                }
                kind::STRUCT | kind::UNION => of_size(3).all(|member| {
                    let [name, id, offset] = [member[0], member[1], member[2]];
                    let bits = if entry.has_flag() { offset >> 24 } else { 0 };
                    let fits = bits == 0 || (1..=8).contains(&self.size_of(id));
                    self.is_name(name) && self.is_id(id) && fits
                }),
                kind::ENUM => of_size(2).all(|value| self.is_name(value[0])),
                kind::ENUM64 => of_size(3).all(|value| self.is_name(value[0])),
                kind::FUNC_PROTO => {
                    self.is_id(entry.size_or_type)
                        && of_size(2).all(|one| self.is_name(one[0]) && self.is_id(one[1]))
                }
                kind::DATASEC => of_size(3).all(|variable| self.is_id(variable[0])),
                _ => true,
            }
    }

    fn is_id(&self, id: u32) -> bool {
        id as usize <= self.entries.len()
    }

    fn is_name(&self, offset: u32) -> bool {
        self.raw.has_string(offset)
    }

    /// The size of a type in bytes; 0 for a type without a size.
    fn size_of(&self, id: u32) -> u64 {
        /// As deep as aya-obj goes (`MAX_RESOLVE_DEPTH`).
        const DEPTH: usize = 32;

        let mut id = id as usize;
        for _ in 0..DEPTH {
            let Some(entry) = id.checked_sub(1).and_then(|at| self.entries.get(at)) else { break };
            match entry.kind {
                kind::TYPEDEF
                | kind::VOLATILE
                | kind::CONST
                | kind::RESTRICT
                | kind::VAR
                | kind::DECL_TAG
                | kind::TYPE_TAG => id = entry.size_or_type as usize,
                // aya-obj looks at the innermost array alone (`Btf::type_size`).
                kind::ARRAY => id = entry.words()[0] as usize,
                kind::PTR => return 8,
                kind::INT
                | kind::STRUCT
                | kind::UNION
                | kind::ENUM
                | kind::DATASEC
                | kind::FLOAT
                | kind::ENUM64 => return entry.size_or_type.into(),
                _ => break,
            }
        }
        0
    }

    /// `None` if a record is cut off, or refers to a name or a type that does not exist.
    fn is_valid_ext(&self, ext: &[u8]) -> Option<()> {
        let valid = |condition: bool| condition.then_some(());
        for part in [Part::FuncInfo, Part::LineInfo, Part::Relocations] {
            for section in sections(ext, part)? {
                valid(self.raw.has_string(section.name))?;
                let mut last = 0;
                for record in section.records() {
                    let instruction = u32_at(record, 0)?;
                    match part {
                        Part::FuncInfo => {}
                        // aya-obj subtracts that of a function's first line from those of the
                        // others (`link_func_and_line_info`).
                        Part::LineInfo => valid(instruction >= last)?,
                        Part::Relocations => {
                            valid(self.is_id(u32_at(record, 4)?))?;
                            valid(self.is_name(u32_at(record, 8)?))?;
                        }
                    }
                    last = instruction;
                }
            }
        }
        Some(())
    }
}
