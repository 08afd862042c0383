//! Which slots newcomers take, and which weights and drains they have from the members before them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::thread;

use reuseport::group::GroupKey;
use reuseport::id::{Cookie, Slot, Weight};
use reuseport::status::{GroupStatus, Steering};
use reuseport::watch::{Change, Watch};
use reuseport::{Attach, Balancer, ErrorKind, Host, MemberChange, Policy, State, Stop};
use rustix::io::Errno;
use rustix::net::{Shutdown, listen, shutdown};
use sk_reuseport::fault::{Call, Verdict, intercept};
use sk_reuseport::maps::ReusePortSockArray;
use sk_reuseport::net::Bind;
use sk_reuseport::programs::SkReuseport;
use test_support::process::close;
use test_support::wait;

use crate::common::cookie;
use crate::common::steering::steered;
use crate::common::world::{
    ROOT, alone, counter, deal, fails_to_attach, key_of, listeners, more, object, one_line, pins,
    theirs, with, with_object,
};

/// Slot, weight and state of each member, by slot.
fn roles(status: &GroupStatus) -> Vec<(u32, u16, State)> {
    let role = |m: &reuseport::status::MemberStatus| {
        let enrolment = m.enrolment.as_ref().unwrap();
        (enrolment.slot.index(), enrolment.weight.get(), enrolment.state)
    };
    status.members.iter().map(role).collect()
}

fn slots(host: &Host, key: &GroupKey) -> Vec<u32> {
    roles(&host.status(key).unwrap()).into_iter().map(|(slot, ..)| slot).collect()
}

/// Gives slot 0 the weight 5, and drains slot 1.
fn weigh_and_drain(host: &Host, key: &GroupKey) {
    let change = |slot, weight, state| MemberChange::new(slot).weight(weight).state(state);
    let changes = [
        change(Slot::new(0), Weight::new(5), None),
        change(Slot::new(1), None, Some(State::Draining)),
    ];
    Balancer::open(host, key).unwrap().change_members(&changes).unwrap();
}

const WEIGHED: [(u32, u16, State); 3] =
    [(0, 5, State::Active), (1, 1, State::Draining), (2, 1, State::Active)];

/// All sockets close, and as many open, one by one: the server restarts.
fn restart(members: Vec<TcpListener>) -> Vec<TcpListener> {
    let address = members[0].local_addr().unwrap();
    let count = members.len();
    close(members);
    more(address, count)
}

#[test]
fn a_users_program_finds_the_sockets_at_the_same_indices_after_a_restart() {
    alone(|| {
        let host = Host::open().unwrap();
        let members = listeners(2);
        let key = key_of(&host, &members[0]);
        Balancer::attach(&host, &key, &with_object(object("first"))).unwrap();
        assert_eq!(deal(&members, 10), [10, 0]);
        let members = restart(members);
        Balancer::attach(&host, &key, &Attach::default()).unwrap();
        assert_eq!(slots(&host, &key), [0, 1]);
        assert_eq!(deal(&members, 10), [10, 0], "the program selects index 0");
    });
}

#[test]
fn a_newcomer_takes_the_slot_of_a_member_that_left_and_the_others_stay() {
    alone(|| {
        let host = Host::open().unwrap();
        for attach in [with(Policy::RoundRobin), with_object(object("first"))] {
            let mut members = listeners(3);
            let key = key_of(&host, &members[0]);
            Balancer::attach(&host, &key, &attach).unwrap();
            let cookies = |host: &Host| {
                let status = host.status(&key).unwrap();
                status.members.iter().map(|m| m.member.cookie).collect::<Vec<_>>()
            };
            let before = cookies(&host);
            close(members.remove(1));
            members.extend(more(key.address, 2));
            Balancer::attach(&host, &key, &Attach::default()).unwrap();
            assert_eq!(slots(&host, &key), [0, 1, 2, 3]);
            let after = cookies(&host);
            assert_eq!((after[0], after[2]), (before[0], before[2]));
            assert!(!before.contains(&after[1]) && !before.contains(&after[3]));
            close(members);
        }
    });
}

