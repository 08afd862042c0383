//! The types, maps and variables that a compiled BPF object describes in its own BTF, for tests
//! that compare them with their mirrors in Rust.
//!
//! It is no loader: it reads the section `.BTF` of an object that clang made for this machine, and
//! panics on anything else. Documentation/bpf/btf.rst has the format.

use object::{Object as _, ObjectSection as _};

/// What an object describes. Clang describes the types that a map, a global variable or the
/// signature of a function that is not inlined refers to, and no others.
#[derive(Debug)]
pub struct Btf {
    types: Vec<Type>,
}

/// A structure or a union.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Struct {
    /// In bytes.
    pub size: usize,
    /// In their order.
    pub fields: Vec<Field>,
}

/// A field of a structure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Empty for an anonymous structure or union.
    pub name: String,
    /// In bytes, from the beginning of the structure.
    pub offset: usize,
    /// In bytes; of a bit-field, its type's.
    pub size: usize,
}

/// A map as the object declares it. What it does not declare is 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MapDefinition {
    /// The kernel's number, `BPF_MAP_TYPE_*`.
    pub kind: u32,
    /// In bytes.
    pub key_size: usize,
    /// In bytes.
    pub value_size: usize,
    /// How many elements it may have.
    pub max_entries: u32,
    /// `BPF_F_*`.
    pub flags: u32,
    /// The maps that are its values.
    pub inner: Option<Box<MapDefinition>>,
}

#[derive(Debug)]
struct Type {
    name: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Void,
    /// An integer or a floating-point number.
    Number(usize),
    Pointer(usize),
    Array {
        element: usize,
        count: usize,
    },
    Struct {
        size: usize,
        /// Name, type, offset in bits.
        members: Vec<(String, usize, usize)>,
    },
    Enum {
        size: usize,
        values: Vec<(String, i64)>,
    },
    /// A typedef, a qualifier or a variable: another name for a type.
    Alias(usize),
    /// The types and sizes of its variables.
    Section(Vec<(usize, usize)>),
    Other,
}

impl Btf {
    /// Reads the BTF of an ELF object.
    ///
    /// # Panics
    ///
    /// If it is no ELF object, or its BTF is missing, damaged or of another byte order.
    #[track_caller]
    pub fn of(object: &[u8]) -> Self {
        let file = object::File::parse(object).unwrap_or_else(|e| panic!("no object: {e}"));
        let section = file.section_by_name(".BTF").unwrap_or_else(|| panic!("no section .BTF"));
        let bytes = section.data().unwrap_or_else(|e| panic!("cannot read .BTF: {e}"));
        let mut header = Words(bytes);
        assert_eq!(header.next() & 0xffff, 0xeb9f, "the magic of BTF");
        let [start, type_offset, type_length, names] = [(); 4].map(|()| header.next() as usize);
        let names = &bytes[start + names..];
        let types = &bytes[start + type_offset..][..type_length];
        let mut words = Words(types);
        let void = Type { name: String::new(), kind: Kind::Void };
        let mut types = vec![void];
        while !words.0.is_empty() {
            types.push(Type::read(&mut words, names));
        }
        Self { types }
    }

    /// The structure or union of that name.
    pub fn structure(&self, name: &str) -> Option<Struct> {
        self.types.iter().find_map(|ty| match &ty.kind {
            Kind::Struct { size, members } if ty.name == name => {
                let field = |(name, ty, bits): &(String, usize, usize)| Field {
                    name: name.clone(),
                    offset: bits / 8,
                    size: self.size(*ty),
                };
                Some(Struct { size: *size, fields: members.iter().map(field).collect() })
            }
            _ => None,
        })
    }

    /// The names and values of the enumeration of that name, in their order.
    pub fn enumeration(&self, name: &str) -> Option<Vec<(String, i64)>> {
        self.types.iter().find_map(|ty| match &ty.kind {
            Kind::Enum { values, .. } if ty.name == name => Some(values.clone()),
            _ => None,
        })
    }

    /// The maps of `.maps`, by name, in the order of their declaration.
    ///
    /// # Panics
    ///
    /// If a map is declared in a way that this does not know.
    pub fn maps(&self) -> Vec<(String, MapDefinition)> {
        let map = |(ty, _): &(usize, usize)| (self.types[*ty].name.clone(), self.map(*ty));
        self.section(".maps").iter().map(map).collect()
    }

    /// The names and sizes in bytes of the variables of a section, such as `.rodata`, in the order
    /// of their declaration.
    pub fn variables(&self, section: &str) -> Vec<(String, usize)> {
        let variable = |&(ty, size): &(usize, usize)| (self.types[ty].name.clone(), size);
        self.section(section).iter().map(variable).collect()
    }

    fn section(&self, name: &str) -> &[(usize, usize)] {
        let section = self.types.iter().find_map(|ty| match &ty.kind {
            Kind::Section(variables) if ty.name == name => Some(variables.as_slice()),
            _ => None,
        });
        section.unwrap_or_default()
    }

