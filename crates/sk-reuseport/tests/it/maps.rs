//! Maps of plain values, shared by programs and user space.

use std::sync::atomic::Ordering;

use rustix::io::Errno;
use sk_reuseport::Ebpf;
use sk_reuseport::maps::lpm_trie::{Key, LpmTrie};
use sk_reuseport::maps::{
    Array, HashMap, LruHashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues,
    ProgramArray, SkStorage,
};
use sk_reuseport::util::nr_cpus;
use test_support::netns;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::fixtures::*;

/// The operations of `maps.bpf.c`.
#[derive(Clone, Copy)]
pub(crate) enum Operation {
    Count,
    RecordSmall,
    RecordLarge,
    RecordDiscarded,
    ReadTable,
    Globals,
}

/// Makes the program `work` do an operation.
pub(crate) fn order(group: &UdpGroup, operation: Operation, argument: u32) {
    let mut request = [0; 8];
    request[..4].copy_from_slice(&(operation as u32).to_ne_bytes());
    request[4..].copy_from_slice(&argument.to_ne_bytes());
    group.send(&request);
}

/// A group with the program `work` attached, which selects no socket.
pub(crate) fn working() -> (UdpGroup, Ebpf) {
    let group = UdpGroup::new(1);
    let mut ebpf = Ebpf::load(MAPS).unwrap();
    loaded(&mut ebpf, "work").attach(&group.members[0]).unwrap();
    (group, ebpf)
}

/// `struct shared` of the program.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Shared {
    narrow: u32,
    unused: u32,
    wide: u64,
}

#[test]
fn an_array_is_read_and_written() {
    netns::isolated(|| {
        let (group, mut ebpf) = working();
        let mut array: Array<_, Shared> = ebpf.map_mut("shared").unwrap().try_into().unwrap();
        assert_eq!(array.len(), 600);
        array.set(3, Shared { narrow: 10, unused: 1, wide: 100 }, 0).unwrap();
        order(&group, Operation::Count, 3);
        assert_eq!(array.get(&3, 0).unwrap(), Shared { narrow: 11, unused: 1, wide: 101 });
        let all: Vec<Shared> = array.iter().collect::<Result<_, _>>().unwrap();
        assert_eq!(all.len(), 600);
        assert_eq!(all[2], Shared { narrow: 0, unused: 0, wide: 0 });
        let beyond = array.get(&600, 0).unwrap_err();
        assert_eq!(beyond.to_string(), "the index is 600 but `max_entries` is 600");
        assert!(array.set(600, all[0], 0).is_err());
    });
}

#[test]
fn a_mapped_array_is_the_same_memory_for_both() {
    netns::isolated(|| {
        let (group, ebpf) = working();
        let array: Array<_, Shared> = ebpf.map("shared").unwrap().try_into().unwrap();
        let mapped = array.mapped().unwrap();
        assert_eq!(mapped.len(), 600);
        // The last element lies on another page than the first.
        for index in [0, 599] {
            assert!(mapped.set(index, Shared { narrow: 7, unused: 0, wide: 70 }));
            order(&group, Operation::Count, index);
            let expected = Shared { narrow: 8, unused: 0, wide: 71 };
            assert_eq!(mapped.get(index), Some(expected));
            assert_eq!(array.get(&index, 0).unwrap(), expected);
        }
        assert_eq!(mapped.get(600), None);
        assert!(!mapped.set(600, Shared { narrow: 0, unused: 0, wide: 0 }));
    });
}

#[test]
fn words_of_a_mapped_array_are_atomic() {
    const ROUNDS: u64 = 300;
    netns::isolated(|| {
        let (group, ebpf) = working();
        let array: Array<_, Shared> = ebpf.map("shared").unwrap().try_into().unwrap();
        let mapped = array.mapped().unwrap();
        // The program and another thread add to the same words at the same time.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    mapped.atomic_u64(1, 8).unwrap().fetch_add(1, Ordering::Relaxed);
                    mapped.atomic_u32(1, 0).unwrap().fetch_add(1, Ordering::Relaxed);
                }
            });
            for _ in 0..ROUNDS {
                order(&group, Operation::Count, 1);
            }
        });
        let expected = Shared { narrow: 2 * ROUNDS as u32, unused: 0, wide: 2 * ROUNDS };
        assert_eq!(mapped.get(1), Some(expected));
        assert!(mapped.atomic_u64(1, 4).is_none(), "misaligned");
        assert!(mapped.atomic_u64(1, 16).is_none(), "in the next element");
        assert!(mapped.atomic_u32(1, usize::MAX).is_none());
        assert!(mapped.atomic_u32(600, 0).is_none());
    });
}

