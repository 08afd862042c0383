//! Objects with one thing wrong, and the message about it.

use std::fs;

use sk_reuseport::Ebpf;
use test_support::bpffs;

use super::elf::{EXIT, Elf, PASS};
use super::*;
use crate::fixtures::*;

// enum bpf_map_type
const ARRAY: u32 = 2;
const HASH: u32 = 1;
const SOCKARRAY: u32 = 20;
const RINGBUF: u32 = 27;

const PIN_BY_NAME: u32 = 1;

/// An array as it should be: type, key size, value size, elements, flags, id, pinning.
const VALID: [u32; 7] = [ARRAY, 4, 8, 1, 0, 0, 0];

#[track_caller]
fn assert_refused(bytes: &[u8], expected: &[&str]) {
    let report = refused(bytes);
    for part in expected {
        assert!(report.contains(part), "{report:?} should contain {part:?}");
    }
}

#[test]
fn objects_built_here_are_valid_by_default() {
    unharmed(|| {
        load(&Elf::passing().bytes(), None).unwrap();
        load(&Elf::passing().map(b"VALID", VALID).bytes(), None).unwrap();
        load(&Elf::calling(5).bytes(), None).unwrap();
    });
}

#[test]
fn empty_objects() {
    unharmed(|| {
        assert_refused(b"", &["expected an ELF file"]);
        assert_refused(&[0; 64], &["expected an ELF file"]);
        assert_refused(&vec![0; 1 << 20], &["expected an ELF file"]);
        assert_refused(&[0x7f; 4096], &["expected an ELF file"]);
        // No program and no map.
        let nothing = Elf::empty().bytes();
        load(&nothing, None).unwrap();
        assert_eq!(Ebpf::load(&nothing).unwrap().programs().count(), 0);
    });
}

#[test]
fn the_other_byte_order() {
    unharmed(|| assert_refused(BIG_ENDIAN, &["other byte order"]));
}

#[test]
fn licences() {
    unharmed(|| {
        let licensed = |text: &[u8]| {
            let mut elf = Elf::empty();
            elf.data(b"license", text);
            elf.program(b"sk_reuseport", b"pass", &PASS);
            elf.bytes()
        };
        load(&licensed(b"GPL\0"), None).unwrap();
        // The kernel takes unknown licences for incompatible with the GPL. This program needs no
        // GPL.
        load(&licensed(b"\xff\xfe\0"), None).unwrap();
        // Without a final 0, with two, and empty.
        assert_refused(&licensed(b"GPL"), &["license"]);
        assert_refused(&licensed(b"G\0PL\0"), &["license"]);
        assert_refused(&licensed(b""), &["license"]);
    });
}

#[test]
fn unknown_sections() {
    unharmed(|| {
        let mut elf = Elf::passing();
        elf.data(b".mystery", b"whatever");
        elf.data(b"", b"without a name");
        elf.data(b".data", b"");
        load(&elf.bytes(), None).unwrap();
        // A program of an unknown type is not loaded, one with an unknown suffix is: this one is invalid.
        let mut elf = Elf::passing();
        elf.program(b"teleport", b"odd", &EXIT);
        let teleport = elf.bytes();
        load(&teleport, None).unwrap();
        assert_eq!(Ebpf::load(&teleport).unwrap().programs().count(), 2);
        let mut elf = Elf::passing();
        elf.program(b"sk_reuseport/teleport", b"odd", &EXIT);
        assert_refused(&elf.bytes(), &["R0 !read_ok"]);
    });
}

#[test]
fn maps_of_impossible_sizes() {
    unharmed(|| {
        let with = |definition| Elf::passing().map(b"ODD", definition).bytes();
        // 4 GiB: in one element, and in many.
        assert_refused(&with([ARRAY, 4, u32::MAX, 1, 0, 0, 0]), &["`ODD`", "4294967296 bytes"]);
        assert_refused(&with([ARRAY, 4, 8, 1 << 29, 0, 0, 0]), &["`ODD`", "map_max_entries"]);
        assert_refused(&with([HASH, 4, 8, 1 << 26, 0, 0, 0]), &["`ODD`", "map_max_entries"]);
        assert_refused(&with([RINGBUF, 0, 0, 1 << 31, 0, 0, 0]), &["`ODD`", "map_max_entries"]);
        assert_refused(&with([ARRAY, 4, i32::MAX as u32, u32::MAX, 0, 0, 0]), &["`ODD`"]);
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("ODD", 16).load(&with([ARRAY, 4, 8, 1 << 29, 0, 0, 0])).unwrap();
        // 64 times 64 MiB.
        let many = |elf: Elf, index| {
            elf.map(format!("M{index}").as_bytes(), [ARRAY, 4, 8, 1 << 23, 0, 0, 0])
        };
        assert_refused(&(0..64).fold(Elf::passing(), many).bytes(), &["4294967296 bytes"]);
        // Sizes of keys and values that the type does not accept.
        assert_refused(&with([ARRAY, 3, 8, 1, 0, 0, 0]), &["`ODD`", "keys or values of this size"]);
        assert_refused(&with([ARRAY, 4, 0, 1, 0, 0, 0]), &["`ODD`", "keys or values of this size"]);
        assert_refused(
            &with([SOCKARRAY, 4, 16, 1, 0, 0, 0]),
            &["`ODD`", "keys or values of this size"],
        );
        assert_refused(
            &with([SOCKARRAY, 8, 8, 1, 0, 0, 0]),
            &["`ODD`", "keys or values of this size"],
        );
        // No elements, unknown flags, an unknown type.
        assert_refused(&with([SOCKARRAY, 4, 8, 0, 0, 0, 0]), &["`ODD`", "number of elements"]);
        assert_refused(&with([ARRAY, 4, 8, 1, u32::MAX, 0, 0]), &["`ODD`", "flags"]);
        assert_refused(&with([9999, 4, 8, 1, 0, 0, 0]), &["map type 9999"]);
        // An unknown kind of pinning.
        for pinning in [2, 77, 1 << 8, 1 << 31] {
            assert_refused(&with([ARRAY, 4, 8, 1, 0, 0, pinning]), &["`ODD`", "pinning"]);
        }
    });
}

