//! Members in the file table of an io_uring, without a descriptor.

use std::net::TcpListener;

use reuseport::{Attach, Balancer, ErrorKind, Host, Policy, Unborrowable};
use test_support::feature::{self, require};
use test_support::netns::isolated;
use test_support::{InRing, wait};

use crate::common::world::{
    alone, deal, is_steered, key_of, listeners, more, nothing_pinned, one_line, with,
};
use crate::common::{cookie, groups_here, local_address, only_group, tcp, udp};

const HIDDEN: Option<Unborrowable> = Some(Unborrowable::NoHolder);

#[test]
fn a_socket_that_only_a_ring_has_is_a_member_until_the_ring_ends() {
    if !require(&feature::IO_URING) {
        return;
    }
    for open in [tcp, udp] {
        isolated(|| {
            let host = Host::open().unwrap();
            let seen = open("127.0.0.1:0");
            let second = open(&local_address(&seen).to_string());
            let known = cookie(&second);
            let ring = InRing::register(second);
            // Until execve, a child of another test has a copy.
            wait::until("it is hidden", wait::BOUND, || {
                only_group(&host).member(known).unwrap().unborrowable() == HIDDEN
            });
            let group = only_group(&host);
            assert!(group.complete);
            assert_eq!(group.members.len(), 2);
            assert_eq!(group.member(cookie(&seen)).unwrap().unborrowable(), None);

            drop(ring);
            wait::until("it is closed", wait::BOUND, || only_group(&host).members.len() == 1);
            drop(seen);
            wait::until("the group ends", wait::BOUND, || groups_here(&host).is_empty());
        });
    }
}

#[test]
fn attaching_refuses_to_starve_a_listener_that_only_a_ring_has() {
    if !require(&feature::IO_URING) {
        return;
    }
    alone(|| {
        let seen = listeners(2);
        let late = more(seen[0].local_addr().unwrap(), 1).remove(0);
        let known = cookie(&late);
        let ring = InRing::register(late);
        let host = Host::open().unwrap();
        let key = key_of(&host, &seen[0]);
        wait::until("it is hidden", wait::BOUND, || {
            host.refresh(&key).unwrap().member(known).unwrap().unborrowable() == HIDDEN
        });

        let error = Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Starved, "{error:?}");
        let text = one_line(&error);
        assert!(text.contains(&format!("cookie:{known}")) && text.contains("no visible process"));
        assert!(nothing_pinned());
        assert!(host.refresh(&key).unwrap().program.is_none());

        let partial = with(Policy::RoundRobin).partial(true);
        let (balancer, attached) = Balancer::attach(&host, &key, &partial).unwrap();
        let [left_out] = &attached.changes.left_out[..] else { panic!("{attached:?}") };
        assert_eq!((left_out.cookie, left_out.is_starving()), (Some(known), true));
        let why = left_out.why.report().to_string();
        assert!(why.contains("no visible process"), "{why}");
        assert_eq!(host.status(&key).unwrap().unsteered(), 1);
        assert_eq!(deal(&seen, 20), [10, 10]);

        // The server closes the ring: all that is left is steered.
        drop(ring);
        wait::until("it is closed", wait::BOUND, || {
            host.refresh(&key).unwrap().members.len() == seen.len()
        });
        is_steered(&host, &key, &seen);
        balancer.detach().unwrap();
        assert!(nothing_pinned());
    });
}

/// The server registers its listener after it was enrolled, and closes the descriptor.
#[test]
fn a_member_that_goes_into_a_ring_keeps_its_slot_until_the_ring_ends() {
    if !require(&feature::IO_URING) {
        return;
    }
    alone(|| {
        let mut all = listeners(2);
        let host = Host::open().unwrap();
        let key = key_of(&host, &all[0]);
        let (balancer, _) = Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
        let second: TcpListener = all.remove(1);
        let known = cookie(&second);
        let ring = InRing::register(second);
        wait::until("it is hidden", wait::BOUND, || {
            host.refresh(&key).unwrap().member(known).unwrap().unborrowable() == HIDDEN
        });
        let (_, attached) = Balancer::attach(&host, &key, &Attach::default()).unwrap();
        assert!(attached.changes.is_empty(), "{attached:?}");
        let status = host.status(&key).unwrap();
        let of_it = status.members.iter().find(|m| m.member.cookie == Some(known)).unwrap();
        assert!(of_it.enrolment.is_some(), "{of_it:?}");

        drop(ring);
        wait::until("its slot is freed", wait::BOUND, || {
            let (_, attached) = Balancer::attach(&host, &key, &Attach::default()).unwrap();
            assert!(attached.changes.left_out.iter().all(|left| !left.is_starving()));
            host.status(&key).unwrap().members.len() == 1
        });
        is_steered(&host, &key, &all);
        balancer.detach().unwrap();
    });
}
