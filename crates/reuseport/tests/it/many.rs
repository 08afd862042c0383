//! Attaching to many groups in one call: the results are those of one call after another.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{TcpListener, UdpSocket};
use std::rc::Rc;
use std::time::Duration;

use crate::common::theirs::Theirs;
use crate::common::world::{
    BY_OPEN, alone, deal, fails_to_attach, has_layer, host_members, key_at, key_of, listeners,
    nothing_pinned, with,
};
use reuseport::group::GroupKey;
use reuseport::status::Steering;
use reuseport::{Attach, Attached, Balancer, ErrorKind, Host, Policy, Result, Stop};
use rustix::io::Errno;
use sk_reuseport::fault::{Call, Verdict, intercept};
use sk_reuseport::net::Bind;
use test_support::wait;

/// Groups with two members each, and their keys.
fn groups(host: &Host, count: usize) -> (Vec<Vec<TcpListener>>, Vec<GroupKey>) {
    let groups: Vec<Vec<TcpListener>> = (0..count).map(|_| listeners(2)).collect();
    let keys = groups.iter().map(|members| key_of(host, &members[0])).collect();
    (groups, keys)
}

/// Attaches to these groups. Returns the results in their order.
fn attach_each(host: &Host, keys: &[GroupKey], attach: &Attach) -> Vec<Result<Attached>> {
    let requests: Vec<(GroupKey, Attach)> =
        keys.iter().map(|key| (key.clone(), attach.clone())).collect();
    let mut results = Vec::new();
    Balancer::attach_each(host, &requests, |key, result| {
        assert_eq!(*key, keys[results.len()]);
        results.push(result.map(|(_, attached)| attached));
    });
    results
}

fn kinds(results: &[Result<Attached>]) -> Vec<Option<ErrorKind>> {
    results.iter().map(|result| result.as_ref().err().map(|error| error.kind())).collect()
}

/// The system calls of this thread, by kind.
fn calls_of<T>(operation: impl FnOnce() -> T) -> (HashMap<Call, usize>, T) {
    let calls = Rc::new(RefCell::new(HashMap::new()));
    let counted = Rc::clone(&calls);
    let hook = move |call| {
        *counted.borrow_mut().entry(call).or_default() += 1;
        Verdict::Allow
    };
    let result = intercept(hook, operation);
    (calls.take(), result)
}

#[test]
fn several_groups_share_a_listing_and_their_programs_are_loaded_meanwhile() {
    alone(|| {
        let host = Host::open().unwrap();
        let attach = with(Policy::RoundRobin);
        let (_members, alone) = groups(&host, 1);
        let (one, attached) = calls_of(|| Balancer::attach(&host, &alone[0], &attach));
        attached.unwrap();

        let (members, keys) = groups(&host, 20);
        let (all, results) = calls_of(|| attach_each(&host, &keys, &attach));
        assert_eq!(kinds(&results), vec![None; 20]);
        for (key, members) in keys.iter().zip(&members) {
            assert_eq!(deal(members, 4), [2, 2], "{key}");
        }
        let of = |calls: &HashMap<Call, usize>, call| calls.get(&call).copied().unwrap_or(0);
        // The first group of each lock is prepared by this thread. A lock is held for half a second at most, in which a
        // slow machine attaches to one group.
        let is_slow = wait::scaled(Duration::from_secs(1)) > Duration::from_secs(1);
        for call in [Call::BpfProgLoad, Call::BpfIterCreate] {
            let (calls, for_one) = (of(&all, call), of(&one, call));
            assert!(is_slow || calls < 15 * for_one, "{call:?}: {calls}, and {for_one} for one");
        }

        // What is attached already is updated.
        let again = attach_each(&host, &keys, &Attach::default());
        assert!(again.iter().all(|result| result.as_ref().unwrap().changes.kept == 2));
        for key in keys.iter().chain(&alone) {
            reuseport::detach(&host, key).unwrap();
        }
        assert!(nothing_pinned());
    });
}