#[test]
fn values_of_odd_sizes_do_not_overlap_in_a_mapped_array() {
    type Odd = [u8; 5];
    let array: Array<_, Odd> = Array::create(3, Array::<MapData, Odd>::MMAPABLE).unwrap();
    let mapped = array.mapped().unwrap();
    for index in 0..3 {
        assert!(mapped.set(index, [index as u8 + 1; 5]));
    }
    assert!(mapped.set(1, [9; 5]));
    let all: Vec<Odd> = array.iter().collect::<Result<_, _>>().unwrap();
    assert_eq!(all, [[1; 5], [9; 5], [3; 5]]);
    assert_eq!(mapped.get(2), Some([3; 5]));
    assert!(mapped.atomic_u32(0, 0).is_some());
    assert!(mapped.atomic_u32(0, 4).is_none());
}

#[test]
fn a_mapping_keeps_the_map_alive_and_needs_the_flag() {
    let array: Array<_, u64> = Array::create(1, Array::<MapData, u64>::MMAPABLE).unwrap();
    let mapped = array.mapped().unwrap();
    drop(array);
    assert!(mapped.set(0, 1));
    assert_eq!(mapped.get(0), Some(1));

    let plain: Array<_, u64> = Array::create(1, 0).unwrap();
    let error = plain.mapped().unwrap_err();
    assert_eq!(errno(&error), Some(Errno::INVAL));
    assert!(report(&error).contains("BPF_F_MMAPABLE"), "{error}");

    let frozen: Array<_, u64> = Array::create(1, Array::<MapData, u64>::MMAPABLE).unwrap();
    frozen.map_data().freeze().unwrap();
    let error = frozen.mapped().unwrap_err();
    assert_eq!(errno(&error), Some(Errno::PERM));
    assert!(report(&error).contains("frozen"), "{error}");
}

#[test]
fn a_frozen_map_is_read_only_and_the_message_says_so() {
    let mut array: Array<_, u64> = Array::create(1, 0).unwrap();
    array.set(0, 5, 0).unwrap();
    array.map_data().freeze().unwrap();
    let error = array.set(0, 6, 0).unwrap_err();
    assert_eq!(errno(&error), Some(Errno::PERM));
    assert!(report(&error).contains("frozen"), "{error}");
    assert_eq!(array.get(&0, 0).unwrap(), 5);
}

#[test]
fn a_per_cpu_array_has_a_value_for_each_cpu() {
    netns::isolated(|| {
        let (group, mut ebpf) = working();
        let cpus = nr_cpus().unwrap();
        let array = ebpf.map_mut("per_cpu").unwrap();
        let mut array: PerCpuArray<_, u32> = array.try_into().unwrap();
        let start: Vec<u32> = (1..=cpus as u32).collect();
        array.set(2, PerCpuValues::try_from(start.clone()).unwrap(), 0).unwrap();
        assert_eq!(*array.get(&2, 0).unwrap(), *start);
        for _ in 0..10 {
            order(&group, Operation::Count, 2);
        }
        let sum: u32 = array.get(&2, 0).unwrap().iter().sum();
        assert_eq!(sum, start.iter().sum::<u32>() + 10);
        assert_eq!(array.iter().count(), 4);
        assert_eq!(array.len(), 4);
        assert!(matches!(array.get(&4, 0), Err(MapError::OutOfBounds { .. })));
        assert!(PerCpuValues::try_from(vec![0u32; cpus + 1]).is_err());
    });
}