/// Runs `body` while a watcher follows the group; it may collect what the watcher reports.
fn watched(key: &GroupKey, attach: Attach, body: impl FnOnce(&Host)) -> Vec<String> {
    let (watch, stop) = watch(key, attach);
    run(watch, &stop, body)
}

/// Attaches with a watcher that does not run yet.
fn watch(key: &GroupKey, attach: Attach) -> (Watch, Stop) {
    let stop = Stop::default();
    let attach = attach.stop(stop.clone());
    let (watch, _) = Watch::start(Host::open().unwrap(), key, attach).unwrap();
    (watch, stop)
}

/// Runs `body` while a watcher runs.
fn run(watch: Watch, stop: &Stop, body: impl FnOnce(&Host)) -> Vec<String> {
    let mut inherited = Vec::new();
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            watch.run(|change| {
                if let Change::Members(attached) = change {
                    let roles = attached.changes.inherited.iter();
                    inherited.extend(
                        roles.map(|role| format!("{} {} {:?}", role.slot, role.weight, role.state)),
                    );
                }
            })
        });
        body(&Host::open().unwrap());
        stop.set();
        watcher.join().unwrap().unwrap();
    });
    inherited
}

fn are_steered(host: &Host, key: &GroupKey, count: usize) -> GroupStatus {
    wait::until_some(&format!("{count} members are steered"), wait::BOUND, || {
        steered(host, key).filter(|status| status.members.len() == count)
    })
}

#[test]
fn weights_and_drains_survive_a_restart_under_a_watcher() {
    alone(|| {
        let host = Host::open().unwrap();
        let members = listeners(3);
        let key = key_of(&host, &members[0]);
        let inherited = watched(&key, with(Policy::RoundRobin), |host| {
            weigh_and_drain(host, &key);
            close(members);
            wait::until("the group is gone", wait::BOUND, || host.status(&key).is_err());
            // The members come one by one, and the watcher may see each alone.
            let mut again = Vec::new();
            for count in 1..=3 {
                again.extend(one(key.address));
                are_steered(host, &key, count);
            }
            let before = are_steered(host, &key, 3);
            assert_eq!(roles(&before), WEIGHED);
            assert_eq!(deal(&again, 12).into_iter().max(), Some(10), "5 to 1 by the program");
            let picks = |status| counter(status, "picks");
            assert_eq!(picks(&host.status(&key).unwrap()) - picks(&before), 12);
        });
        assert_eq!(inherited, ["0 5 Active", "1 1 Draining"]);
    });
}

#[test]
fn a_watcher_keeps_the_state_that_a_failed_replacement_pinned_again() {
    alone(|| {
        let host = Host::open().unwrap();
        let members = listeners(3);
        let key = key_of(&host, &members[0]);
        let (watch, stop) = watch(&key, with(Policy::RoundRobin));
        weigh_and_drain(&host, &key);
        let object = with_object(object("first"));
        let attach = || Balancer::attach(&host, &key, &object);
        intercept(fails_to_attach(3, Errno::NOMEM), attach).unwrap_err();
        assert_eq!(roles(&host.status(&key).unwrap()), WEIGHED);
        // The watcher first looks when the server is away.
        close(members);
        run(watch, &stop, |host| {
            let mut again = Vec::new();
            for count in 1..=3 {
                again.extend(one(key.address));
                are_steered(host, &key, count);
            }
            assert_eq!(roles(&are_steered(host, &key, 3)), WEIGHED);
        });
    });
}

fn one(address: SocketAddr) -> Vec<TcpListener> {
    Bind::new(address).nonblocking(true).listeners(1).unwrap()
}

#[test]
fn a_replaced_member_leaves_its_weight_and_not_its_drain() {
    alone(|| {
        let host = Host::open().unwrap();
        let mut members = listeners(3);
        let key = key_of(&host, &members[0]);
        watched(&key, with(Policy::RoundRobin), |host| {
            weigh_and_drain(host, &key);
            close(members.drain(..2).collect::<Vec<_>>());
            are_steered(host, &key, 1);
            members.extend(more(key.address, 2));
            are_steered(host, &key, 3);
            let status = host.status(&key).unwrap();
            assert!(roles(&status).iter().all(|(.., state)| *state == State::Active));
            assert_eq!(roles(&status).iter().map(|(_, weight, _)| *weight).sum::<u16>(), 7);
        });
    });
}

