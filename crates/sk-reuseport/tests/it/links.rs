//! Static maps, initial values of maps of maps, and what the loader refuses by its name.

use sk_reuseport::maps::{Array, ArrayOfMaps, MapData, MapError, ReusePortSockArray};
use sk_reuseport::{Contents, Ebpf, EbpfLoader, ValueType};
use test_support::{bpffs, netns};

use crate::fixtures::*;

macro_rules! object {
    ($name:literal) => {
        include_bytes!(concat!("../bpf/", $name, ".bpf.o"))
    };
}

#[test]
fn each_static_map_is_the_one_that_the_code_names() {
    // The parser keeps maps in an order that differs from run to run.
    for _ in 0..8 {
        netns::isolated(|| {
            let group = UdpGroup::new(2);
            let mut ebpf = Ebpf::load(object!("static_maps")).unwrap();
            let mut sockets: ReusePortSockArray<&mut MapData> =
                ebpf.map_mut("sockets").unwrap().try_into().unwrap();
            sockets.set(1, &group.members[1], 0).unwrap();
            loaded(&mut ebpf, "mark").attach(&group.members[0]).unwrap();
            assert_eq!(group.send(b"x"), 1);
            for (name, wanted) in [("first", 111), ("second", 222), ("third", 333), ("global", 444)]
            {
                let map: Array<_, u32> = ebpf.map(name).unwrap().try_into().unwrap();
                assert_eq!(map.get(&0, 0).unwrap(), wanted, "{name}");
            }
        });
    }
}

#[test]
fn maps_of_maps_have_their_initial_values() {
    netns::isolated(|| {
        let group = UdpGroup::new(2);
        let mut ebpf = Ebpf::load(object!("values")).unwrap();
        let mut blue: ReusePortSockArray<&mut MapData> =
            ebpf.map_mut("blue").unwrap().try_into().unwrap();
        blue.set(1, &group.members[1], 0).unwrap();
        loaded(&mut ebpf, "from_blue").attach(&group.members[0]).unwrap();
        for _ in 0..10 {
            assert_eq!(group.send(b"x"), 1);
        }
        let id = |name: &str| ebpf.map(name).unwrap().data().info().unwrap().id();
        let outer: ArrayOfMaps<_> = ebpf.map("outer").unwrap().try_into().unwrap();
        assert_eq!(outer.get(&0, 0).unwrap(), id("red"));
        assert_eq!(outer.get(&2, 0).unwrap(), id("blue"));
        assert!(matches!(outer.get(&1, 0), Err(MapError::KeyNotFound)));
    });
}

#[test]
fn what_the_loader_does_not_support_is_named_with_what_to_do() {
    let refused = |bytes: &[u8], words: [&str; 2]| {
        let text = report(&Ebpf::load(bytes).unwrap_err());
        assert!(words.iter().all(|word| text.contains(word)) && !text.contains('\n'), "{text}");
    };
    let values = "map `next_programs` that are programs, which is not supported";
    refused(object!("programs_as_values"), [values, "; call a function (`static __noinline`)"]);
    let function = "calls a function of the kernel (`__ksym`): `bpf_rcu_read_lock`";
    refused(object!("kernel_symbol"), [function, "; build the program without it"]);
    let value = "reads the kernel's configuration (`__kconfig`): `LINUX_KERNEL_VERSION`";
    refused(object!("kernel_configuration"), [value, "; declare it `const volatile`"]);
}

#[test]
fn values_of_a_pinned_map_of_maps_are_refused() {
    netns::isolated(|| {
        bpffs::private();
        let path = format!("{}/outer", bpffs::PATH);
        let error = EbpfLoader::new()
            .map_pin_path("outer", std::path::Path::new(&path))
            .load(object!("values"));
        let text = report(&error.unwrap_err());
        assert!(text.contains("pinned map `outer`"), "{text}");
        assert!(!std::path::Path::new(&path).exists());
    });
}

