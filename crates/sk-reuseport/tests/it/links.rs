//! Static maps, initial values of maps of maps, and what the loader refuses by its name.

use sk_reuseport::maps::{Array, ArrayOfMaps, MapData, MapError, ReusePortSockArray};
use sk_reuseport::{Ebpf, EbpfLoader};
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
