//! What an object refers to and does not define: `extern` variables and functions.

use std::collections::HashMap;

use super::raw::{Raw, kind};
use crate::error::Extern;

const CONFIGURATION: &[u8] = b".kconfig";
const SYMBOLS: &[u8] = b".ksyms";

/// The kernel's configuration and symbols that an object names, by its types.
pub(crate) fn externs(types: &[u8]) -> HashMap<String, Extern> {
    let raw = Raw::new(types).unwrap_or_default();
    let (entries, _) = raw.parsed();
    let mut externs = HashMap::new();
    for section in entries.iter().filter(|entry| entry.kind == kind::DATASEC) {
        let name = raw.name(section);
        if name != CONFIGURATION && name != SYMBOLS {
            continue;
        }
        for id in section.words().iter().step_by(3) {
            let Some(entry) = (*id as usize).checked_sub(1).and_then(|at| entries.get(at)) else {
                continue;
            };
            let of = match (name == CONFIGURATION, entry.kind) {
                (true, _) => Extern::Configuration,
                (false, kind::FUNC) => Extern::KernelFunction,
                (false, _) => Extern::KernelVariable,
            };
            externs.insert(String::from_utf8_lossy(raw.name(entry)).into_owned(), of);
        }
    }
    externs
}

/// Makes types that the parser and the kernel accept of those that describe externs. Neither knows a section that
/// is not in the file, nor a variable or function that is not there. Nothing else refers to them.
pub(crate) fn hide_externs(types: &mut [u8]) {
    /// `BTF_VAR_GLOBAL_EXTERN` and `BTF_FUNC_EXTERN`.
    const EXTERN: u32 = 2;

    let raw = Raw::new(types).unwrap_or_default();
    let Some(start) = raw.start(types) else { return };
    let integer = raw.types().find(|(_, entry)| entry.kind == kind::INT && entry.size_or_type <= 8);
    let mut patches: Vec<(usize, u32)> = Vec::new();
    for (_, place, entry) in raw.places() {
        let at = start + place as usize;
        let name = raw.name(&entry);
        match entry.kind {
            kind::VAR if entry.words() == [EXTERN] => patches.push((at + 12, 1)),
            kind::FUNC if entry.info & 0xffff == EXTERN => {
                patches.push((at + 4, entry.info & !0xffff));
            }
            // A union of as many integers without names takes the same space.
            kind::DATASEC if name == CONFIGURATION || name == SYMBOLS => {
                let Some((integer, _)) = integer else { continue };
                let info = (kind::UNION << 24) | (entry.info & 0xffff);
                patches.extend([(at, 0), (at + 4, info), (at + 8, 8)]);
                for member in 0..entry.words().len() / 3 {
                    let at = at + 12 + member * 12;
                    patches.extend([(at, 0), (at + 4, integer), (at + 8, 0)]);
                }
            }
            _ => {}
        }
    }
    for (at, word) in patches {
        if let Some(bytes) = types.get_mut(at..at + 4) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
    }
}
