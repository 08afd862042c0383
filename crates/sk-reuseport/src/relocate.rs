//! Parses an object and relocates its programs, with aya-obj. Creates no maps and loads no
//! programs.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::thread;

use aya_obj::btf::{Btf, BtfFeatures};
use aya_obj::generated::{BPF_CALL, BPF_JMP, BPF_PSEUDO_KFUNC_CALL, bpf_map_type};
use aya_obj::{Object, ParseError, ProgramSection, VerifierLog};

use crate::btf::{KernelBtf, Variable};
use crate::error::EbpfError;
use crate::functions::{File, Functions, Reach};
use crate::links::{self, Refused, Value, ValueOf};
use crate::maps::MapData;
use crate::prune::prune;
use crate::verifier::{VerifierLogLevel, with_log};
use crate::{sys, validate};

/// Of an object that passed validation and made the parser panic.
const PARSER: &str = "it made the parser panic";

/// The source of the kernel's types.
#[derive(Debug, Clone)]
pub(crate) enum Types<'a> {
    /// `/sys/kernel/btf/vmlinux`, if an object needs them.
    WhenNeeded,
    Parsed(&'a Btf),
    Raw(&'a KernelBtf),
    None,
}

/// Runs a step of aya-obj, which panics on some damaged objects. `validate` refuses those that are
/// known; any other panic becomes an error here.
pub(crate) fn undamaged<T>(step: impl FnOnce() -> Result<T, EbpfError>) -> Result<T, EbpfError> {
    // The caller drops an object that a step left half done.
    panic::catch_unwind(AssertUnwindSafe(step)).unwrap_or(Err(EbpfError::Damaged { part: PARSER }))
}

/// A parsed object, without what is not loaded.
pub(crate) struct Parsed {
    pub(crate) object: Object,
    /// The file, as it was parsed.
    pub(crate) bytes: Aligned,
    /// The initial values of maps.
    pub(crate) values: Vec<Value>,
    pub(crate) functions: Functions,
    /// What the programs that are loaded use.
    pub(crate) reach: Reach,
}

/// Bytes at an address as the parser needs it.
pub(crate) struct Aligned(Vec<u64>, usize);

impl Aligned {
    fn new(data: &[u8]) -> Self {
        let mut aligned = Self(vec![0u64; data.len().div_ceil(size_of::<u64>())], data.len());
        aligned.bytes_mut().copy_from_slice(data);
        aligned
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &zerocopy::IntoBytes::as_bytes(self.0.as_slice())[..self.1]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut zerocopy::IntoBytes::as_mut_bytes(self.0.as_mut_slice())[..self.1]
    }
}

/// Parses an object: all programs that this crate loads, or `only` one of them.
pub(crate) fn parse(data: &[u8], only: Option<&str>) -> Result<Parsed, EbpfError> {
    let mut bytes = Aligned::new(data);
    validate::check_header(bytes.bytes())?;
    let values = links::resolve(bytes.bytes_mut());
    // The parser takes the maps that they are in for damaged.
    let is_program = |value: &&Value| value.of == ValueOf::Refused(Refused::Program);
    if let Some(Value { outer, .. }) = values.iter().find(is_program) {
        return Err(Refused::Program.error(outer));
    }
    let functions = File::parse(bytes.bytes()).map(|file| Functions::of(&file)).unwrap_or_default();
    let roots = functions.programs().filter(|(function, section)| {
        section.of.is_loaded() && only.is_none_or(|only| only == function.name)
    });
    let reach = functions.reach(roots.map(|(function, _)| function));
    prune(bytes.bytes_mut(), &functions, &reach);
    validate::check(bytes.bytes())?;
    let mut object = undamaged(|| Ok(Object::parse(bytes.bytes())?))?;
    // What is not found in the file is left to the parser.
    if !reach.functions.is_empty() {
        object.functions.retain(|key, _| reach.functions.contains(key));
        object.programs.retain(|_, program| reach.functions.contains(&program.function_key()));
    }
    Ok(Parsed { object, bytes, values, functions, reach })
}

/// Sets a variable, or an element of it, in the section's initial content.
pub(crate) fn set_variable(
    object: &mut Object,
    variable: &Variable,
    element: u32,
    value: &[u8],
) -> Result<(), EbpfError> {
    let map = object.maps.get_mut(&variable.section);
    let start = variable.place_of(element).map(|place| place as usize);
    let place = map.zip(start).and_then(|(map, start)| {
        map.data_mut().get_mut(start..start.checked_add(variable.of.size() as usize)?)
    });
    match place {
        Some(place) if place.len() == value.len() => {
            place.copy_from_slice(value);
            Ok(())
        }
        _ => Err(ParseError::SymbolNotFound { name: variable.section.clone() }.into()),
    }
}

/// Refuses programs that refer to what the object does not define.
pub(crate) fn refuse_externals(functions: &Functions, only: Option<&str>) -> Result<(), EbpfError> {
    let mut found = only.is_none();
    for (function, section) in functions.programs() {
        if !section.of.is_loaded() || only.is_some_and(|only| only != function.name) {
            continue;
        }
        found = true;
        if let Some((name, of)) = functions.reach([function]).external {
            return Err(EbpfError::External { program: function.name.clone(), name, of });
        }
    }
    match (found, only) {
        (false, Some(name)) => Err(EbpfError::NoProgram { name: name.to_owned() }),
        _ => Ok(()),
    }
}

/// Whether a map is used, also as an initial value of one that is.
pub(crate) fn is_used(name: &str, reach: &Reach, values: &[Value]) -> bool {
    let is_in = |value: &Value| matches!(&value.of, ValueOf::Map { inner, .. } if inner == name);
    reach.maps.contains(name)
        || values.iter().any(|value| is_in(value) && reach.maps.contains(&value.outer))
}

/// Loads the object's own BTF into the kernel. Older kernels refuse kinds of types that they do not
/// know, so it tries again without the newer ones.
pub(crate) fn load_btf(
    object: &mut Object,
    log_level: VerifierLogLevel,
) -> Result<Option<OwnedFd>, EbpfError> {
    let mut last = None;
    for features in [
        BtfFeatures::new(true, true, true, true, true, true, true, true),
        BtfFeatures::new(true, true, true, false, true, false, false, false),
        BtfFeatures::new(true, false, true, false, false, false, false, false),
    ] {
        let mut candidate = object.clone();
        let fixed = undamaged(|| {
            Ok(candidate.fixup_and_sanitize_btf(&features)?.map(|btf| btf.to_bytes()))
        })?;
        let Some(bytes) = fixed else { return Ok(None) };
        let (result, log) = with_log(log_level, |log, level| sys::bpf_btf_load(&bytes, log, level));
        match result {
            Ok(fd) => {
                *object = candidate;
                return Ok(Some(fd));
            }
            Err(error) => last = Some((error, log)),
        }
    }
    let storage = bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as u32;
    let needed = object.has_btf_relocations()
        || object.maps.values().any(|map| map.map_type() == storage)
        || object.programs.values().any(|program| {
            matches!(program.section, ProgramSection::BtfTracePoint | ProgramSection::Iter { .. })
        });
    match last {
        Some((io_error, log)) if needed => {
            Err(EbpfError::BtfLoadError { io_error, verifier_log: VerifierLog::new(log) })
        }
        // The object works without: its types only help with debugging.
        _ => Ok(None),
    }
}

/// Adapts the programs to the field offsets of the running kernel (CO-RE). `data` is the object's
/// file.
pub(crate) fn relocate_to_kernel(
    object: &mut Object,
    data: &[u8],
    types: &Types<'_>,
) -> Result<(), EbpfError> {
    if !object.has_btf_relocations() {
        return Ok(());
    }
    let btf = match types {
        Types::Parsed(btf) => return undamaged(|| Ok(object.relocate_btf(btf)?)),
        Types::Raw(btf) => btf.for_object(data)?,
        Types::WhenNeeded => KernelBtf::from_sys_fs()?.for_object(data)?,
        Types::None => return Err(EbpfError::NoBTF),
    };
    undamaged(|| Ok(object.relocate_btf(&btf)?))
}

/// Links the programs with these maps, by the numbers of their descriptors, and with the functions
/// that they call.
pub(crate) fn relocate_to_maps(
    object: &mut Object,
    maps: &HashMap<String, MapData>,
) -> Result<(), EbpfError> {
    let text_sections: HashSet<usize> =
        object.functions.keys().map(|(section, _)| *section).collect();
    let maps = maps
        .iter()
        .map(|(name, map)| (name.as_str(), map.fd().as_fd().as_raw_fd(), map.definition()));
    undamaged(|| Ok(object.relocate_maps(maps, &text_sections)?))?;
    let functions = object.functions.len();
    let link = || undamaged(|| Ok(object.relocate_calls(&text_sections)?));
    with_room_for(functions, link)
}

/// Replaces calls of helpers with these numbers by calls of the kernel functions with these ids.
pub(crate) fn call_kernel_functions(object: &mut Object, ids: &HashMap<u32, u32>) {
    const CALL: u8 = (BPF_JMP | BPF_CALL) as u8;

    let instructions =
        object.functions.values_mut().flat_map(|function| &mut function.instructions);
    for instruction in instructions.filter(|it| it.code == CALL && it.src_reg() == 0) {
        // As bits: the immediate is signed.
        if let Some(id) = ids.get(&(instruction.imm as u32)) {
            instruction.set_src_reg(BPF_PSEUDO_KFUNC_CALL as u8);
            // A function of the kernel itself, not of a module.
            instruction.off = 0;
            instruction.imm = *id as i32;
        }
    }
}

/// Runs the linker, which recurses as deep as functions call one another, on a stack large enough.
fn with_room_for(
    functions: usize,
    link: impl FnOnce() -> Result<(), EbpfError> + Send,
) -> Result<(), EbpfError> {
    /// Any thread's stack has room for this many, and no valid program calls deeper.
    const FEW: usize = 64;
    /// Bytes of stack, more than linking one function takes.
    const FRAME: usize = 8 << 10;

    if functions <= FEW {
        return link();
    }
    let size = functions.saturating_mul(FRAME).saturating_add(1 << 18);
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(size).spawn_scoped(scope, link);
        thread.map_or(Err(EbpfError::Damaged { part: PARSER }), |thread| {
            thread.join().unwrap_or(Err(EbpfError::Damaged { part: PARSER }))
        })
    })
}
