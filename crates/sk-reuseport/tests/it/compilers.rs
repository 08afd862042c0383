//! Objects of several compilers: clang 14 and 19, and aya-ebpf with both its ways of defining maps.
//! The programs' counters prove that they selected. `objects/README.md` describes how each was
//! built.

use std::os::fd::AsFd;

use sk_reuseport::maps::{Array, MapData, ReusePortSockArray};
use sk_reuseport::net::Bind;
use sk_reuseport::programs::{SkReuseport, SkReuseportAttachType};
use sk_reuseport::{Ebpf, EbpfLoader};
use test_support::loopback;
use test_support::netns;

use crate::fixtures::*;

/// The names of an object's parts. All objects count as `enum counter` of `bpf/count.h`.
struct Object {
    made_by: &'static str,
    bytes: &'static [u8],
    select: &'static str,
    migrate: &'static str,
    sockets: &'static str,
    counters: &'static str,
    /// Whether the choice is a map; otherwise it is a constant.
    chosen_by_map: bool,
}

const OBJECTS: [Object; 4] = [
    Object::of_clang("clang 14", SELECT),
    Object::of_clang("clang 19", CLANG_19),
    Object::of_aya("aya-ebpf, maps in a section `maps`", AYA_LEGACY),
    Object::of_aya("aya-ebpf, maps described by BTF", AYA_BTF),
];

impl Object {
    const fn of_clang(made_by: &'static str, bytes: &'static [u8]) -> Self {
        Self {
            made_by,
            bytes,
            select: "select_socket",
            migrate: "select_or_move",
            sockets: "sockets",
            counters: "counters",
            chosen_by_map: true,
        }
    }

    const fn of_aya(made_by: &'static str, bytes: &'static [u8]) -> Self {
        Self {
            made_by,
            bytes,
            select: "choose",
            migrate: "choose_or_move",
            sockets: "SOCKETS",
            counters: "COUNTERS",
            chosen_by_map: false,
        }
    }

    /// Loads the object with these sockets, to select the one at index `choice`.
    fn load<T: AsFd>(&self, members: &[T], choice: u32) -> Ebpf {
        let mut loader = EbpfLoader::new();
        if !self.chosen_by_map {
            loader.override_global("CHOICE", &choice, true);
        }
        let mut ebpf = loader.load(self.bytes).unwrap();
        if self.chosen_by_map {
            choose(&mut ebpf, choice);
            choose_for_migrating(&mut ebpf, choice);
        }
        let mut sockets: ReusePortSockArray<&mut MapData> =
            ebpf.map_mut(self.sockets).unwrap().try_into().unwrap();
        for (index, member) in members.iter().enumerate() {
            sockets.set(index as u32, &member.as_fd(), 0).unwrap();
        }
        ebpf
    }

    fn counted(&self, ebpf: &Ebpf, what: Counter) -> u64 {
        let counters: Array<_, u64> = ebpf.map(self.counters).unwrap().try_into().unwrap();
        counters.get(&(what as u32), 0).unwrap()
    }
}

#[test]
fn every_index_selects_its_socket() {
    for object in &OBJECTS {
        netns::isolated(|| {
            let group = UdpGroup::new(4);
            for choice in 0..4 {
                let mut ebpf = object.load(&group.members, choice);
                let program = loaded(&mut ebpf, object.select);
                assert!(matches!(program.attach_type(), SkReuseportAttachType::Select));
                program.attach(&group.members[0]).unwrap();
                for _ in 0..10 {
                    assert_eq!(group.send(b"x"), choice as usize, "{}", object.made_by);
                }
                assert_eq!(object.counted(&ebpf, Counter::Runs), 10, "{}", object.made_by);
                assert_eq!(object.counted(&ebpf, Counter::Picked), 10, "{}", object.made_by);
                assert_eq!(object.counted(&ebpf, Counter::Missed), 0, "{}", object.made_by);
                SkReuseport::detach(&group.members[0]).unwrap();
                // A socket can be in one array only.
                empty(&mut ebpf, object);
            }
        });
    }
}

fn empty(ebpf: &mut Ebpf, object: &Object) {
    let mut sockets: ReusePortSockArray<&mut MapData> =
        ebpf.map_mut(object.sockets).unwrap().try_into().unwrap();
    (0..4).for_each(|index| sockets.clear_index(&index).unwrap());
}

#[test]
fn an_index_without_a_socket_is_counted_and_the_kernel_chooses() {
    for object in &OBJECTS {
        netns::isolated(|| {
            let group = UdpGroup::new(2);
            let mut ebpf = object.load(&group.members, 7);
            loaded(&mut ebpf, object.select).attach(&group.members[0]).unwrap();
            group.send(b"x");
            assert_eq!(object.counted(&ebpf, Counter::Missed), 1, "{}", object.made_by);
        });
    }
}

#[test]
fn connections_of_a_listener_that_closes_move() {
    for object in &OBJECTS {
        netns::isolated(|| {
            let mut listeners = Bind::new(loopback(false)).listeners(2).unwrap();
            let mut ebpf = object.load(&listeners, 0);
            let program = loaded(&mut ebpf, object.migrate);
            assert!(matches!(program.attach_type(), SkReuseportAttachType::SelectOrMigrate));
            program.attach(&listeners[0]).unwrap();
            let address = listeners[0].local_addr().unwrap();
            let clients: Vec<_> =
                (0..5).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
            assert_eq!(object.counted(&ebpf, Counter::Picked), 5, "{}", object.made_by);
            // The index is empty then, so the kernel moves them to the other listener.
            drop(listeners.remove(0));
            for _ in &clients {
                listeners[0].accept().unwrap();
            }
            assert_eq!(object.counted(&ebpf, Counter::Migrated), 5, "{}", object.made_by);
        });
    }
}
