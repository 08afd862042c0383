//! Members that close while connections are open or wait, slots and indices that are reused, and
//! attaching and detaching in between. IPv4 and IPv6 do not differ here, so these run over one.

use std::io::Read as _;
use std::net::{Shutdown, TcpListener, TcpStream};

use reuseport::group::Protocol;
use reuseport::net::Bind;
use reuseport::{Host, MemberChange, Policy, State, Weight};
use rustix::net::{listen, shutdown};
use test_support::loopback;
use test_support::process::close;
use test_support::wait::{self, BOUND};

use super::{Pair, Scene, ends_at_zero_at, none_open, reset};
use crate::common::helper::Helper;
use crate::common::world::{BY_OPEN, host_members};

fn ends_at_zero(members: usize, case: impl Fn(&mut Scene) + Sync) {
    ends_at_zero_at(loopback(false), members, case);
}

impl Scene {
    /// Adds a member to the steered group.
    fn join(&mut self) {
        let newcomer = Bind::new(self.at).nonblocking(true).listeners(1).unwrap();
        self.members.extend(newcomer);
        self.attach();
    }
}

#[test]
fn waiting_connections_end_with_the_last_listener() {
    ends_at_zero(1, |scene| {
        let clients = scene.connect(5);
        scene.opens(5);
        close(scene.members.split_off(0));
        none_open();
        drop(clients);
    });
}

#[test]
fn waiting_connections_migrate_to_another_listener() {
    ends_at_zero(2, |scene| {
        let clients = scene.connect(6);
        scene.opens(6);
        close(scene.members.remove(0));
        let accepted = scene.accept(6);
        // They are counted at the closed member, until its index is released.
        scene.opens(6);
        scene.attach();
        scene.opens(3);
        assert_eq!(scene.open(), [3]);
        drop((clients, accepted));
        none_open();

        // The new member may reuse that index.
        scene.join();
        let pairs = scene.pairs(4);
        assert_eq!(scene.open(), [2, 2]);
        drop(pairs);
    });
}

/// Migrated connections end after the index of their first member has been reused.
#[test]
fn migrated_connections_end_after_another_member_came() {
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
        assert_eq!(scene.open(), [2, 0], "at the new one, in the first slot");
        drop(pairs);
    });
}

#[test]
fn a_worker_that_is_killed_with_connections_open() {
    ends_at_zero(1, |scene| {
        // Only the worker holds the listener; it accepts and greets every connection.
        let listener = Bind::new(scene.at).listeners(1).unwrap().remove(0);
        let worker = Helper::holding(&listener.into(), "serve");
        scene.attach();
        let clients = scene.connect(8);
        clients.iter().for_each(|client| client.set_nonblocking(true).unwrap());
        scene.opens(8);
        // The worker came later and starts slowly: it gets fewer.
        let (mut own, mut greeted) = (Vec::new(), 0);
        wait::until("all connections are accepted", BOUND, || {
            own.extend(std::iter::from_fn(|| scene.members[0].accept().ok()));
            let is_greeted = |mut client: &TcpStream| client.read(&mut [0]).is_ok();
            greeted += clients.iter().filter(|client| is_greeted(client)).count();
            own.len() + greeted == 8
        });
        assert!(greeted > 0);
        worker.kill();
        let left = own.len() as u64;
        scene.opens(left);
        // A new member takes its place.
        scene.join();
        assert_eq!(scene.open(), [left, 0]);
        let pairs = scene.pairs(4);
        drop((clients, own));
        scene.opens(4);
        drop(pairs);
    });
}

#[test]
fn a_reused_slot_begins_at_zero() {
    ends_at_zero(2, |scene| {
        let mut old = Vec::new();
        for _ in 0..4 {
            old.extend(scene.pairs(2));
            close(scene.members.remove(0));
            scene.join();
            let members = host_members();
            assert_eq!(members, 3, "two, and the listener of the other group");
            assert!(scene.open().contains(&0), "the new one");
        }
        drop(old);
        none_open();
        let pairs = scene.pairs(2);
        assert_eq!(scene.open().iter().sum::<u64>(), 2);
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

/// A new version of the command does this to groups that are steered already.
#[test]
fn attaching_again_and_changing_everything_keeps_counting() {
    ends_at_zero(2, |scene| {
        let pairs = scene.pairs(4);
        scene.host = Host::open().unwrap();
        let balancer = scene.attach();
        for policy in [Policy::default_for(Protocol::Tcp), BY_OPEN] {
            balancer.set_policy(policy).unwrap();
            assert_eq!(scene.open(), [2, 2]);
        }
        let slot = balancer.stats().unwrap().members[0].slot.unwrap();
        let state = |state| MemberChange::new(slot).state(state);
        balancer.change_members(&[state(State::Draining)]).unwrap();
        let more = scene.pairs(2);
        assert_eq!(scene.open(), [2, 4]);
        balancer.change_members(&[state(State::Active)]).unwrap();
        balancer.set_weights(&[(slot, Weight::MAX)]).unwrap();
        assert_eq!(scene.open(), [2, 4]);
        drop(pairs);
        scene.opens(2);
        assert_eq!(scene.open(), [0, 2]);
        drop(more);
    });
}

#[test]
fn connections_that_outlive_the_attachment_are_not_counted() {
    ends_at_zero(2, |scene| {
        let pairs = scene.pairs(4);
        scene.balancer().detach().unwrap();
        none_open();
        let between = scene.connect(4);
        scene.attach();
        assert_eq!(scene.open(), [0, 0]);
        let unmarked = scene.accept(4);
        let [first, .., last] = pairs.try_into().ok().map(|pairs: [Pair; 4]| pairs).unwrap();
        drop(first);
        reset(last.client);
        drop((between, unmarked));
        none_open();
        let pairs = scene.pairs(4);
        assert_eq!(scene.open(), [2, 2]);
        drop(pairs);
    });
}

/// The host layer ends with the last group.
#[test]
fn a_new_host_layer_does_not_count_old_connections() {
    ends_at_zero(2, |scene| {
        let pairs = scene.pairs(4);
        scene.balancer().detach().unwrap();
        let other = scene.host.group_of(&scene.other).unwrap().key;
        reuseport::detach(&scene.host, &other).unwrap();
        super::attach(&scene.host, &scene.other);
        scene.attach();
        assert_eq!(scene.open(), [0, 0]);
        let more = scene.pairs(2);
        drop(pairs);
        assert_eq!(scene.open(), [1, 1]);
        drop(more);
    });
}

/// Connections of both families count at one index.
#[test]
fn a_dual_stack_listener() {
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