#[test]
fn several_groups_are_counted_in_one_layer() {
    alone(|| {
        let host = Host::open().unwrap();
        let (members, keys) = groups(&host, 5);
        let results = attach_each(&host, &keys, &with(BY_OPEN));
        assert_eq!(kinds(&results), vec![None; 5]);
        assert!(results.iter().all(|result| result.as_ref().unwrap().degraded.is_empty()));
        assert_eq!(host_members(), 10);
        for (key, members) in keys.iter().zip(&members) {
            assert_eq!(deal(members, 4), [2, 2]);
            let status = host.status(key).unwrap();
            let open = |m: &reuseport::status::MemberStatus| m.enrolment.as_ref()?.open;
            assert!(status.members.iter().all(|member| open(member).is_some()), "{status:?}");
            reuseport::detach(&host, key).unwrap();
        }
        assert!(!has_layer() && nothing_pinned());
    });
}

#[test]
fn a_group_that_fails_keeps_no_other_one_from_it() {
    alone(|| {
        let host = Host::open().unwrap();
        let (mut members, keys) = groups(&host, 6);
        let mut theirs = Theirs::load();
        theirs.steer(&members[1]);
        members[3].clear();
        let results = attach_each(&host, &keys, &with(Policy::RoundRobin));
        let expected =
            [None, Some(ErrorKind::Foreign), None, Some(ErrorKind::NotFound), None, None];
        assert_eq!(kinds(&results), expected);
        for at in [0, 2, 4, 5] {
            assert_eq!(deal(&members[at], 4), [2, 2]);
        }
        assert_eq!(host.status(&keys[1]).unwrap().steering, Steering::Foreign);
    });
}

#[test]
fn a_group_whose_program_cannot_be_attached_leaves_nothing_for_the_next_one() {
    alone(|| {
        let host = Host::open().unwrap();
        let (members, keys) = groups(&host, 3);
        // Through neither of the first group's two members.
        let fails = fails_to_attach(2, Errno::NOMEM);
        let attach = with(Policy::RoundRobin);
        let results = intercept(fails, || attach_each(&host, &keys, &attach));
        assert_eq!(kinds(&results), [Some(ErrorKind::System), None, None]);
        assert_eq!(host.status(&keys[0]).unwrap().steering, Steering::KernelHash);
        assert_eq!(deal(&members[1], 4), [2, 2]);
        assert_eq!(deal(&members[2], 4), [2, 2]);
        reuseport::detach(&host, &keys[1]).unwrap();
        reuseport::detach(&host, &keys[2]).unwrap();
        assert!(nothing_pinned());
    });
}

#[test]
fn of_two_groups_of_one_name_one_is_steered() {
    alone(|| {
        let host = Host::open().unwrap();
        let bind = Bind::new("127.0.0.1:0".parse().unwrap());
        let mut sockets = bind.udp_sockets(1).unwrap();
        let address = sockets[0].local_addr().unwrap();
        let bind = Bind::new(address);
        // A socket that leaves its group by connecting, and the one that binds next to it.
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = bind.udp_sockets(1).unwrap().remove(0);
        connected.connect(client.local_addr().unwrap()).unwrap();
        sockets.extend(bind.udp_sockets(1).unwrap());
        let all: Vec<GroupKey> =
            host.groups().unwrap().into_iter().map(|group| group.key).collect();
        let named: Vec<GroupKey> = all.into_iter().filter(|key| key.address == address).collect();
        if named.len() < 2 {
            // Before Linux 6.18 it stays in its group.
            return key_at(&host, "udp", address).of.map_or((), |_| panic!("{named:?}"));
        }
        let results = attach_each(&host, &named, &with(Policy::RoundRobin));
        assert_eq!(kinds(&results)[0], None);
        assert!(results[1].is_err(), "{results:?}");
        let one_by_one = Balancer::attach(&host, &named[1], &with(Policy::RoundRobin));
        assert_eq!(
            one_by_one.unwrap_err().to_string(),
            results[1].as_ref().unwrap_err().to_string()
        );
    });
}

#[test]
fn a_stop_ends_it_before_the_next_group() {
    alone(|| {
        let host = Host::open().unwrap();
        let (_members, keys) = groups(&host, 3);
        let stop = Stop::default();
        stop.set();
        let results = attach_each(&host, &keys, &with(Policy::RoundRobin).stop(stop));
        assert_eq!(kinds(&results), [Some(ErrorKind::Interrupted)]);
        assert!(nothing_pinned());
    });
}
