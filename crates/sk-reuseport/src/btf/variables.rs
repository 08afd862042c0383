//! The types of an object's variables and of its maps' values, as far as values of them can be written down.

use super::raw::{Entry, Raw, kind};

/// A type whose values can be written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ValueType {
    /// An integer or an enumeration.
    Integer {
        /// Bytes: 1, 2, 4, 8.
        size: u32,
        /// Whether it has negative values.
        signed: bool,
        /// Whether it is in network byte order (`__be16`, `__be32`, `__be64`).
        big_endian: bool,
    },
    /// A `bool`, of one byte.
    Bool,
    /// An array of bytes, or a `struct in_addr` or `in6_addr`.
    Bytes {
        /// How many.
        len: u32,
    },
    /// Any other type.
    Other {
        /// Bytes of a value.
        size: u32,
    },
    /// The object does not describe it.
    Unknown {
        /// Bytes of a value.
        size: u32,
    },
}

impl ValueType {
    /// Bytes of a value.
    pub fn size(self) -> u32 {
        match self {
            Self::Integer { size, .. } | Self::Other { size } | Self::Unknown { size } => size,
            Self::Bool => 1,
            Self::Bytes { len } => len,
        }
    }
}

/// A variable of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Variable {
    /// The map that holds it: `.rodata`, `.data`, `.bss`, or a section of another name that begins with these.
    pub section: String,
    /// Where it begins in the map's value.
    pub offset: u32,
    /// The type: that of the elements, if it is an array of more than bytes.
    pub of: ValueType,
    /// The number of elements, if it is an array of more than bytes.
    pub elements: Option<u32>,
}

impl Variable {
    /// Where an element begins in the map's value; `None` beyond the last one. A variable that is no array has one.
    pub fn place_of(&self, element: u32) -> Option<u32> {
        if element >= self.elements.unwrap_or(1) {
            return None;
        }
        self.offset.checked_add(element.checked_mul(self.of.size())?)
    }
}

/// The types of an object.
struct Types<'a> {
    raw: Raw<'a>,
    entries: Vec<Entry<'a>>,
}

impl<'a> Types<'a> {
    fn new(types: &'a [u8]) -> Self {
        let raw = Raw::new(types).unwrap_or_default();
        Self { raw, entries: raw.parsed().0 }
    }

    fn at(&self, id: u32) -> Option<&Entry<'a>> {
        self.entries.get((id as usize).checked_sub(1)?)
    }

    /// The type without its qualifiers, and whether a name on the way says that it is in network byte order.
    fn resolved(&self, mut id: u32) -> Option<(&Entry<'a>, bool)> {
        let mut big_endian = false;
        // Damaged types may form a circle.
        for _ in 0..self.entries.len() {
            let entry = self.at(id)?;
            match entry.kind {
                kind::TYPEDEF => {
                    big_endian |= self.raw.name(entry).starts_with(b"__be");
                    id = entry.size_or_type;
                }
                kind::CONST | kind::VOLATILE | kind::RESTRICT | kind::TYPE_TAG => {
                    id = entry.size_or_type;
                }
                _ => return Some((entry, big_endian)),
            }
        }
        None
    }

    fn value_type(&self, id: u32, size: u32) -> ValueType {
        const SIGNED: u32 = 1;
        const BOOL: u32 = 4;

        let Some((entry, big_endian)) = self.resolved(id) else {
            return ValueType::Unknown { size };
        };
        let whole = matches!(size, 1 | 2 | 4 | 8);
        match entry.kind {
            kind::INT if whole && entry.size_or_type == size => {
                let encoding = entry.words().first().map_or(0, |word| word >> 24);
                match encoding & BOOL != 0 {
                    true => ValueType::Bool,
                    false => {
                        ValueType::Integer { size, signed: encoding & SIGNED != 0, big_endian }
                    }
                }
            }
            kind::ENUM | kind::ENUM64 if whole => {
                ValueType::Integer { size, signed: entry.has_flag(), big_endian }
            }
            kind::ARRAY if self.elements(entry).is_some_and(|(of, _)| self.size_of(of) == 1) => {
                ValueType::Bytes { len: size }
            }
            kind::STRUCT if matches!(self.raw.name(entry), b"in_addr" | b"in6_addr") => {
                ValueType::Bytes { len: size }
            }
            _ => ValueType::Other { size },
        }
    }

    /// The type and the number of an array's elements.
    fn elements(&self, array: &Entry<'_>) -> Option<(u32, u32)> {
        match array.words().as_slice() {
            [of, _, count] => Some((*of, *count)),
            _ => None,
        }
    }

    /// The size of a type without elements; 0 for others.
    fn size_of(&self, id: u32) -> u32 {
        let sized = [kind::INT, kind::ENUM, kind::ENUM64, kind::STRUCT, kind::UNION];
        let entry = self.resolved(id).map(|(entry, _)| entry);
        entry.filter(|entry| sized.contains(&entry.kind)).map_or(0, |entry| entry.size_or_type)
    }
}

/// The type of a variable of this size: that of its elements with their number, if it is an array of more than
/// bytes. The sections of the file have its place.
pub(crate) fn variable(types: &[u8], name: &str, size: u32) -> Option<(ValueType, Option<u32>)> {
    let types = Types::new(types);
    let is_it =
        |entry: &&Entry<'_>| entry.kind == kind::VAR && types.raw.name(entry) == name.as_bytes();
    let id = types.entries.iter().find(is_it)?.size_or_type;
    let array = types.resolved(id).and_then(|(entry, _)| {
        (entry.kind == kind::ARRAY).then(|| types.elements(entry)).flatten()
    });
    Some(match (types.value_type(id, size), array) {
        (ValueType::Other { .. }, Some((of, count))) if count > 0 => {
            (types.value_type(of, size / count), Some(count))
        }
        (of, _) => (of, None),
    })
}

/// The type with this id, of this size.
pub(crate) fn value_type(types: &[u8], id: u32, size: u32) -> ValueType {
    Types::new(types).value_type(id, size)
}