#[test]
fn a_reload_whose_new_workers_come_first_starts_with_the_default() {
    alone(|| {
        let host = Host::open().unwrap();
        let members = listeners(3);
        let key = key_of(&host, &members[0]);
        watched(&key, with(Policy::RoundRobin), |host| {
            weigh_and_drain(host, &key);
            let new = more(key.address, 3);
            are_steered(host, &key, 6);
            close(members);
            wait::until("the old members left", wait::BOUND, || {
                let status = host.status(&key).unwrap();
                status.members.len() == 3
            });
            // The next worker does not get the weight of one that was succeeded long ago.
            Balancer::attach(host, &key, &Attach::default()).unwrap();
            let _more = more(key.address, 1);
            let status = are_steered(host, &key, 4);
            let defaults = |(_, weight, state): &(u32, u16, State)| (*weight, *state);
            assert!(roles(&status).iter().all(|role| defaults(role) == (1, State::Active)));
            drop(new);
        });
    });
}

#[test]
fn a_weight_that_attach_gives_wins_over_the_one_of_the_member_before() {
    alone(|| {
        let host = Host::open().unwrap();
        let members = listeners(2);
        let key = key_of(&host, &members[0]);
        Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
        let balancer = Balancer::open(&host, &key).unwrap();
        let weight = |weight| Weight::new(weight).unwrap();
        balancer.set_weights(&[(Slot::new(0), weight(5)), (Slot::new(1), weight(4))]).unwrap();
        let members = restart(members);
        let first = host.group_of(&members[0]).unwrap().members[0].cookie;
        let attach = Attach::default().weights(vec![(first.unwrap(), weight(2))]);
        let (_, attached) = Balancer::attach(&host, &key, &attach).unwrap();
        let weights: Vec<u16> =
            roles(&host.status(&key).unwrap()).iter().map(|(_, weight, _)| *weight).collect();
        assert_eq!(weights, [2, 4]);
        assert_eq!(attached.changes.released.len(), 2);
    });
}

#[test]
fn a_failed_attach_after_a_restart_keeps_weights_and_drains() {
    alone(|| {
        let host = Host::open().unwrap();
        let members = listeners(3);
        let key = key_of(&host, &members[0]);
        Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
        weigh_and_drain(&host, &key);
        let members = restart(members);
        Balancer::attach(&host, &key, &with_object(object("nonexistent"))).unwrap_err();
        let few = Attach::default().slots(2);
        let error = Balancer::attach(&host, &key, &few).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full);
        // That another array has a socket shows only when the old state has gone.
        let mut theirs = ReusePortSockArray::create("theirs", 1).unwrap();
        theirs.set(0, &members[2], 0).unwrap();
        let error = Balancer::attach(&host, &key, &with(Policy::Random)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        theirs.clear_index(&0).unwrap();
        Balancer::attach(&host, &key, &Attach::default()).unwrap();
        assert_eq!(roles(&host.status(&key).unwrap()), WEIGHED);
        assert_eq!(host.status(&key).unwrap().steering, Steering::Ours(Policy::RoundRobin.into()));
    });
}

/// A group whose members have the same port when they listen again: one that chose a port would lose it.
fn with_a_fixed_port(count: usize) -> Vec<TcpListener> {
    let reserved = listeners(1);
    let members = more(reserved[0].local_addr().unwrap(), count);
    close(reserved);
    members
}

/// All members stop listening and listen again: the group and its attachment end, and the sockets are the same.
fn listen_again(members: &[TcpListener]) {
    for member in members {
        shutdown(member, Shutdown::Both).unwrap();
    }
    for member in members {
        listen(member, 64).unwrap();
    }
}