/// BTF with these types and one string, `x`, at offset 1.
fn types(words: &[u32]) -> Vec<u8> {
    let length = words.len() as u32 * 4;
    let header = [24, 0, length, length, 3];
    let magic_and_version = [0x9f, 0xeb, 1, 0];
    let words = header.iter().chain(words).flat_map(|word| word.to_le_bytes());
    magic_and_version.into_iter().chain(words).chain(*b"\0x\0").collect()
}

#[test]
fn invalid_types() {
    const INT: [u32; 4] = [1, 1 << 24, 4, 32];
    unharmed(|| {
        let with = |words: &[&[u32]]| {
            let mut elf = Elf::passing();
            elf.data(b".BTF", &types(&words.concat()));
            elf.bytes()
        };
        let variable = |linkage| [1, 14 << 24, 1, linkage];
        load(&with(&[&INT]), None).unwrap();
        for linkage in [3, 77, u32::MAX] {
            assert_refused(&with(&[&INT, &variable(linkage)]), &["damaged"]);
            // After a type of kind 0.
            assert_refused(&with(&[&INT, &[0, 0, 0], &variable(linkage)]), &["damaged"]);
        }
        assert_refused(&with(&[&[0, 0, 0]]), &["damaged"]);
        assert_refused(&with(&[&INT, &[1, 31 << 24, 0]]), &["BTF"]);
    });
}

#[test]
fn more_zeros_than_memory() {
    unharmed(|| {
        for size in [1 << 32, 1 << 40, u64::MAX / 2, u64::MAX] {
            let mut elf = Elf::passing();
            elf.zeros(b".bss", size);
            assert_refused(&elf.bytes(), &["zeros", "the most"]);
        }
        // Small sections, too large together.
        let mut elf = Elf::passing();
        for index in 0..64 {
            elf.zeros(format!(".bss.{index}").as_bytes(), 1 << 26);
        }
        assert_refused(&elf.bytes(), &["zeros", "the most"]);
    });
}

#[test]
fn names_that_are_no_text_or_no_file_name() {
    unharmed(|| {
        let named = |name: &[u8], pinning| {
            let mut definition = VALID;
            definition[6] = pinning;
            Elf::passing().map(name, definition).bytes()
        };
        // Names of a map, of a program, of a section.
        assert!(load(&named(b"\xff\xfe", 0), None).is_err());
        let mut elf = Elf::empty();
        elf.program(b"sk_reuseport", b"\xc3\x28", &EXIT);
        assert!(load(&elf.bytes(), None).is_err());
        let mut elf = Elf::passing();
        elf.data(b"\xf0\x28\x8c\x28", b"x");
        assert!(load(&elf.bytes(), None).is_err());
        // A map to be pinned by a name that leads to another directory.
        fs::create_dir(format!("{}/inside", bpffs::PATH)).unwrap();
        for name in [&b"inside/map"[..], b"/sys/fs/bpf/inside/map", b"..", b".", b"../map", b"x/"] {
            assert_refused(&named(name, PIN_BY_NAME), &["invalid map name"]);
        }
        assert_eq!(fs::read_dir(format!("{}/inside", bpffs::PATH)).unwrap().count(), 0);
        load(&named(b"plain", PIN_BY_NAME), None).unwrap();
    });
}

#[test]
fn calls_deeper_than_any_stack() {
    unharmed(|| {
        // The kernel allows 8 frames. The linker recurses once per call, and must come to an end
        // first.
        assert_refused(&Elf::calling(200).bytes(), &["BPF_PROG_LOAD"]);
        for depth in [300, 20_000] {
            assert!(load(&Elf::calling(depth).bytes(), None).is_err());
        }
    });
}

#[test]
fn a_program_that_the_verifier_refuses() {
    unharmed(|| {
        assert_refused(
            REFUSED,
            &["the verifier refused the program", "invalid access to packet", "[...]"],
        );
    });
}

#[test]
fn a_failure_removes_new_pins_and_keeps_older_ones() {
    unharmed(|| {
        let pinned = |name: &[u8]| Elf::passing().map(name, [ARRAY, 4, 8, 1, 0, 0, PIN_BY_NAME]);
        let kept = Ebpf::load(&pinned(b"kept").bytes()).unwrap();
        drop(kept);
        let here = |name: &str| Path::new(bpffs::PATH).join(name).exists();
        assert!(here("kept"));
        // `later` is created after the others, in the order of names, and is refused.
        let bad = |first: &[u8]| {
            let elf = pinned(first).map(b"later", [ARRAY, 3, 8, 1, 0, 0, 0]);
            refused(&elf.bytes())
        };
        bad(b"kept");
        bad(b"brief");
        assert!(here("kept") && !here("brief"));
    });
}
