//! Maps that are pinned, opened again and shared between objects.

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use sk_reuseport::maps::{Array, HashMap, MapData, MapError, PerCpuArray};
use sk_reuseport::pin::PinError;
use sk_reuseport::{Ebpf, EbpfError, EbpfLoader};
use test_support::{bpffs, netns};

use crate::fixtures::*;
use crate::maps::{Operation, order};

fn at(name: &str) -> PathBuf {
    Path::new(bpffs::PATH).join(name)
}

fn id_of(ebpf: &Ebpf, map: &str) -> u32 {
    ebpf.map(map).unwrap().data().info().unwrap().id()
}

fn shared_count(ebpf: &Ebpf) -> u64 {
    let counts: Array<_, u64> = ebpf.map("shared_counts").unwrap().try_into().unwrap();
    counts.get(&0, 0).unwrap()
}

/// Runs a test with its own network namespace and bpffs.
fn isolated(test: impl FnOnce() + Send) {
    netns::isolated(|| {
        bpffs::private();
        test();
    });
}

#[test]
fn a_map_that_asks_for_it_is_pinned_by_its_name_and_found_again() {
    isolated(|| {
        let group = UdpGroup::new(1);
        let mut first = Ebpf::load(PINNED).unwrap();
        assert!(at("shared_counts").exists());
        assert!(!at("counters").exists());
        loaded(&mut first, "count_up").attach(&group.members[0]).unwrap();
        group.send(b"x");

        let mut second =
            EbpfLoader::new().override_global("step", &10u64, true).load(PINNED).unwrap();
        assert_eq!(id_of(&first, "shared_counts"), id_of(&second, "shared_counts"));
        assert_ne!(id_of(&first, "counters"), id_of(&second, "counters"));
        loaded(&mut second, "count_up").attach(&group.members[0]).unwrap();
        group.send(b"x");
        assert_eq!(shared_count(&first), 11);
        assert_eq!(shared_count(&second), 11);
        assert_eq!(counted(&first, Counter::Runs), 1);
        assert_eq!(counted(&second, Counter::Runs), 1);

        drop((first, second));
        assert_eq!(shared_count(&Ebpf::load(PINNED).unwrap()), 11);
    });
}

#[test]
fn maps_are_pinned_at_the_loaders_paths() {
    isolated(|| {
        std::fs::create_dir(at("group")).unwrap();
        let load = || {
            EbpfLoader::new()
                .default_map_pin_directory(at("group"))
                .map_pin_path("counters", at("counts"))
                .load(PINNED)
                .unwrap()
        };
        let (first, second) = (load(), load());
        for path in ["group/shared_counts", "counts"] {
            assert!(at(path).exists(), "{path}");
        }
        assert!(!at("shared_counts").exists());
        for map in ["shared_counts", "counters"] {
            assert_eq!(id_of(&first, map), id_of(&second, map), "{map}");
        }
        // A path takes precedence over the directory.
        let other = EbpfLoader::new()
            .default_map_pin_directory(at("group"))
            .map_pin_path("shared_counts", at("elsewhere"))
            .load(PINNED)
            .unwrap();
        assert_ne!(id_of(&other, "shared_counts"), id_of(&first, "shared_counts"));
        assert!(at("elsewhere").exists());
    });
}

#[test]
fn a_pinned_map_that_does_not_fit_is_refused() {
    isolated(|| {
        let refused = |expected: &str| {
            let error = Ebpf::load(PINNED).unwrap_err();
            let message = report(&error);
            assert!(message.contains("shared_counts") && message.contains(expected), "{message}");
            std::fs::remove_file(at("shared_counts")).unwrap();
        };
        let narrow: Array<_, u32> = Array::create(2, 0).unwrap();
        narrow.pin(at("shared_counts")).unwrap();
        refused("values of 8 bytes");
        let hash: HashMap<_, u32, u64> = HashMap::create(2, 0).unwrap();
        hash.pin(at("shared_counts")).unwrap();
        refused("BPF_MAP_TYPE_HASH");
        // Of the same sizes, but the kernel would write a value for each CPU when asked for one.
        let per_cpu: PerCpuArray<_, u64> = PerCpuArray::create(2, 0).unwrap();
        per_cpu.pin(at("shared_counts")).unwrap();
        refused("BPF_MAP_TYPE_PERCPU_ARRAY");
        let mut program = Ebpf::load(SELECT).unwrap();
        loaded(&mut program, "select_socket").pin(at("shared_counts")).unwrap();
        refused("is no BPF map");
        Ebpf::load(PINNED).unwrap();
    });
}

