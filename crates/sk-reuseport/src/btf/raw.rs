//! Raw BTF: iterates over types without parsing them.
//!
//! Documentation/bpf/btf.rst in the kernel's tree describes the format. Only the machine's own byte
//! order is supported.

/// `struct btf_header`: magic, version, flags, length of the header, offsets of types and strings.
const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;

/// `struct btf_type`: name, kind and number of parts, size or another type.
const ENTRY: usize = 12;

pub(super) mod kind {
    pub(crate) const NONE: u32 = 0;
    pub(crate) const INT: u32 = 1;
    pub(crate) const PTR: u32 = 2;
    pub(crate) const ARRAY: u32 = 3;
    pub(crate) const STRUCT: u32 = 4;
    pub(crate) const UNION: u32 = 5;
    pub(crate) const ENUM: u32 = 6;
    pub(crate) const FWD: u32 = 7;
    pub(crate) const TYPEDEF: u32 = 8;
    pub(crate) const VOLATILE: u32 = 9;
    pub(crate) const CONST: u32 = 10;
    pub(crate) const RESTRICT: u32 = 11;
    pub(crate) const FUNC: u32 = 12;
    pub(crate) const FUNC_PROTO: u32 = 13;
    pub(crate) const VAR: u32 = 14;
    pub(crate) const DATASEC: u32 = 15;
    pub(crate) const FLOAT: u32 = 16;
    pub(crate) const DECL_TAG: u32 = 17;
    pub(crate) const TYPE_TAG: u32 = 18;
    pub(crate) const ENUM64: u32 = 19;
}

/// The two parts of BTF.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Raw<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

/// A type: the common 12 bytes, and the body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) name: u32,
    /// Kind, number of parts and a flag, as in `btf_type.info`.
    pub(super) info: u32,
    pub(super) kind: u32,
    pub(super) size_or_type: u32,
    /// Members, values or parameters, depending on the kind.
    pub(super) body: &'a [u8],
}

impl Entry<'_> {
    /// The body as words.
    pub(super) fn words(&self) -> Vec<u32> {
        let word = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap_or_default());
        self.body.chunks_exact(4).map(word).collect()
    }

    /// `kind_flag`: the upper bits of members' offsets are sizes of bit-fields.
    pub(super) fn has_flag(&self) -> bool {
        self.info >> 31 == 1
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

impl<'a> Raw<'a> {
    /// `None` if it is no BTF, or in the other byte order.
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        let magic = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
        let header = u32_at(bytes, 4)? as usize;
        if magic != MAGIC || header < HEADER {
            return None;
        }
        let part = |offset_at: usize| -> Option<&'a [u8]> {
            let start = header.checked_add(u32_at(bytes, offset_at)? as usize)?;
            let end = start.checked_add(u32_at(bytes, offset_at + 4)? as usize)?;
            bytes.get(start..end)
        };
        Some(Self { types: part(8)?, strings: part(16)? })
    }

    /// Where the types begin in the bytes that this is of.
    pub(super) fn start(&self, bytes: &[u8]) -> Option<usize> {
        (self.types.as_ptr().addr()).checked_sub(bytes.as_ptr().addr())
    }

    /// Where a string begins in the bytes that this is of.
    pub(super) fn place_of(&self, bytes: &[u8], string: u32) -> Option<usize> {
        let start = self.strings.as_ptr().addr().checked_sub(bytes.as_ptr().addr())?;
        start.checked_add(string as usize)
    }

    /// All types with their ids, which begin with 1. Ends early at an unknown kind.
    pub(super) fn types(&self) -> impl Iterator<Item = (u32, Entry<'a>)> + use<'a> {
        self.places().map(|(id, _, entry)| (id, entry))
    }

    /// All types with their ids and their places, which [`at`](Self::at) takes.
    pub(super) fn places(&self) -> impl Iterator<Item = (u32, u32, Entry<'a>)> + use<'a> {
        let (types, mut place) = (self.types, 0);
        (1..).map_while(move |id| {
            let (entry, length) = read(&types[place..])?;
            let here = u32::try_from(place).ok()?;
            place += length;
            Some((id, here, entry))
        })
    }

    /// The type at a place that [`places`](Self::places) returned.
    pub(super) fn at(&self, place: u32) -> Option<Entry<'a>> {
        read(self.types.get(place as usize..)?).map(|(entry, _)| entry)
    }

    /// An upper bound of the number of types.
    pub(super) fn at_most(&self) -> usize {
        self.types.len() / ENTRY
    }

    /// All types, and the bytes after the last one that can be read: none, unless the BTF is
    /// damaged.
    pub(super) fn parsed(&self) -> (Vec<Entry<'a>>, &'a [u8]) {
        let (mut entries, mut rest) = (Vec::new(), self.types);
        while let Some((entry, length)) = read(rest) {
            entries.push(entry);
            rest = &rest[length..];
        }
        (entries, rest)
    }

    /// Whether there is a string with its final 0 at an offset.
    pub(super) fn has_string(&self, offset: u32) -> bool {
        self.strings.get(offset as usize..).is_some_and(|tail| tail.contains(&0))
    }

    /// Whether the type has this name: much faster than reading its own name and comparing.
    pub(super) fn is_named(&self, entry: &Entry<'_>, name: &[u8]) -> bool {
        let tail = self.strings.get(entry.name as usize..).unwrap_or_default();
        tail.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&0))
    }

    /// What the type's name begins with: two bytes, of which a name of one letter has a 0.
    pub(super) fn begins(&self, entry: &Entry<'_>) -> Option<[u8; 2]> {
        let at = entry.name as usize;
        self.strings.get(at..at.checked_add(2)?)?.try_into().ok()
    }

    pub(super) fn name(&self, entry: &Entry<'_>) -> &'a [u8] {
        self.string(entry.name)
    }

    /// The string at an offset, without its final 0; empty if there is none.
    pub(super) fn string(&self, offset: u32) -> &'a [u8] {
        let tail = self.strings.get(offset as usize..).unwrap_or_default();
        tail.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

pub(super) fn kind_of(info: u32) -> u32 {
    (info >> 24) & 0x1f
}

/// Reads one type, and returns its length too.
fn read(bytes: &[u8]) -> Option<(Entry<'_>, usize)> {
    let (name, info, size_or_type) = (u32_at(bytes, 0)?, u32_at(bytes, 4)?, u32_at(bytes, 8)?);
    let kind = kind_of(info);
    let parts = (info & 0xffff) as usize;
    let body = match kind {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * parts,
        kind::ENUM | kind::FUNC_PROTO => 8 * parts,
        kind::PTR
        | kind::FWD
        | kind::TYPEDEF
        | kind::VOLATILE
        | kind::CONST
        | kind::RESTRICT
        | kind::FUNC
        | kind::FLOAT
        | kind::TYPE_TAG => 0,
        _ => return None,
    };
    let length = ENTRY + body;
    let entry = Entry { name, info, kind, size_or_type, body: bytes.get(ENTRY..length)? };
    Some((entry, length))
}

/// Writes BTF with these types and strings.
pub(super) fn write(types: &[u8], strings: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + types.len() + strings.len());
    bytes.extend_from_slice(&MAGIC.to_ne_bytes());
    bytes.extend_from_slice(&[1, 0]); // version, flags
    let (types_length, strings_length) = (types.len() as u32, strings.len() as u32);
    for word in [HEADER as u32, 0, types_length, types_length, strings_length] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(types);
    bytes.extend_from_slice(strings);
    bytes
}
