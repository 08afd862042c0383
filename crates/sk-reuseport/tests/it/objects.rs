//! Loading objects: constants and variables, both styles of maps, the kernel's types.

use std::path::Path;

use rustix::mount::{MountFlags, mount, mount_bind};
use sk_reuseport::maps::{Array, HashMap, Map, MapData, ReusePortSockArray};
use sk_reuseport::programs::{Program, ProgramError, ProgramInfo, ProgramType, SkReuseport};
use sk_reuseport::{Btf, Ebpf, EbpfError, EbpfLoader};
use test_support::{bpffs, netns};

use crate::fixtures::*;
use crate::maps::{Operation, order};

/// The 64-bit word at an offset of a section's map.
fn word<const SIZE: usize>(ebpf: &Ebpf, section: &str, offset: usize) -> u64 {
    let map: Array<_, [u8; SIZE]> = ebpf.map(section).unwrap().try_into().unwrap();
    let bytes = map.get(&0, 0).unwrap();
    u64::from_ne_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

#[test]
fn the_loader_sets_constants_and_programs_change_variables() {
    netns::isolated(|| {
        let group = UdpGroup::new(1);
        // `struct { __u64 first; __u32 second; }`, padding and all.
        let pair: [u8; 16] = [3, 0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0];
        let mut ebpf = EbpfLoader::new()
            .override_global("factor", &10u32, true)
            .override_global("pair", &pair, true)
            .override_global("initialised", &100u64, true)
            .override_global("no_such_variable", &1u8, false)
            .load(MAPS)
            .unwrap();
        loaded(&mut ebpf, "work").attach(&group.members[0]).unwrap();
        order(&group, Operation::Globals, 7);
        assert_eq!(word::<8>(&ebpf, ".data", 0), 100 + 7 * 10);
        assert_eq!(word::<8>(&ebpf, ".bss", 0), 3 * 11);
    });
}

#[test]
fn constants_keep_the_values_of_the_object_by_default() {
    netns::isolated(|| {
        let group = UdpGroup::new(1);
        let mut ebpf = Ebpf::load(MAPS).unwrap();
        loaded(&mut ebpf, "work").attach(&group.members[0]).unwrap();
        order(&group, Operation::Globals, 7);
        assert_eq!(word::<8>(&ebpf, ".data", 0), 5 + 7 * 2);
        assert_eq!(word::<8>(&ebpf, ".bss", 0), 2);
    });
}

#[test]
fn a_slice_is_a_constant_too() {
    let step: &[u64] = &[0x0123_4567_89ab_cdef];
    let ebpf = EbpfLoader::new().override_global("key", step, true).load(SOCKMAPS).unwrap();
    let words = [0, 8].map(|offset| word::<16>(&ebpf, ".rodata", offset));
    assert!(words.contains(&step[0]), "{words:x?}");
}

#[test]
fn a_constant_that_must_exist_must() {
    let error =
        EbpfLoader::new().override_global("no_such_variable", &1u32, true).load(MAPS).unwrap_err();
    assert!(report(&error).contains("no_such_variable"), "{error}");
    // A value of another size is refused even without `must_exist`.
    let error = EbpfLoader::new().override_global("factor", &1u64, false).load(MAPS).unwrap_err();
    assert!(report(&error).contains("factor"), "{error}");
}

#[test]
fn the_number_of_elements_is_the_loaders_choice() {
    let ebpf = EbpfLoader::new().map_max_entries("hash", 77).load(MAPS).unwrap();
    let map: HashMap<_, u32, u64> = ebpf.map("hash").unwrap().try_into().unwrap();
    assert_eq!(map.map_data().max_entries(), 77);
    assert_eq!(map.map_data().info().unwrap().max_entries(), 77);
}

#[test]
fn maps_as_aya_ebpf_defines_them_work() {
    netns::isolated(|| {
        let group = UdpGroup::new(3);
        let mut ebpf =
            EbpfLoader::new().override_global("CHOICE", &2u32, true).load(LEGACY).unwrap();
        let sockets = ebpf.take_map("SOCKETS").unwrap();
        let mut sockets: ReusePortSockArray<_> = sockets.try_into().unwrap();
        for (index, member) in group.members.iter().enumerate() {
            sockets.set(index as u32, member, 0).unwrap();
        }
        loaded(&mut ebpf, "choose").attach(&group.members[0]).unwrap();
        assert_eq!(group.send(b"x"), 2);
        let runs: Array<_, u64> = ebpf.map("RUNS").unwrap().try_into().unwrap();
        assert_eq!(runs.get(&0, 0).unwrap(), 1);
    });
}

#[test]
fn a_file_is_loaded_like_its_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("select.o");
    std::fs::write(&path, SELECT).unwrap();
    assert_eq!(Ebpf::load_file(&path).unwrap().programs().count(), 3);
    let missing = directory.path().join("missing.o");
    let error = Ebpf::load_file(&missing).unwrap_err();
    assert!(report(&error).contains("missing.o"), "{error}");
}

#[test]
fn bytes_of_any_alignment_are_loaded() {
    for shift in 0..8 {
        let mut bytes = vec![0; shift];
        bytes.extend_from_slice(SELECT);
        Ebpf::load(&bytes[shift..]).unwrap();
    }
    let aligned: &[u8] = sk_reuseport::include_bytes_aligned!("../bpf/select.bpf.o");
    assert_eq!(aligned, SELECT);
    assert!(aligned.as_ptr().addr().is_multiple_of(8));
}

/// Mounts a file over the kernel's types, for this thread.
fn replace_kernel_types(with: &str) {
    bpffs::private(); // for the mount namespace
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, with).unwrap();
    mount_bind(file.path(), "/sys/kernel/btf/vmlinux").unwrap();
}