#[test]
fn a_pinned_map_of_another_length_is_taken_as_it_is() {
    isolated(|| {
        let long: Array<_, u64> = Array::create(100, 0).unwrap();
        long.pin(at("shared_counts")).unwrap();
        let ebpf = Ebpf::load(PINNED).unwrap();
        let map: Array<_, u64> = ebpf.map("shared_counts").unwrap().try_into().unwrap();
        assert_eq!(map.len(), 100);
        assert_eq!(map.get(&99, 0).unwrap(), 0);
    });
}

#[test]
fn a_pinned_section_is_opened_and_left_as_it_is() {
    isolated(|| {
        let group = UdpGroup::new(1);
        let load = |step: u64| {
            let path = at("constants");
            EbpfLoader::new()
                .map_pin_path(".rodata", path)
                .override_global("step", &step, true)
                .load(PINNED)
        };
        let _first = load(5).unwrap();
        // Writing to it would fail: it is frozen.
        let mut second = load(7).unwrap();
        loaded(&mut second, "count_up").attach(&group.members[0]).unwrap();
        group.send(b"x");
        assert_eq!(shared_count(&second), 5);
    });
}

#[test]
fn objects_share_a_given_map() {
    isolated(|| {
        let group = UdpGroup::new(1);
        let mut first = Ebpf::load(SELECT).unwrap();
        let counters = first.take_map("counters").unwrap();
        let mut second = EbpfLoader::new()
            .map("counters", counters.data())
            .map("nothing", counters.data())
            .load(MAPS)
            .unwrap();
        assert_eq!(id_of(&second, "counters"), counters.data().info().unwrap().id());
        loaded(&mut first, "select_socket").attach(&group.members[0]).unwrap();
        group.send(b"x");
        loaded(&mut second, "work").attach(&group.members[0]).unwrap();
        order(&group, Operation::Count, 0);
        assert_eq!(counted(&second, Counter::Runs), 2);
        // The given map is shared, not moved.
        drop(second);
        let counters: Array<_, u64> = counters.try_into().unwrap();
        assert_eq!(counters.get(&0, 0).unwrap(), 2);
    });
}

#[test]
fn a_given_map_that_does_not_fit_is_refused() {
    isolated(|| {
        let narrow: Array<_, u32> = Array::create(4, 0).unwrap();
        let error = EbpfLoader::new().map("counters", narrow.map_data()).load(SELECT).unwrap_err();
        let EbpfError::MapError(MapError::Incompatible { name, wanted, given }) = error else {
            panic!("{error}");
        };
        assert_eq!((name.as_str(), wanted, given), ("counters", (4, 8), (4, 4)));
        // A map of another type with the same sizes is accepted, and keeps its type.
        let per_cpu: PerCpuArray<_, u64> = PerCpuArray::create(4, 0).unwrap();
        let ebpf = EbpfLoader::new().map("counters", per_cpu.map_data()).load(SELECT).unwrap();
        let map = ebpf.map("counters").unwrap();
        assert!(Array::<_, u64>::try_from(map).is_err());
        assert!(PerCpuArray::<_, u64>::try_from(map).is_ok());
    });
}

#[test]
fn a_pinned_map_is_opened_by_its_path() {
    isolated(|| {
        let mut array: Array<_, u64> = Array::create(1, 0).unwrap();
        array.set(0, 42, 0).unwrap();
        array.map_data().pin(at("array")).unwrap();
        let again = sk_reuseport::maps::Map::from_map_data(MapData::from_pin(at("array")).unwrap());
        let again: Array<_, u64> = again.unwrap().try_into().unwrap();
        assert_eq!(again.get(&0, 0).unwrap(), 42);

        let PinError::SyscallError(error) = array.map_data().pin(at("array")).unwrap_err() else {
            panic!("a system call's error");
        };
        assert_eq!(error.io_error.kind(), std::io::ErrorKind::AlreadyExists);
        let MapError::SyscallError(error) = MapData::from_pin(at("nothing")).unwrap_err() else {
            panic!("a system call's error");
        };
        assert_eq!(Errno::from_io_error(&error.io_error), Some(Errno::NOENT));
        assert!(matches!(array.map_data().pin("a\0b"), Err(PinError::InvalidPinPath { .. })));
    });
}
