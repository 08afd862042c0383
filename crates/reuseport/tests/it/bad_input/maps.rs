//! Sockets that are already in a map of another program.

use std::os::fd::AsFd as _;

use reuseport::{Attach, ErrorKind, Policy};
use rustix::thread::CapabilitySet;
use sk_reuseport::maps::{Map, MapData, ReusePortSockArray, SockHash, SockMap};
use test_support::process::close;

use super::{Scene, refused, sockets_of};
use crate::common::rights::capable_of;
use crate::common::world::{alone, counter, deal, more, nothing_pinned, object, with, with_object};

#[test]
fn a_socket_in_another_socket_array() {
    alone(|| {
        let scene = Scene::new(2);
        let mut theirs = ReusePortSockArray::create("theirs", 4).unwrap();
        theirs.set(0, &scene.members[1], 0).unwrap();
        let words = ["cannot enrol socket", "busy", "one socket array", "take it out there"];
        scene.refuses(ErrorKind::Busy, &words, |scene| scene.attach(&with(Policy::RoundRobin)));
        let error = scene.attach(&with_object(object("first"))).unwrap_err();
        refused(error, ErrorKind::Busy, &words);
        // It works as soon as the socket has left that array.
        theirs.clear_index(&0).unwrap();
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        assert_eq!(deal(&scene.members, 10), [5, 5]);
    });
}

/// The kernel frees an array some time after its last reference is gone.
#[test]
fn attaching_waits_for_an_array_that_is_being_freed() {
    alone(|| {
        for _ in 0..5 {
            let scene = Scene::new(2);
            let mut theirs = ReusePortSockArray::create("theirs", 4).unwrap();
            theirs.set(0, &scene.members[1], 0).unwrap();
            drop(theirs);
            scene.attach(&with(Policy::RoundRobin)).unwrap();
            assert_eq!(deal(&scene.members, 10), [5, 5]);
        }
    });
}

#[test]
fn a_new_member_in_another_map() {
    alone(|| {
        let mut scene = Scene::steered(2);
        scene.members.extend(more(scene.key.address, 1));
        let mut theirs = SockMap::create("theirs", 4).unwrap();
        theirs.set(0, &scene.members[2], 0).unwrap();
        let words = ["cannot enrol socket", "busy", "reuseport detach", "socket map"];
        scene.refuses(ErrorKind::Busy, &words, |scene| scene.attach(&Attach::default()));
        // The hint works.
        scene.detach().unwrap();
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        assert_eq!(deal(&scene.members, 12), [4, 4, 4]);
    });
}

fn steers_by_a_socket_map(scene: &mut Scene) {
    scene.attach(&with(Policy::RoundRobin)).unwrap();
    assert_eq!(deal(&scene.members, 20), [10, 10]);
    let status = scene.host.status(&scene.key).unwrap();
    assert_eq!((counter(&status, "picks"), counter(&status, "select_error")), (20, 0));
    let map = MapData::from_pin(sockets_of(&scene.key)).unwrap();
    assert!(matches!(Map::from_map_data(map).unwrap(), Map::SockMap(_)));
    // A socket map supports every operation that an array does.
    scene.members.extend(more(scene.key.address, 1));
    scene.attach(&with(Policy::Random)).unwrap();
    scene.attach(&with(Policy::RoundRobin)).unwrap();
    assert_eq!(deal(&scene.members, 12), [4, 4, 4]);
    close(scene.members.remove(1));
    scene.attach(&Attach::default()).unwrap();
    assert_eq!(deal(&scene.members, 12), [6, 6]);
    scene.detach().unwrap();
    assert!(nothing_pinned());
}

#[test]
fn sockets_in_a_foreign_socket_map_are_steered_by_another() {
    alone(|| {
        let mut scene = Scene::new(2);
        let mut theirs = SockMap::create("theirs", 4).unwrap();
        theirs.set(0, &scene.members[0], 0).unwrap();
        steers_by_a_socket_map(&mut scene);
    });
}

#[test]
fn sockets_in_a_foreign_socket_hash_are_steered_by_a_socket_map() {
    alone(|| {
        let mut scene = Scene::new(2);
        let mut ebpf = sk_reuseport::Ebpf::load_file(object("their_hash").path).unwrap();
        let mut theirs: SockHash<_, u64> = ebpf.take_map("their_hash").unwrap().try_into().unwrap();
        for (key, member) in (7u64..).zip(&scene.members) {
            theirs.insert(key, member.as_fd(), 0).unwrap();
        }
        steers_by_a_socket_map(&mut scene);
    });
}

#[test]
fn a_socket_map_takes_cap_net_admin() {
    alone(|| {
        let scene = Scene::new(2);
        let mut theirs = SockMap::create("theirs", 4).unwrap();
        theirs.set(0, &scene.members[0], 0).unwrap();
        let words = ["not permitted", "missing here: CAP_NET_ADMIN"];
        scene.refuses(ErrorKind::Denied, &words, |scene| {
            capable_of(CapabilitySet::BPF, || scene.attach(&with(Policy::RoundRobin)))
        });
    });
}
