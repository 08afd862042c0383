//! The functions of an object, and what each refers to: other functions, maps, sections of variables, and what the
//! object does not define. Reads the file; the parser does not tell.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::str::FromStr as _;

use aya_obj::ProgramSection;
use aya_obj::generated::{BPF_CALL, BPF_JMP, BPF_PSEUDO_CALL, bpf_func_id};
use aya_obj::programs::SkReuseportAttachType;
use object::read::elf::{ElfFile64, ElfSection64, ElfSymbol64};
use object::{Endianness, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget};
use object::{Relocation, SectionIndex, SectionKind, SymbolKind};

use crate::btf;
use crate::error::Extern;

pub(crate) type File<'a> = ElfFile64<'a, Endianness>;

/// Bytes of an instruction.
const INSTRUCTION: u64 = 8;

/// The type of the programs in a section.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SectionType {
    /// `.text`: functions that programs call.
    Text,
    /// Programs that select sockets, in a section that the parser knows by this name.
    Selects(SkReuseportAttachType),
    /// Programs that select sockets, in a section with another suffix: `sk_reuseport/by_user`.
    SelectsBySuffix,
    /// Other programs that this crate loads.
    Loaded,
    /// Programs of a type that this crate does not load.
    Unsupported,
}

impl SectionType {
    fn of(name: &str) -> Self {
        if name.starts_with(".text") {
            return Self::Text;
        }
        match ProgramSection::from_str(name) {
            Ok(ProgramSection::SkReuseport { attach_type }) => Self::Selects(attach_type),
            Ok(
                ProgramSection::BtfTracePoint
                | ProgramSection::Iter { .. }
                | ProgramSection::CgroupSock { .. },
            ) => Self::Loaded,
            Err(_) if name.starts_with("sk_reuseport/") => Self::SelectsBySuffix,
            _ => Self::Unsupported,
        }
    }

    /// How its programs select; `None` for those that do not.
    pub(crate) fn attach_type(self) -> Option<SkReuseportAttachType> {
        match self {
            Self::Selects(attach_type) => Some(attach_type),
            Self::SelectsBySuffix => Some(SkReuseportAttachType::Select),
            Self::Text | Self::Loaded | Self::Unsupported => None,
        }
    }

    /// Whether its functions are programs.
    pub(crate) fn has_programs(self) -> bool {
        !matches!(self, Self::Text)
    }

    /// Whether this crate loads its programs.
    pub(crate) fn is_loaded(self) -> bool {
        !matches!(self, Self::Text | Self::Unsupported)
    }
}

/// A section of functions.
#[derive(Debug, Clone)]
pub(crate) struct CodeSection {
    pub(crate) name: String,
    pub(crate) of: SectionType,
}

/// What a function refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reference {
    Function(SectionIndex, u64),
    Map(String),
    External(String),
}

/// A section's relocations, by their place.
type Relocations = BTreeMap<u64, Relocation>;

/// A function: a program, or one that programs call.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) section: SectionIndex,
    pub(crate) range: Range<u64>,
    references: Vec<Reference>,
    selects: bool,
}

impl Function {
    /// Its key in the parser's functions.
    pub(crate) fn key(&self) -> (usize, u64) {
        (self.section.0, self.range.start)
    }
}

/// What programs use, together with the functions that they call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reach {
    /// The keys of their functions.
    pub(crate) functions: HashSet<(usize, u64)>,
    pub(crate) maps: BTreeSet<String>,
    /// The first reference to something that the object does not define.
    pub(crate) external: Option<(String, Extern)>,
    /// Whether they call the helper that selects a socket.
    pub(crate) selects: bool,
}

/// The functions of an object.
#[derive(Debug, Clone, Default)]
pub(crate) struct Functions {
    pub(crate) sections: HashMap<SectionIndex, CodeSection>,
    pub(crate) all: Vec<Function>,
    /// The first one of each key: several names may have one place.
    by_key: HashMap<(usize, u64), usize>,
    externs: HashMap<String, Extern>,
}