#[test]
fn a_failed_attach_keeps_weights_and_drains_of_members_that_listen_again() {
    alone(|| {
        let host = Host::open().unwrap();
        let members = with_a_fixed_port(3);
        let key = key_of(&host, &members[0]);
        Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
        weigh_and_drain(&host, &key);
        listen_again(&members);
        let weights = vec![(cookie(&members[2]), Weight::MAX)];
        let request = Attach::default().weights(weights);
        let attach = || Balancer::attach(&host, &key, &request);
        intercept(fails_to_attach(3, Errno::NOMEM), attach).unwrap_err();
        assert_eq!(host.status(&key).unwrap().steering, Steering::KernelHash);
        Balancer::attach(&host, &key, &Attach::default()).unwrap();
        assert_eq!(roles(&host.status(&key).unwrap()), WEIGHED);
        assert_eq!(deal(&members, 12).into_iter().max(), Some(10), "5 to 1 by the program");
    });
}

#[test]
fn attaching_a_policy_after_a_restart_keeps_weights_and_drains() {
    alone(|| {
        let host = Host::open().unwrap();
        let members = with_a_fixed_port(3);
        let key = key_of(&host, &members[0]);
        let attach = |request: Attach| Balancer::attach(&host, &key, &request).map(|_| ());
        let id = || host.status(&key).unwrap().group.program.and_then(|program| program.id);
        attach(with(Policy::RoundRobin)).unwrap();
        weigh_and_drain(&host, &key);
        let first = id();
        // The members listen again. The policy that is pinned goes on.
        listen_again(&members);
        attach(with(Policy::RoundRobin)).unwrap();
        assert_eq!((id(), roles(&host.status(&key).unwrap())), (first, WEIGHED.to_vec()));
        // Other members take their slots.
        let members = restart(members);
        attach(with(Policy::RoundRobin)).unwrap();
        let before = host.status(&key).unwrap();
        assert_eq!((id(), roles(&before)), (first, WEIGHED.to_vec()));
        // Another policy, or another number of slots, is built anew. Members may get other slots.
        listen_again(&members);
        attach(with(Policy::Random)).unwrap();
        assert_eq!(by_member(&host.status(&key).unwrap()), by_member(&before));
        listen_again(&members);
        attach(with(Policy::Random).slots(128)).unwrap();
        assert_eq!(by_member(&host.status(&key).unwrap()), by_member(&before));
        // Another owner's program decides instead.
        theirs("first").attach(&members[0]).unwrap();
        attach(with(Policy::Hash).force(true)).unwrap();
        let after = host.status(&key).unwrap();
        assert_eq!(by_member(&after), by_member(&before));
        assert_eq!(after.steering, Steering::Ours(Policy::Hash.into()));
    });
}

/// Weight and state of each member.
fn by_member(status: &GroupStatus) -> BTreeMap<Cookie, (u16, State)> {
    let cookies = status.members.iter().map(|m| m.member.cookie.unwrap());
    cookies
        .zip(roles(status))
        .map(|(cookie, (_, weight, state))| (cookie, (weight, state)))
        .collect()
}

#[test]
fn a_pinned_program_that_cannot_be_opened_is_not_removed() {
    alone(|| {
        let host = Host::open().unwrap();
        let members = listeners(3);
        let key = key_of(&host, &members[0]);
        Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
        weigh_and_drain(&host, &key);
        SkReuseport::detach(&members[0]).unwrap();
        let before = pins(Path::new(ROOT));
        let loaded = Cell::new(false);
        let hook = move |call| match call {
            // The new program is loaded before the old one is opened.
            Call::BpfProgLoad => {
                loaded.set(true);
                Verdict::Allow
            }
            Call::BpfObjGet if loaded.get() => Verdict::Fail(Errno::NOMEM.raw_os_error()),
            Call::AttachReuseportEbpf => Verdict::Fail(Errno::NOMEM.raw_os_error()),
            _ => Verdict::Allow,
        };
        let random = with(Policy::Random);
        let error = intercept(hook, || Balancer::attach(&host, &key, &random)).unwrap_err();
        assert!(one_line(&error).contains("cannot attach to"), "{error:?}");
        assert_eq!(pins(Path::new(ROOT)), before);
        Balancer::attach(&host, &key, &Attach::default()).unwrap();
        assert_eq!(roles(&host.status(&key).unwrap()), WEIGHED);
    });
}
