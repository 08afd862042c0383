//! Members that go while connections are open or wait, slots and indices that are given again, and
//! attaching and detaching meanwhile. All the same for both IPs, so tried over one.

use std::io::Read as _;
use std::net::{Shutdown, TcpListener, TcpStream};

use reuseport::net::{Bind, loopback};
use reuseport::{Host, MemberChange, Policy, State, Weight};
use rustix::net::{listen, shutdown};
use test_support::process::close;
use test_support::wait::{self, BOUND};

use super::{Pair, Scene, ends_at_zero_at, none_open, reset};
use crate::common::helper::Helper;
use crate::common::world::host_members;

fn ends_at_zero(members: usize, case: impl Fn(&mut Scene) + Sync) {
    ends_at_zero_at(loopback(false), members, case);
}

impl Scene {
    /// A member more, which is steered like the others.
    fn join(&mut self) {
        let newcomer = Bind::new(self.at).nonblocking(true).listeners(1).unwrap();
        self.members.extend(newcomer);
        self.attach();
    }
}

#[test]
fn what_waits_where_nobody_else_is_goes_with_the_listener() {
    ends_at_zero(1, |scene| {
        let clients = scene.connect(5);
        scene.opens(5);
        close(scene.members.split_off(0));
        none_open();
        drop(clients);
    });
}

#[test]
fn what_waits_is_handed_on() {
    ends_at_zero(2, |scene| {
        let clients = scene.connect(6);
        scene.opens(6);
        close(scene.members.remove(0));
        let accepted = scene.accept(6);
        // They were the first one's, and count for nobody once it is gone.
        scene.opens(6);
        scene.attach();
        scene.opens(3);
        assert_eq!(scene.open(), [3]);
        drop((clients, accepted));
        none_open();

        // The newcomer may have the first one's index.
        scene.join();
        let pairs = scene.pairs(4);
        assert_eq!(scene.open(), [2, 2]);
        drop(pairs);
    });
}

/// Those handed on end while their first member's index belongs to somebody else already.
#[test]
fn what_was_handed_on_ends_after_another_member_came() {
    ends_at_zero(2, |scene| {
        let clients = scene.connect(6);
        scene.opens(6);
        close(scene.members.remove(0));
        let accepted = scene.accept(6);
        scene.join();
        let pairs = scene.pairs(2);
        scene.opens(5);
        drop((clients, accepted));
        scene.opens(2);
        assert_eq!(scene.open(), [1, 1]);
        drop(pairs);
    });
}

#[test]
fn a_worker_that_is_killed_with_connections_open() {
    ends_at_zero(1, |scene| {
        // The listener is the worker's alone; it accepts all that comes, and greets it.
        let listener = Bind::new(scene.at).listeners(1).unwrap().remove(0);
        let worker = Helper::holding(&listener.into(), "serve");
        scene.attach();
        let clients = scene.connect(8);
        clients.iter().for_each(|client| client.set_nonblocking(true).unwrap());
        let own = scene.accept(4);
        scene.opens(8);
        let mut greeted = 0;
        wait::until("the worker has accepted its own", BOUND, || {
            let is_greeted = |mut client: &TcpStream| client.read(&mut [0]).is_ok();
            greeted += clients.iter().filter(|client| is_greeted(client)).count();
            greeted >= 4
        });
        worker.kill();
        scene.opens(4);
        // Somebody takes its place.
        scene.join();
        assert_eq!(scene.open(), [4, 0]);
        let pairs = scene.pairs(4);
        assert_eq!(scene.open(), [6, 2]);
        drop((clients, own));
        scene.opens(4);
        assert_eq!(scene.open(), [2, 2]);
        drop(pairs);
    });
}

#[test]
fn a_slot_that_is_used_again_begins_at_zero() {
    ends_at_zero(2, |scene| {
        let mut old = Vec::new();
        for _ in 0..4 {
            old.extend(scene.pairs(2));
            close(scene.members.remove(0));
            scene.join();
            let members = host_members();
            assert_eq!(members, 3, "two, and the one beside");
        }
        assert_eq!(scene.open().iter().sum::<u64>(), 1, "of the last turn one member is left");
        drop(old);
        none_open();
        let pairs = scene.pairs(2);
        assert_eq!(scene.open(), [1, 1]);
        drop(pairs);
    });
}