impl Functions {
    /// Reads the functions of a file whose [links](crate::links) are resolved.
    pub(crate) fn of(file: &File<'_>) -> Self {
        let mut code = Self::default();
        for section in file.sections() {
            if section.kind() == SectionKind::Text
                && section.size() > 0
                && let Ok(name) = section.name()
            {
                let of = SectionType::of(name);
                code.sections.insert(section.index(), CodeSection { name: name.to_owned(), of });
            }
        }
        let types = file.section_by_name(".BTF").and_then(|section| section.data().ok());
        code.externs = btf::externs(types.unwrap_or_default());
        // Functions that overlap would make a small file cost any amount of memory: those after them are left to
        // the parser, which refuses what it does not find.
        let mut room: HashMap<SectionIndex, u64> = HashMap::new();
        let mut relocations: HashMap<SectionIndex, Relocations> = HashMap::new();
        for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
            let (Some(index), Ok(name)) = (symbol.section_index(), symbol.name()) else { continue };
            let Ok(section) = file.section_by_index(index) else { continue };
            if name.is_empty() || !code.sections.contains_key(&index) {
                continue;
            }
            let start = symbol.address();
            let range = start..start.saturating_add(symbol.size()).min(section.size());
            let name = name.to_owned();
            let (references, selects) = (Vec::new(), false);
            let mut function = Function { name, section: index, range, references, selects };
            if !code.by_key.contains_key(&function.key()) {
                let room = room.entry(index).or_insert(section.size());
                let size = function.range.end.saturating_sub(start);
                let Some(left) = room.checked_sub(size) else { continue };
                *room = left;
                let of_section =
                    relocations.entry(index).or_insert_with(|| section.relocations().collect());
                let range = function.range.clone();
                (function.references, function.selects) =
                    code.references(file, &section, of_section, &range);
                code.by_key.insert(function.key(), code.all.len());
            }
            code.all.push(function);
        }
        code
    }

    /// The programs, with their sections.
    pub(crate) fn programs(&self) -> impl Iterator<Item = (&Function, &CodeSection)> {
        self.all.iter().filter_map(|function| {
            let section = self.sections.get(&function.section)?;
            section.of.has_programs().then_some((function, section))
        })
    }

    /// What these functions use.
    pub(crate) fn reach<'a>(&'a self, roots: impl IntoIterator<Item = &'a Function>) -> Reach {
        let at = |key: &(usize, u64)| self.by_key.get(key).and_then(|at| self.all.get(*at));
        let mut reach = Reach::default();
        let mut open: Vec<&Function> = roots.into_iter().collect();
        while let Some(function) = open.pop() {
            if !reach.functions.insert(function.key()) {
                continue;
            }
            let function = at(&function.key()).unwrap_or(function);
            reach.selects |= function.selects;
            for reference in &function.references {
                match reference {
                    Reference::Function(section, address) => {
                        open.extend(at(&(section.0, *address)));
                    }
                    Reference::Map(name) => {
                        reach.maps.insert(name.clone());
                    }
                    Reference::External(name) if reach.external.is_none() => {
                        let of = self.externs.get(name).copied().unwrap_or(Extern::Undefined);
                        reach.external = Some((name.clone(), of));
                    }
                    Reference::External(_) => {}
                }
            }
        }
        reach
    }

    /// What the instructions of a function refer to, and whether they call the helper that selects.
    fn references(
        &self,
        file: &File<'_>,
        section: &ElfSection64<'_, '_, Endianness>,
        relocations: &Relocations,
        range: &Range<u64>,
    ) -> (Vec<Reference>, bool) {
        let mut references = Vec::new();
        let data = section.data().unwrap_or_default();
        let immediate = |offset: u64| {
            let start = usize::try_from(offset).ok()?.checked_add(4)?;
            let bytes = data.get(start..start.checked_add(4)?)?;
            Some(i64::from(i32::from_ne_bytes(bytes.try_into().ok()?)))
        };
        let mut relocated = HashSet::new();
        if range.is_empty() {
            return (references, false);
        }
        for (&offset, relocation) in relocations.range(range.clone()) {
            relocated.insert(offset);
            let RelocationTarget::Symbol(index) = relocation.target() else { continue };
            let Ok(symbol) = file.symbol_by_index(index) else { continue };
            let added = immediate(offset).unwrap_or(0);
            references.extend(self.reference(file, &symbol, relocation.size(), added));
        }
        let mut selects = false;
        for offset in range.clone().step_by(INSTRUCTION as usize) {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let Some(&[code, registers]) = data.get(start..).and_then(|d| d.first_chunk()) else {
                break;
            };
            if u32::from(code) != BPF_JMP | BPF_CALL || relocated.contains(&offset) {
                continue;
            }
            let Some(immediate) = immediate(offset) else { break };
            // The source register: the first of two bit fields, which begin at the other end on big-endian machines.
            let source = if cfg!(target_endian = "big") { registers & 0xf } else { registers >> 4 };
            match u32::from(source) {
                0 => selects |= immediate == bpf_func_id::BPF_FUNC_sk_select_reuseport as i64,
                BPF_PSEUDO_CALL => {
                    let target = offset as i64 + (immediate + 1) * INSTRUCTION as i64;
                    let target = u64::try_from(target).unwrap_or(u64::MAX);
                    references.push(Reference::Function(section.index(), target));
                }
                _ => {}
            }
        }
        (references, selects)
    }

    fn reference(
        &self,
        file: &File<'_>,
        symbol: &ElfSymbol64<'_, '_, Endianness>,
        size: u8,
        immediate: i64,
    ) -> Option<Reference> {
        let name = symbol.name().unwrap_or_default().to_owned();
        let Some(index) = symbol.section_index() else {
            return (symbol.is_undefined() && !name.is_empty())
                .then_some(Reference::External(name));
        };
        if self.sections.contains_key(&index) {
            let inside = match (symbol.kind(), size) {
                (SymbolKind::Section, 32) => (immediate + 1) * INSTRUCTION as i64,
                (SymbolKind::Section, _) => immediate,
                _ => 0,
            };
            let address = symbol.address().checked_add_signed(inside)?;
            return Some(Reference::Function(index, address));
        }
        let section = file.section_by_index(index).ok()?;
        let section_name = section.name().ok()?;
        let is_of_maps = section_name.starts_with("maps") || section_name.starts_with(".maps");
        Some(Reference::Map(if is_of_maps { name } else { section_name.to_owned() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_of_program_that_this_crate_has_is_loaded() {
        for section in [
            "sk_reuseport",
            "sk_reuseport/migrate",
            "sk_reuseport/by_user",
            "tp_btf/inet_sock_set_state",
            "iter/udp",
            "cgroup/sock_create",
            "cgroup/sock_release",
            "cgroup/post_bind4",
            "cgroup/post_bind6",
        ] {
            assert!(SectionType::of(section).is_loaded(), "{section}");
        }
        for section in [".text", "tc", "syscall", "struct_ops"] {
            assert!(!SectionType::of(section).is_loaded(), "{section}");
        }
    }
}
