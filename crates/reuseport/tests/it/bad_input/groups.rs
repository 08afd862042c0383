//! Groups and members that are not there, not unique or too many.

use std::net::UdpSocket;

use reuseport::{Attach, Balancer, ErrorKind, Host, Policy};
use sk_reuseport::maps::{ReusePortSockArray, SockMap};
use sk_reuseport::net::Bind;
use test_support::process::close;
use test_support::{netns, wait};

use super::{Scene, refused};
use crate::common::world::{
    alone, counter, deal, key_at, key_of, more, nothing_pinned, object, with, with_object,
};

#[test]
fn no_such_group() {
    alone(|| {
        let scene = Scene::new(1);
        let port = scene.key.address.port();
        let elsewhere = format!("udp:127.0.0.1:{port}").parse().unwrap();
        let error = scene.host.find(&elsewhere).unwrap_err();
        refused(error, ErrorKind::NotFound, &["no group matches", &scene.key.to_string(), "ls"]);

        let Scene { host, key, members } = scene;
        close(members);
        let words = ["there is no group", "reuseport ls"];
        let error = Balancer::attach(&host, &key, &Attach::default()).unwrap_err();
        refused(error, ErrorKind::NotFound, &words);
        refused(reuseport::detach(&host, &key).unwrap_err(), ErrorKind::NotFound, &words);
        refused(Balancer::open(&host, &key).unwrap_err(), ErrorKind::NotFound, &["no group"]);
        assert!(nothing_pinned());
    });
}

#[test]
fn a_port_of_two_protocols() {
    alone(|| {
        let scene = Scene::new(1);
        let _udp = Bind::new(scene.key.address).udp_sockets(1).unwrap();
        let port = format!(":{}", scene.key.address.port()).parse().unwrap();
        let error = scene.host.find(&port).unwrap_err();
        let (tcp, udp) = (scene.key.to_string(), format!("udp:{}", scene.key.address));
        refused(error, ErrorKind::Ambiguous, &[&tcp, &udp, "name one of them"]);
    });
}

#[test]
fn an_address_in_two_network_namespaces() {
    // The groups of all tests are seen here: no other test listens at this address.
    let elsewhere = |at| netns::isolated(move || more(at, 2));
    let first = elsewhere("127.41.0.1:0".parse().unwrap());
    let at = first[0].local_addr().unwrap();
    let _second = elsewhere(at);
    alone(|| {
        let host = Host::open().unwrap();
        let error = host.find(&format!("tcp:{at}").parse().unwrap()).unwrap_err();
        refused(error, ErrorKind::Ambiguous, &["matches 2 groups", "name one of them", ",netns="]);
        // A group in the caller's own namespace takes precedence.
        let own = more(at, 1);
        assert_eq!(key_of(&host, &own[0]).netns, host.own_netns().unwrap());
    });
}

#[test]
fn more_members_than_slots() {
    alone(|| {
        let mut scene = Scene::new(3);
        let two = with(Policy::RoundRobin).slots(2);
        let words = ["cannot enrol the members", "members: 3, slots: 2", "--slots"];
        scene.refuses(ErrorKind::Full, &words, |scene| scene.attach(&two));
        for slots in [0, 32_769, u32::MAX] {
            let attach = Attach::default().slots(slots);
            let words = ["cannot make", "between 1 and 32768"];
            scene.refuses(ErrorKind::Invalid, &words, |scene| scene.attach(&attach));
        }
        close(scene.members.pop());
        scene.attach(&two).unwrap();
        scene.members.extend(more(scene.key.address, 1));
        scene.refuses(ErrorKind::Full, &["members: 3, slots: 2"], |scene| {
            scene.attach(&Attach::default())
        });
        let more_slots = Attach::default().slots(64);
        let words = ["cannot change the slots", "it has 2", "reuseport detach"];
        scene.refuses(ErrorKind::Invalid, &words, |scene| scene.attach(&more_slots));
        // A freed slot is given to the next member.
        close(scene.members.remove(0));
        scene.attach(&Attach::default()).unwrap();
        assert_eq!(deal(&scene.members, 12), [6, 6]);
    });
}

#[test]
fn attaching_twice_changes_nothing() {
    alone(|| {
        let scene = Scene::steered(3);
        assert_eq!(deal(&scene.members, 12), [4, 4, 4]);
        let before = scene.world();
        for attach in [with(Policy::RoundRobin), Attach::default()] {
            let (_, attached) = Balancer::attach(&scene.host, &scene.key, &attach).unwrap();
            assert!(attached.changes.is_empty());
            assert_eq!(attached.changes.kept, 3);
            assert_eq!(scene.world(), before);
        }
        assert_eq!(deal(&scene.members, 12), [4, 4, 4]);
        assert_eq!(counter(&scene.host.status(&scene.key).unwrap(), "picks"), 24);
    });
}

#[test]
fn detaching_where_nothing_is_attached() {
    alone(|| {
        let scene = Scene::new(2);
        let words = ["no program of this tool is attached to", &scene.key.to_string()];
        scene.refuses(ErrorKind::NotAttached, &words, |scene| scene.detach());
        scene.refuses(ErrorKind::NotAttached, &words, |scene| scene.set_weight(0, 1));
        assert!(nothing_pinned());
    });
}

#[test]
fn weights_of_empty_slots_and_under_a_program_of_the_user() {
    alone(|| {
        let scene = Scene::steered(2);
        for slot in [2, 63, 64, u16::MAX] {
            let words = ["cannot change the members", &format!("slot {slot} has no member")];
            scene.refuses(ErrorKind::NotFound, &words, |scene| scene.set_weight(slot, 1));
        }
        scene.attach(&with_object(object("first"))).unwrap();
        let words = ["cannot change the members", "the user's own program"];
        scene.refuses(ErrorKind::Invalid, &words, |scene| scene.set_weight(0, 1));
    });
}

#[test]
fn udp_sockets_are_refused_like_listeners() {
    alone(|| {
        let host = Host::open().unwrap();
        let sockets: Vec<UdpSocket> =
            Bind::new("127.0.0.1:0".parse().unwrap()).udp_sockets(3).unwrap();
        let key = key_at(&host, "udp", sockets[0].local_addr().unwrap());
        let attach = |attach: &Attach| Balancer::attach(&host, &key, attach).map(|_| ());
        let full = with(Policy::RoundRobin).slots(2);
        refused(attach(&full).unwrap_err(), ErrorKind::Full, &["members: 3, slots: 2"]);
        let mut theirs = ReusePortSockArray::create("theirs", 4).unwrap();
        theirs.set(0, &sockets[1], 0).unwrap();
        refused(attach(&with(Policy::Hash)).unwrap_err(), ErrorKind::Busy, &["take it out"]);
        drop(theirs);
        let mut theirs = SockMap::create("theirs", 4).unwrap();
        wait::until("the array is gone", wait::BOUND, || theirs.set(0, &sockets[1], 0).is_ok());
        attach(&with(Policy::RoundRobin)).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..12 {
            client.send_to(b"datagram", key.address).unwrap();
        }
        let status = host.status(&key).unwrap();
        let picks: Vec<_> =
            status.members.iter().map(|m| m.enrolment.as_ref().unwrap().picks.unwrap()).collect();
        assert_eq!(picks, [4, 4, 4]);
        reuseport::detach(&host, &key).unwrap();
        assert!(nothing_pinned());
    });
}