#[test]
fn a_hash_map_holds_elements_of_program_and_user_space() {
    netns::isolated(|| {
        let (group, mut ebpf) = working();
        order(&group, Operation::Count, 7);
        order(&group, Operation::Count, 7);
        let mut map: HashMap<_, u32, u64> = ebpf.map_mut("hash").unwrap().try_into().unwrap();
        assert_eq!(map.get(&7, 0).unwrap(), 2);
        assert!(matches!(map.get(&8, 0), Err(MapError::KeyNotFound)));
        map.insert(8, 80, 0).unwrap();
        map.insert(9, 90, 0).unwrap();
        map.insert(10, 100, 0).unwrap();
        let full = map.insert(11, 110, 0).unwrap_err();
        assert_eq!(errno(&full), Some(Errno::TOOBIG));
        let mut pairs: Vec<(u32, u64)> = map.iter().collect::<Result<_, _>>().unwrap();
        pairs.sort_unstable();
        assert_eq!(pairs, [(7, 2), (8, 80), (9, 90), (10, 100)]);
        let mut keys: Vec<u32> = map.keys().collect::<Result<_, _>>().unwrap();
        keys.sort_unstable();
        assert_eq!(keys, [7, 8, 9, 10]);
        map.remove(&8).unwrap();
        assert_eq!(errno(&map.remove(&8).unwrap_err()), Some(Errno::NOENT));
        assert_eq!((&map).into_iter().count(), 3);
    });
}

#[test]
fn an_lru_map_forgets_when_it_is_full() {
    netns::isolated(|| {
        let (group, ebpf) = working();
        for key in 0..100 {
            order(&group, Operation::Count, key);
        }
        let map: LruHashMap<_, u32, u64> = ebpf.map("lru").unwrap().try_into().unwrap();
        assert!(matches!(ebpf.map("lru").unwrap(), Map::LruHashMap(_)));
        let kept = map.keys().collect::<Result<Vec<_>, _>>().unwrap();
        assert!(!kept.is_empty() && kept.len() <= 4, "{kept:?}");

        let mut own: LruHashMap<_, u32, u64> = HashMap::create_lru(4, 0).unwrap();
        for key in 0..100 {
            own.insert(key, 1, 0).unwrap();
        }
        assert!(own.keys().count() <= 4);
    });
}

#[test]
fn a_map_with_half_a_description_is_created_too() {
    netns::isolated(|| {
        let group = UdpGroup::new(1);
        let mut ebpf = Ebpf::load(HALF_DESCRIBED).unwrap();
        loaded(&mut ebpf, "put").attach(&group.members[0]).unwrap();
        group.send(b"x");
        let map: HashMap<_, u32, u64> = ebpf.map("half_described").unwrap().try_into().unwrap();
        assert_eq!(map.get(&1, 0).unwrap(), 1);
    });
}

#[test]
fn every_conversion_from_a_map() {
    let mut ebpf = Ebpf::load(MAPS).unwrap();
    {
        let borrowed: Array<&MapData, u64> = ebpf.map("counters").unwrap().try_into().unwrap();
        assert_eq!(borrowed.len(), 4);
    }
    {
        let map = ebpf.map_mut("counters").unwrap();
        let mut borrowed: Array<&mut MapData, u64> = map.try_into().unwrap();
        borrowed.set(0, 4, 0).unwrap();
    }
    let owned: Array<MapData, u64> = ebpf.take_map("counters").unwrap().try_into().unwrap();
    assert_eq!(owned.get(&0, 0).unwrap(), 4);
    assert!(ebpf.map("counters").is_none());

    let [Some(hash), Some(lru), None] = ebpf.maps_disjoint_mut(["hash", "lru", "nothing"]) else {
        panic!("two maps and one that is not there");
    };
    let mut hash: HashMap<_, u32, u64> = hash.try_into().unwrap();
    let mut lru: HashMap<_, u32, u64> = lru.try_into().unwrap();
    hash.insert(1, 1, 0).unwrap();
    lru.insert(1, 1, 0).unwrap();
    assert_eq!(ebpf.maps_mut().count(), ebpf.maps().count());
}

#[test]
fn sizes_and_types_must_be_those_of_the_map() {
    let ebpf = Ebpf::load(MAPS).unwrap();
    let hash = || ebpf.map("hash").unwrap();
    assert!(matches!(
        HashMap::<_, u64, u64>::try_from(hash()).unwrap_err(),
        MapError::InvalidKeySize { size: 8, expected: 4 }
    ));
    assert!(matches!(
        HashMap::<_, u32, u32>::try_from(hash()).unwrap_err(),
        MapError::InvalidValueSize { size: 4, expected: 8 }
    ));
    let wrong = Array::<_, u64>::try_from(hash()).unwrap_err();
    assert!(report(&wrong).contains("BPF_MAP_TYPE_HASH"), "{wrong}");
    assert!(SkStorage::<_, u64>::try_from(hash()).is_err());
}

