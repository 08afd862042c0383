//! Parses an object and relocates its programs, with aya-obj. Creates no maps and loads no
//! programs.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::thread;

use aya_obj::btf::{Btf, BtfFeatures};
use aya_obj::generated::{BPF_CALL, BPF_JMP, BPF_PSEUDO_KFUNC_CALL, bpf_map_type};
use aya_obj::{Object, ProgramSection, VerifierLog};

use crate::btf::KernelBtf;
use crate::error::EbpfError;
use crate::links::{self, Value};
use crate::maps::MapData;
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

/// Parses an object, and returns the initial values of its maps of maps. The parser needs aligned bytes, so
/// they are copied.
pub(crate) fn parse(data: &[u8]) -> Result<(Object, Vec<Value>), EbpfError> {
    let mut aligned = vec![0u64; data.len().div_ceil(size_of::<u64>())];
    let bytes = zerocopy::IntoBytes::as_mut_bytes(aligned.as_mut_slice());
    bytes[..data.len()].copy_from_slice(data);
    let bytes = &mut bytes[..data.len()];
    validate::check_header(bytes)?;
    let values = links::resolve(bytes)?;
    validate::check(bytes)?;
    undamaged(|| Ok((Object::parse(bytes)?, values)))
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
