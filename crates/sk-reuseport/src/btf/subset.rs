//! A subset of BTF: types by their names, and the types that they contain.

use std::collections::{HashMap, HashSet};

use super::raw::{Entry, Raw, kind, write};
use super::required_types::essential;

/// The types with these names and the types that they contain, as BTF with new ids. Pointers become
/// pointers to void: a program that follows a pointer names the next type itself.
///
/// `None` if a type refers to one that does not exist.
pub(super) fn subset(all: &Raw<'_>, names: &HashSet<Vec<u8>>) -> Option<Vec<u8>> {
    // Types refer to each other by number, so the place of each is kept. Keeping all of the 150,000
    // parsed entries, of which a few thousand are needed, would take megabytes.
    let mut places = Vec::with_capacity(all.at_most());
    let mut subset = Subset::default();
    let beginnings = Beginnings::of(names);
    for (id, place, entry) in all.places() {
        places.push(place);
        if is_whole(entry.kind)
            && all.begins(&entry).is_some_and(|begins| beginnings.has(begins))
            && names.contains(essential(all.name(&entry)))
        {
            subset.want(id);
        }
    }
    // Each type may add more types, which are written after it.
    let (mut types, mut strings) = (Vec::new(), Strings::default());
    let mut next = 0;
    while let Some(id) = subset.order.get(next).copied() {
        let entry = all.at(*places.get((id as usize).checked_sub(1)?)?)?;
        subset.write(all, &entry, &mut types, &mut strings);
        next += 1;
    }
    Some(write(&types, &strings.bytes))
}

fn is_whole(of: u32) -> bool {
    matches!(of, kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64)
}

/// The first two bytes of names, as a set of bits: they tell most of the kernel's types from those that are wanted.
struct Beginnings(Vec<u64>);

impl Beginnings {
    fn of(names: &HashSet<Vec<u8>>) -> Self {
        let mut bits = vec![0; (1 << 16) / 64];
        for name in names {
            if let [first, rest @ ..] = name.as_slice() {
                let (word, bit) = Self::place([*first, rest.first().copied().unwrap_or(0)]);
                bits[word] |= bit;
            }
        }
        Self(bits)
    }

    fn has(&self, begins: [u8; 2]) -> bool {
        let (word, bit) = Self::place(begins);
        self.0[word] & bit != 0
    }

    /// A name of one letter ends, or goes on with its flavour.
    fn place([first, second]: [u8; 2]) -> (usize, u64) {
        let second = if second == b'_' { 0 } else { second };
        let number = usize::from(u16::from_be_bytes([first, second]));
        (number / 64, 1 << (number % 64))
    }
}

/// The types of the subset, in order, and their new ids.
#[derive(Default)]
struct Subset {
    order: Vec<u32>,
    ids: HashMap<u32, u32>,
}

impl Subset {
    /// The new id of a type; 0 (void) stays 0.
    fn want(&mut self, id: u32) -> u32 {
        if id == 0 {
            return 0;
        }
        *self.ids.entry(id).or_insert_with(|| {
            self.order.push(id);
            self.order.len() as u32
        })
    }

    fn write(
        &mut self,
        all: &Raw<'_>,
        entry: &Entry<'_>,
        out: &mut Vec<u8>,
        strings: &mut Strings,
    ) {
        let name = strings.add(all.name(entry));
        let size_or_type = match entry.kind {
            // A pointer to void.
            kind::PTR => 0,
            kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                self.want(entry.size_or_type)
            }
            kind::FUNC_PROTO => 0,
            _ => entry.size_or_type,
        };
        // Function types are only pointed to, so they need no parameters.
        let info = if entry.kind == kind::FUNC_PROTO { kind::FUNC_PROTO << 24 } else { entry.info };
        let words = entry.words();
        let body = match entry.kind {
            // Name, type, offset of each member.
            kind::STRUCT | kind::UNION => words
                .chunks_exact(3)
                .flat_map(|m| [strings.add(all.string(m[0])), self.want(m[1]), m[2]])
                .collect(),
            // Type of the elements, type of the index, number.
            kind::ARRAY => match words.as_slice() {
                [element, index, count] => vec![self.want(*element), self.want(*index), *count],
                _ => words,
            },
            // Name and value of each enumerator.
            kind::ENUM => named(&words, 2, all, strings),
            kind::ENUM64 => named(&words, 3, all, strings),
            kind::FUNC_PROTO => Vec::new(),
            _ => words,
        };
        for word in [name, info, size_or_type].into_iter().chain(body) {
            out.extend_from_slice(&word.to_ne_bytes());
        }
    }
}

/// Copies records that begin with a name.
fn named(words: &[u32], length: usize, all: &Raw<'_>, strings: &mut Strings) -> Vec<u32> {
    let mut records = words.to_vec();
    for record in records.chunks_exact_mut(length) {
        record[0] = strings.add(all.string(record[0]));
    }
    records
}

/// The strings of the subset, each once. Offset 0 is the empty string.
struct Strings {
    bytes: Vec<u8>,
    offsets: HashMap<Vec<u8>, u32>,
}

impl Default for Strings {
    fn default() -> Self {
        Self { bytes: vec![0], offsets: HashMap::new() }
    }
}

impl Strings {
    fn add(&mut self, string: &[u8]) -> u32 {
        if string.is_empty() {
            return 0;
        }
        if let Some(offset) = self.offsets.get(string) {
            return *offset;
        }
        let offset = self.bytes.len() as u32;
        self.bytes.extend_from_slice(string);
        self.bytes.push(0);
        self.offsets.insert(string.to_vec(), offset);
        offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_their_first_two_bytes_with_and_without_a_flavour() {
        let names = ["sock", "x", ""].map(|name| name.as_bytes().to_vec());
        let beginnings = Beginnings::of(&HashSet::from(names));
        for name in [b"so", b"x\0", b"x_"] {
            assert!(beginnings.has(*name), "{name:?}");
        }
        for name in [b"se", b"os", b"xs", b"\0s"] {
            assert!(!beginnings.has(*name), "{name:?}");
        }
    }
}