    /// What a type is without its typedefs and qualifiers.
    fn resolve(&self, mut ty: usize) -> &Kind {
        loop {
            match &self.types[ty].kind {
                Kind::Alias(other) => ty = *other,
                kind => return kind,
            }
        }
    }

    fn size(&self, ty: usize) -> usize {
        match self.resolve(ty) {
            Kind::Number(size) | Kind::Struct { size, .. } | Kind::Enum { size, .. } => *size,
            Kind::Pointer(_) => 8,
            Kind::Array { element, count } => self.size(*element) * count,
            kind => panic!("{kind:?} has no size"),
        }
    }

    /// `__uint(name, n)` declares a pointer to an array of n elements, `__type(name, type)` a
    /// pointer to the type, `__array(values, map)` an array of pointers to the map (bpf_helpers.h).
    fn map(&self, ty: usize) -> MapDefinition {
        let Kind::Struct { members, .. } = self.resolve(ty) else { panic!("no structure: {ty}") };
        let mut map = MapDefinition::default();
        for (name, ty, _) in members {
            let (target, number) = match *self.resolve(*ty) {
                Kind::Pointer(target) => (target, self.resolve(target)),
                Kind::Array { element, .. } => (element, self.resolve(element)),
                _ => panic!("{name} is neither a pointer nor an array"),
            };
            let number = || match number {
                Kind::Array { count, .. } => *count,
                _ => panic!("{name} is no number"),
            };
            match name.as_str() {
                "type" => map.kind = number() as u32,
                "max_entries" => map.max_entries = number() as u32,
                "map_flags" => map.flags = number() as u32,
                "key_size" => map.key_size = number(),
                "value_size" => map.value_size = number(),
                "key" => map.key_size = self.size(target),
                "value" => map.value_size = self.size(target),
                "values" => {
                    let Kind::Pointer(inner) = *self.resolve(target) else {
                        panic!("{name} are no maps")
                    };
                    map.inner = Some(Box::new(self.map(inner)));
                }
                "pinning" => {}
                _ => panic!("unknown attribute {name} of a map"),
            }
        }
        map
    }
}

impl Type {
    fn read(words: &mut Words<'_>, names: &[u8]) -> Self {
        let name = string(names, words.next());
        let info = words.next();
        let (count, kind, flag) = (info & 0xffff, info >> 24 & 0x1f, info >> 31 == 1);
        let word = words.next();
        let target = word as usize;
        let kind = match kind {
            1 => {
                words.next(); // its encoding
                Kind::Number(target)
            }
            2 => Kind::Pointer(target),
            3 => {
                let [element, _index, count] = words.take();
                Kind::Array { element: element as usize, count: count as usize }
            }
            4 | 5 => {
                let member = |[name, ty, bits]: [u32; 3]| {
                    // With the flag, the upper byte is the size of a bit-field.
                    let bits = if flag { bits & 0xff_ffff } else { bits };
                    (string(names, name), ty as usize, bits as usize)
                };
                let members = (0..count).map(|_| member(words.take())).collect();
                Kind::Struct { size: target, members }
            }
            6 => {
                // Without the flag, values are unsigned only if all are positive: the same number.
                let value =
                    |[name, value]: [u32; 2]| (string(names, name), i64::from(value as i32));
                Kind::Enum {
                    size: target,
                    values: (0..count).map(|_| value(words.take())).collect(),
                }
            }
            8..=11 | 18 => Kind::Alias(target),
            13 => {
                (0..count).for_each(|_| _ = words.take::<2>());
                Kind::Other
            }
            14 => {
                words.next(); // its linkage
                Kind::Alias(target)
            }
            15 => {
                let variable = |[ty, _offset, size]: [u32; 3]| (ty as usize, size as usize);
                Kind::Section((0..count).map(|_| variable(words.take())).collect())
            }
            16 => Kind::Number(target),
            17 => {
                words.next(); // which component it is a tag of
                Kind::Other
            }
            19 => {
                let value = |[name, low, high]: [u32; 3]| {
                    (string(names, name), (u64::from(high) << 32 | u64::from(low)).cast_signed())
                };
                Kind::Enum {
                    size: target,
                    values: (0..count).map(|_| value(words.take())).collect(),
                }
            }
            7 | 12 => Kind::Other, // declarations and functions
            kind => panic!("unknown kind {kind} of BTF"),
        };
        Self { name, kind }
    }
}

/// What is left to be read.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn next(&mut self) -> u32 {
        let (word, rest) = self.0.split_first_chunk().unwrap_or_else(|| panic!("BTF is cut short"));
        self.0 = rest;
        u32::from_ne_bytes(*word)
    }

    fn take<const N: usize>(&mut self) -> [u32; N] {
        std::array::from_fn(|_| self.next())
    }
}

fn string(names: &[u8], offset: u32) -> String {
    let bytes = names[offset as usize..].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests;
