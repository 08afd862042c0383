//! The kernel types that an object's programs refer to.

use std::collections::HashSet;

use object::{Object as _, ObjectSection as _};

use super::ext::{Part, sections};
use super::raw::{Raw, kind, u32_at};

/// `enum bpf_core_relo_kind`: kinds up to `FIELD_LAST` ask for fields, kinds from `TYPE_EXISTS` on
/// for whole types, their sizes and enumerators. Those between ask for the ids of types.
const FIELD_LAST: u32 = 5;
const TYPE_EXISTS: u32 = 8;
const ENUMERATOR_LAST: u32 = 11;

/// The names of the types that the object's relocations start from, without flavours (see
/// [`essential`]). `None` if a subset of the kernel's types does not suffice.
pub(super) fn names(object: &[u8]) -> Option<HashSet<Vec<u8>>> {
    let file = object::File::parse(object).ok()?;
    let section = |name| file.section_by_name(name)?.data().ok();
    let types = Raw::new(section(".BTF")?)?;
    let entries: Vec<_> = types.types().map(|(_, entry)| entry).collect();
    let mut names = HashSet::new();
    for (type_id, relocation_kind) in relocations(section(".BTF.ext")?)? {
        let suits = relocation_kind <= FIELD_LAST
            || (TYPE_EXISTS..=ENUMERATOR_LAST).contains(&relocation_kind);
        let entry = entries.get((type_id as usize).checked_sub(1)?)?;
        // Other kinds have no name, or are compared by the type that they point to.
        let whole = matches!(entry.kind, kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64);
        if !suits || !whole {
            return None;
        }
        names.insert(essential(types.name(entry)).to_vec());
    }
    Some(names)
}

/// A type's name without its flavour: `sock___old` is another declaration of `sock`.
pub(super) fn essential(name: &[u8]) -> &[u8] {
    let flavour = name.windows(3).position(|three| three == b"___").filter(|at| *at > 0);
    &name[..flavour.unwrap_or(name.len())]
}

/// The type and the kind of each relocation.
fn relocations(ext: &[u8]) -> Option<Vec<(u32, u32)>> {
    let sections = sections(ext, Part::Relocations)?;
    let records = sections.iter().flat_map(|section| section.records());
    records.map(|record| Some((u32_at(record, 4)?, u32_at(record, 12)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flavour_names_the_same_type() {
        assert_eq!(essential(b"sock"), b"sock");
        assert_eq!(essential(b"sock___old"), b"sock");
        assert_eq!(essential(b"___sock"), b"___sock");
    }

    #[test]
    fn data_that_is_no_object_has_no_known_types() {
        assert_eq!(names(b""), None);
        assert_eq!(names(b"\x7fELF and nothing else"), None);
        assert_eq!(relocations(b""), None);
    }
}