#[test]
fn a_map_in_the_wrong_variant_is_refused() {
    // A value for each CPU is more than an array's reader has room for.
    let per_cpu: PerCpuArray<_, u64> = PerCpuArray::create(1, 0).unwrap();
    let id = per_cpu.map_data().info().unwrap().id();
    let map = Map::Array(MapData::from_id(id).unwrap());
    let error = Array::<MapData, u64>::try_from(map).unwrap_err();
    assert!(report(&error).contains("PERCPU_ARRAY"), "{error}");
}

#[test]
fn the_kernels_description_of_a_map() {
    let ebpf = Ebpf::load(MAPS).unwrap();
    let info = ebpf.map("hash").unwrap().data().info().unwrap();
    assert_eq!(info.name_as_str(), Some("hash"));
    assert_eq!((info.key_size(), info.value_size(), info.max_entries()), (4, 8, 4));
    let same = MapData::from_id(info.id()).unwrap();
    assert_eq!(same.info().unwrap().id(), info.id());
    assert_eq!(same.max_entries(), 4);
    assert!(is_close_on_exec(std::os::fd::AsFd::as_fd(&same)));
    let error = MapData::from_id(u32::MAX).unwrap_err();
    assert_eq!(errno(&error), Some(Errno::NOENT));
    let no_map = std::fs::File::open("/dev/null").unwrap().into();
    assert!(MapData::from_fd(no_map).is_err());
}

#[test]
fn all_maps_of_an_object_have_a_rust_type() {
    let ebpf = Ebpf::load(MAPS).unwrap();
    for (name, map) in ebpf.maps() {
        assert!(!matches!(map, Map::Unsupported(_)), "{name}");
    }
    let names = ebpf.maps().count();
    assert!(names >= 9, "{names}");
}

#[test]
fn maps_for_lookups_are_made_without_an_object() {
    let mut networks: LpmTrie<_, u32, u64> = LpmTrie::create(2, 0).unwrap();
    let address = u32::from_ne_bytes([10, 9, 8, 7]);
    for (bits, value) in [(8, 80), (24, 240)] {
        networks.insert(&Key::new(bits, address), value, 0).unwrap();
    }
    assert_eq!(networks.get(&Key::new(32, address), 0).unwrap(), 240);
    let far = u32::from_ne_bytes([10, 1, 1, 1]);
    assert_eq!(networks.get(&Key::new(32, far), 0).unwrap(), 80);
    let full = networks.insert(&Key::new(16, address), 160, 0).unwrap_err();
    assert_eq!(errno(&full), Some(Errno::NOSPC));
    let key = networks.keys().next().unwrap().unwrap();
    assert_eq!(format!("{key:?}"), format!("Key {{ prefix_len: 24, data: {} }}", key.data()));

    let mut hits: PerCpuHashMap<_, u64, u8> = PerCpuHashMap::create(1, 0).unwrap();
    let values = PerCpuValues::try_from(vec![3u8; nr_cpus().unwrap()]).unwrap();
    hits.insert(7, values.clone(), 0).unwrap();
    assert_eq!(hits.get(&7, 0).unwrap(), values);
    assert_eq!(errno(&hits.insert(8, values, 0).unwrap_err()), Some(Errno::TOOBIG));

    let mut ebpf = Ebpf::load(LOOKUPS).unwrap();
    let first = loaded(&mut ebpf, "first");
    let mut programs = ProgramArray::create(3, 0).unwrap();
    programs.set(2, first.fd().unwrap(), 0).unwrap();
    assert_eq!(programs.indices().collect::<Result<Vec<_>, _>>().unwrap(), [2]);
    let beyond = programs.set(3, first.fd().unwrap(), 0).unwrap_err();
    assert!(matches!(beyond, MapError::OutOfBounds { index: 3, max_entries: 3 }));
    // Not a program.
    let error = programs.set(1, networks.map_data(), 0).unwrap_err();
    assert_eq!(errno(&error), Some(Errno::INVAL));
}