#[test]
fn the_kernels_types_are_read_only_for_objects_that_need_them() {
    let kernel = Btf::from_sys_fs().unwrap();
    netns::isolated(|| {
        replace_kernel_types("not BTF at all");
        for object in [SELECT, SOCKMAPS, MAPS, LEGACY, UNLICENSED] {
            Ebpf::load(object).unwrap();
        }
        let error = Ebpf::load(TRACING).unwrap_err();
        assert!(matches!(error, EbpfError::BtfError(_)), "{error}");
        EbpfLoader::new().btf(Some(&kernel)).load(TRACING).unwrap();
    });
}

#[test]
fn a_kernel_without_types_is_reported() {
    netns::isolated(|| {
        bpffs::private();
        mount("none", "/sys/kernel/btf", "tmpfs", MountFlags::empty(), None).unwrap();
        let group = UdpGroup::new(1);
        let mut ebpf = Ebpf::load(SELECT).unwrap();
        loaded(&mut ebpf, "select_socket").attach(&group.members[0]).unwrap();
        let error = Ebpf::load(TRACING).unwrap_err();
        assert!(matches!(error, EbpfError::NoBTF));
        assert!(report(&error).contains("CONFIG_DEBUG_INFO_BTF"), "{error}");
        let error = EbpfLoader::new().btf(None).load(TRACING).unwrap_err();
        assert!(matches!(error, EbpfError::NoBTF));
    });
}

#[test]
fn programs_of_other_types_are_listed_as_unsupported() {
    let mut ebpf = Ebpf::load(OTHER).unwrap();
    let program = ebpf.program_mut("pass").unwrap();
    assert_eq!(program.prog_type(), ProgramType::Unspecified);
    assert!(matches!(program.fd(), Err(ProgramError::UnexpectedProgramType)));
    assert!(matches!(program.info(), Err(ProgramError::UnexpectedProgramType)));
    assert!(matches!(program.unload(), Err(ProgramError::UnexpectedProgramType)));
    assert!(program.pin("/sys/fs/bpf/nothing").is_err());
    let Program::Unsupported(other) = &*program else { panic!("an XDP program") };
    assert_eq!(other.section(), "xdp");
    let wrong: Result<&mut SkReuseport, _> = program.try_into();
    assert!(matches!(wrong, Err(ProgramError::UnexpectedProgramType)));
    let none = ebpf.programs().filter(|(_, program)| matches!(program, Program::SkReuseport(_)));
    assert_eq!(none.count(), 0);
}

#[test]
fn an_object_without_a_licence_counts_as_gpl() {
    netns::isolated(|| {
        let group = UdpGroup::new(1);
        let mut ebpf = Ebpf::load(UNLICENSED).unwrap();
        loaded(&mut ebpf, "count_only").attach(&group.members[0]).unwrap();
        group.send(b"x");
        assert_eq!(counted(&ebpf, Counter::Runs), 1);
    });
}

#[test]
fn dropping_an_object_unloads_it() {
    let mut ebpf = Ebpf::load(SELECT).unwrap();
    let info = loaded(&mut ebpf, "select_socket").info().unwrap();
    let map = ebpf.map("choice").unwrap().data().info().unwrap().id();
    drop(ebpf);
    once_closed(|| info.fd().is_err());
    once_closed(|| MapData::from_id(map).is_err());
    assert!(!Path::new("/sys/fs/bpf/choice").exists());
}

#[test]
fn a_program_keeps_the_maps_that_it_uses_and_those_that_are_bound_to_it() {
    let mut ebpf = Ebpf::load(SELECT).unwrap();
    let map = Array::<_, u64>::create_named("bound", 1, 0).unwrap();
    let bound = map.map_data().info().unwrap().id();
    let program = loaded(&mut ebpf, "select_socket");
    let info = program.info().unwrap();
    let before = info.map_ids().unwrap().unwrap();
    assert!(!before.is_empty() && !before.contains(&bound), "{before:?}");
    program.bind_map(map.map_data()).unwrap();
    program.bind_map(map.map_data()).unwrap(); // changes nothing
    drop(map);
    let by_id = ProgramInfo::from_id(info.id()).unwrap();
    let after = by_id.map_ids().unwrap().unwrap();
    assert_eq!(after, [before, vec![bound]].concat());
    assert_eq!(info.map_ids().unwrap().unwrap(), after, "asked again each time");
    assert_eq!(MapData::from_id(bound).unwrap().max_entries(), 1);
    drop(ebpf);
    once_closed(|| MapData::from_id(bound).is_err());
    assert!(ProgramInfo::from_id(info.id()).is_err());
}

#[test]
fn a_map_can_be_taken_whatever_its_type() {
    let mut ebpf = Ebpf::load(SELECT).unwrap();
    let map: Map = ebpf.take_map("sockets").unwrap();
    assert_eq!(map.data().max_entries(), 8);
    assert_eq!(map.into_data().info().unwrap().name_as_str(), Some("sockets"));
}

#[test]
fn an_object_without_debug_information_says_how_to_compile_it() {
    let mut object = SELECT.to_vec();
    // Another name for the section: as if the object was compiled without `-g`.
    let at = object.windows(5).position(|name| name == b".BTF\0").unwrap();
    object[at + 3] = b'_';
    let error = Ebpf::load(&object).unwrap_err();
    assert!(matches!(error, EbpfError::NoTypes), "{error:?}");
    assert_eq!(error.hint(), Some(sk_reuseport::Hint::NoTypes));
}