/// As if two objects, each with a static map of this name, had been linked into one.
#[test]
fn two_maps_of_the_same_name_are_refused() {
    let mut bytes = object!("static_maps").to_vec();
    let at = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|w| w == what);
    // Both in the names of the symbols and in those of the types.
    while let Some(at) = at(&bytes, b"\0third\0") {
        bytes[at..at + 7].copy_from_slice(b"\0first\0");
    }
    let text = report(&Ebpf::load(&bytes).unwrap_err());
    assert!(text.contains("two maps with the name `first`"), "{text}");
}

/// Of an object that as a whole could not be loaded.
#[test]
fn only_what_a_program_uses_is_loaded() {
    for (name, section, chosen) in
        [("by_index", "sk_reuseport/by_index", 1), ("first", "sk_reuseport/first", 0)]
    {
        netns::isolated(|| {
            let group = UdpGroup::new(3);
            let mut ebpf = EbpfLoader::new().only(name).load(OTHERS).unwrap();
            assert_eq!(ebpf.programs().count(), 1);
            assert!(ebpf.map("impossible").is_none());
            let mut sockets: ReusePortSockArray<&mut MapData> =
                ebpf.map_mut("sockets").unwrap().try_into().unwrap();
            for (index, member) in group.members.iter().enumerate() {
                sockets.set(index as u32, member, 0).unwrap();
            }
            loaded(&mut ebpf, name).attach(&group.members[0]).unwrap();
            assert_eq!(group.send(b"x"), chosen, "{section}");
        });
    }
    let error = EbpfLoader::new().only("other").load(OTHERS).unwrap_err();
    assert!(report(&error).contains("no program `other`"), "{error}");
}

#[test]
fn one_variable_is_written_and_its_neighbours_stay() {
    netns::isolated(|| {
        let group = UdpGroup::new(3);
        let contents = Contents::parse(OTHERS).unwrap();
        let index = contents.variable("chosen").unwrap();
        let mut loader = EbpfLoader::new();
        let first = 2u16.to_ne_bytes();
        let mut ebpf = loader.only("by_index").variable(&index, 0, &first).load(OTHERS).unwrap();
        let mut sockets: ReusePortSockArray<&mut MapData> =
            ebpf.map_mut("sockets").unwrap().try_into().unwrap();
        for (index, member) in group.members.iter().enumerate() {
            sockets.set(index as u32, member, 0).unwrap();
        }
        loaded(&mut ebpf, "by_index").attach(&group.members[0]).unwrap();
        assert_eq!(group.send(b"x"), 2);
        let data = ebpf.map(&index.section).unwrap().data();
        data.set_variable(index.offset, &0u16.to_ne_bytes()).unwrap();
        assert_eq!(group.send(b"x"), 0);
        assert!(data.set_variable(index.offset + 1, &0u16.to_ne_bytes()).is_err(), "not aligned");
        assert!(data.set_variable(16, &0u64.to_ne_bytes()).is_err(), "beyond the end");
    });
}

#[test]
fn an_object_says_what_it_has_before_it_is_loaded() {
    let contents = Contents::parse(OTHERS).unwrap();
    let programs: Vec<_> =
        contents.programs().map(|p| (p.name(), p.section(), p.attach_type().is_some())).collect();
    assert_eq!(
        programs,
        [
            ("by_index", "sk_reuseport/by_index", true),
            ("first", "sk_reuseport/first", true),
            ("other", "tc", false),
        ]
    );
    let uses = contents.uses("by_index");
    assert_eq!(
        (uses.maps, uses.external, uses.selects),
        (vec![".data".into(), "sockets".into()], None, true)
    );
    let uses = contents.uses("other");
    assert_eq!(uses.maps, ["impossible"]);
    assert!(uses.external.is_some() && !uses.selects);
    assert_eq!(contents.variables(), ["before", "behind", "chosen"]);
    let integer = ValueType::Integer { size: 8, signed: false, big_endian: false };
    assert_eq!(contents.variable("behind").unwrap().of, integer);
    assert_eq!(contents.value_type("sockets"), integer);
}
