//! What must hold of an object before aya-obj may see it. That parser finds most damage by itself, as an
//! error or by a panic, which is caught; here is what it would not survive, or take for granted.

use aya_obj::ParseError;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use crate::bpf::EbpfError;
use crate::btf::is_sound;

/// Refuses what is not for this machine's BPF, and what is made to do harm. What cannot be read at all
/// is the parser's to refuse.
pub(crate) fn check(bytes: &[u8]) -> Result<(), EbpfError> {
    check_header(bytes)?;
    let Ok(file) = object::File::parse(bytes) else { return Ok(()) };
    check_sizes(&file, bytes.len())?;
    check_types(&file)?;
    check_map_definitions(&file)
}

/// Refuses ELF files that are not for this machine's BPF. What is no ELF file at all is the parser's
/// to refuse.
fn check_header(data: &[u8]) -> Result<(), EbpfError> {
    // e_ident[EI_DATA]: 1 is little-endian, 2 big-endian.
    const EI_DATA: usize = 5;
    // e_machine: EM_BPF, or EM_NONE as early compilers had it.
    const E_MACHINE: std::ops::Range<usize> = 18..20;
    const EM_NONE: u16 = 0;
    const EM_BPF: u16 = 247;

    let other = if cfg!(target_endian = "little") { 2 } else { 1 };
    let (b"\x7fELF", Some(order), Some(&[first, second])) =
        (data.get(..4).unwrap_or_default(), data.get(EI_DATA), data.get(E_MACHINE))
    else {
        return Ok(());
    };
    let swapped = *order == other;
    let machine = u16::from_ne_bytes([first, second]);
    let machine = if swapped { machine.swap_bytes() } else { machine };
    match machine {
        EM_BPF | EM_NONE if swapped => Err(EbpfError::WrongEndianness),
        EM_BPF | EM_NONE => Ok(()),
        machine => Err(EbpfError::WrongMachine { machine }),
    }
}

/// Refuses sections that are together larger than the file, because they lie over one another, and
/// sections of zeros (`.bss`), which take no room in the file, of a size that no program has. The
/// parser copies both, and memory that there is not ends the process.
fn check_sizes(file: &object::File<'_>, length: usize) -> Result<(), EbpfError> {
    /// Far beyond what programs have, far below what a machine has.
    const LIMIT: u64 = 1 << 26;

    let (mut zeros, mut rest) = (0u64, 0u64);
    for section in file.sections() {
        match section.file_range() {
            Some((_, length)) => rest = rest.saturating_add(length),
            None => zeros = zeros.saturating_add(section.size()),
        }
    }
    if zeros > LIMIT {
        return Err(EbpfError::TooLarge { zeros, limit: LIMIT });
    }
    if rest > length as u64 { Err(EbpfError::Damaged) } else { Ok(()) }
}

/// The parser reads the linkage of variables into an enum without looking at it (`BtfType::read` in
/// aya-obj's `btf/types.rs`).
fn check_types(file: &object::File<'_>) -> Result<(), EbpfError> {
    let section = file.section_by_name(".BTF").and_then(|section| section.data().ok());
    if section.is_none_or(is_sound) { Ok(()) } else { Err(EbpfError::Damaged) }
}

/// The same with how maps of the older style are pinned (`parse_map_def` in aya-obj's `obj.rs`). Each
/// symbol in a section of this name is a map.
fn check_map_definitions(file: &object::File<'_>) -> Result<(), EbpfError> {
    /// The last of `struct bpf_map_def`: 0 or 1.
    const PINNING: usize = 24;

    for section in file.sections() {
        let (Ok(name), Ok(data)) = (section.name_bytes(), section.data()) else { continue };
        if !name.starts_with(b"maps") {
            continue;
        }
        for symbol in
            file.symbols().filter(|symbol| symbol.section_index() == Some(section.index()))
        {
            let definition = usize::try_from(symbol.address()).ok().and_then(|at| data.get(at..));
            let definition = definition.unwrap_or_default();
            let end = usize::try_from(symbol.size()).unwrap_or(usize::MAX).min(definition.len());
            // A shorter one counts as filled up with zeros.
            let mut pinning = [0; 4];
            let given = definition[..end].iter().skip(PINNING);
            pinning.iter_mut().zip(given).for_each(|(byte, given)| *byte = *given);
            if u32::from_ne_bytes(pinning) > 1 {
                let name = String::from_utf8_lossy(symbol.name_bytes().unwrap_or_default());
                return Err(ParseError::InvalidMapDefinition { name: name.into_owned() }.into());
            }
        }
    }
    Ok(())
}