#[test]
fn a_listener_that_stops_and_listens_again() {
    ends_at_zero(2, |scene| {
        let pairs = scene.pairs(4);
        let waiting = scene.connect(4);
        scene.opens(8);
        shutdown(&scene.members[0], rustix::net::Shutdown::Both).unwrap();
        listen(&scene.members[0], 64).unwrap();
        scene.attach();
        drop(waiting);
        drop(scene.accept(4));
        pairs.into_iter().for_each(|pair| pair.server.shutdown(Shutdown::Both).unwrap());
        none_open();
        drop(scene.pairs(4));
    });
}

/// What every new version of the tool does to groups that are steered already.
#[test]
fn attaching_again_and_changing_everything_keeps_counting() {
    ends_at_zero(2, |scene| {
        let pairs = scene.pairs(4);
        scene.host = Host::open().unwrap();
        let balancer = scene.attach();
        for policy in Policy::ALL {
            balancer.set_policy(&scene.host, *policy).unwrap();
            assert_eq!(scene.open(), [2, 2]);
        }
        balancer.set_policy(&scene.host, Policy::RoundRobin).unwrap();
        let slot = balancer.stats(&scene.host).unwrap().members[0].slot.unwrap();
        let state = |state| MemberChange { slot, member: None, weight: None, state: Some(state) };
        balancer.change_members(&scene.host, &[state(State::Draining)]).unwrap();
        let more = scene.pairs(2);
        assert_eq!(scene.open(), [2, 4]);
        balancer.change_members(&scene.host, &[state(State::Active)]).unwrap();
        balancer.set_weights(&scene.host, &[(slot, Weight::MAX)]).unwrap();
        drop(pairs);
        scene.opens(2);
        assert_eq!(scene.open(), [0, 2]);
        drop(more);
    });
}

#[test]
fn connections_that_outlive_the_attachment_count_for_nobody() {
    ends_at_zero(2, |scene| {
        let pairs = scene.pairs(4);
        scene.balancer().detach(&scene.host).unwrap();
        none_open();
        let meanwhile = scene.connect(4);
        scene.attach();
        assert_eq!(scene.open(), [0, 0]);
        let unmarked = scene.accept(4);
        let [first, .., last] = pairs.try_into().ok().map(|pairs: [Pair; 4]| pairs).unwrap();
        drop(first);
        reset(last.client);
        drop((meanwhile, unmarked));
        none_open();
        let pairs = scene.pairs(4);
        assert_eq!(scene.open(), [2, 2]);
        drop(pairs);
    });
}

/// With the last group goes the host's layer, and all that it knew.
#[test]
fn the_layer_that_is_made_anew_knows_nothing_of_old_connections() {
    ends_at_zero(2, |scene| {
        let pairs = scene.pairs(4);
        scene.balancer().detach(&scene.host).unwrap();
        let beside = scene.host.group_of(&scene.beside).unwrap().key;
        reuseport::detach(&scene.host, &beside).unwrap();
        super::attach(&scene.host, &scene.beside);
        scene.attach();
        assert_eq!(scene.open(), [0, 0]);
        let more = scene.pairs(2);
        drop(pairs);
        assert_eq!(scene.open(), [1, 1]);
        drop(more);
    });
}

/// Those of both families, under one index each.
#[test]
fn a_listener_for_both_protocols() {
    crate::common::world::alone(|| {
        let mut scene = Scene::new("[::]:0".parse().unwrap(), 2);
        for address in ["127.0.0.1", "::1"] {
            scene.at.set_ip(address.parse().unwrap());
            let pairs = scene.pairs(4);
            assert_eq!(scene.open(), [2, 2]);
            drop(pairs);
            none_open();
        }
        assert_eq!(
            scene.members.iter().filter_map(|m: &TcpListener| m.local_addr().ok()).count(),
            2
        );
    });
}
