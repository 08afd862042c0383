//! Generations of real servers: which one a member belongs to, and roll-outs under traffic.

use std::collections::BTreeSet;
use std::net::TcpListener;

use reuseport::group::GroupKey;
use reuseport::id::{Cookie, Percent, Slot, Weight};
use reuseport::status::{GroupStatus, State};
use reuseport::{Attach, Balancer, ErrorKind, HoldNew, Host, MemberChange, Policy, Promoted};
use test_support::server::{Forking, Nginx, Transport, free_port};
use test_support::wait::{self, BOUND};

use crate::common::previous::forget_standby;
use crate::common::steering::{answers, followed};
use crate::common::world::{
    alone, deal, key_at, key_of, listeners, more, object, with, with_object,
};

mod rollout;

use State::{Active, Draining, Standby};

/// The generation and state of each member, by slot.
fn states(status: &GroupStatus) -> Vec<(u32, State)> {
    let enrolled = status.members.iter().filter_map(|member| member.enrolment.as_ref());
    enrolled.map(|enrolment| (enrolment.generation, enrolment.state)).collect()
}

/// A group of a server, in which new ones wait.
fn holding(host: &Host, protocol: &str, server: &Forking) -> (GroupKey, Balancer) {
    let key = key_at(host, protocol, server.addr());
    let attach = with(Policy::RoundRobin).hold_new(HoldNew::On);
    let (balancer, attached) = Balancer::attach(host, &key, &attach).unwrap();
    assert!(attached.changes.on_standby.is_empty());
    (key, balancer)
}

fn attach_again(host: &Host, key: &GroupKey) -> usize {
    let (_, attached) = Balancer::attach(host, key, &Attach::default()).unwrap();
    attached.changes.on_standby.len()
}

fn cookies(status: &GroupStatus) -> BTreeSet<Cookie> {
    status.members.iter().filter_map(|member| member.member.cookie).collect()
}

/// The status when the group has this number of members, each in a slot, and not all of those that it had.
#[track_caller]
fn settled(host: &Host, key: &GroupKey, members: usize, before: &BTreeSet<Cookie>) -> GroupStatus {
    wait::until_some("all members have slots", BOUND, || {
        let status = host.status(key).ok()?;
        let now = cookies(&status);
        let settled = states(&status).len() == members && now.len() == members;
        (settled && (before.is_empty() || !before.is_subset(&now))).then_some(status)
    })
}

/// A process that holds the sockets of every version says of which one each is.
#[test]
fn members_of_one_process_are_of_the_generations_that_it_gives() {
    alone(|| {
        let host = Host::open().unwrap();
        let old = listeners(2);
        let key = key_of(&host, &old[0]);
        let of = |listener: &TcpListener| {
            Cookie::new(rustix::net::sockopt::socket_cookie(listener).unwrap()).unwrap()
        };
        let generations = |sockets: &[TcpListener], generation: u32| -> Vec<(Cookie, u32)> {
            sockets.iter().map(|socket| (of(socket), generation)).collect()
        };
        let attach =
            with(Policy::RoundRobin).hold_new(HoldNew::On).generations(generations(&old, 1));
        let (balancer, _) = Balancer::attach(&host, &key, &attach).unwrap();
        let new = more(old[0].local_addr().unwrap(), 2);
        // Another command enrols them first, and cannot tell them from the old ones.
        assert_eq!(attach_again(&host, &key), 0);
        let attach = Attach::default().generations(generations(&new, 2));
        Balancer::attach(&host, &key, &attach).unwrap();
        let status = host.status(&key).unwrap();
        assert_eq!(states(&status), [(1, Active), (1, Active), (2, Standby), (2, Standby)]);
        let both: Vec<TcpListener> = old.into_iter().chain(new).collect();
        assert_eq!(deal(&both, 4), [2, 2, 0, 0]);
        let third = more(both[0].local_addr().unwrap(), 1);
        let attach = Attach::default().generations(generations(&third, 2));
        let (_, attached) = Balancer::attach(&host, &key, &attach).unwrap();
        assert_eq!(attached.changes.on_standby, [of(&third[0])]);
        balancer.promote().unwrap();
        let all: Vec<TcpListener> = both.into_iter().chain(third).collect();
        assert_eq!(deal(&all, 6), [0, 0, 2, 2, 2]);
    });
}

fn attached_id(host: &Host, key: &GroupKey) -> Option<u32> {
    host.status(key).unwrap().group.program?.id
}

/// An old server of two workers, whose group keeps new ones waiting, and a new one, which has no slots yet.
fn two(host: &Host, new_workers: usize) -> (Forking, Forking, GroupKey, Balancer) {
    let old = Forking::start_on(Transport::Tcp, free_port(), 2);
    let (key, balancer) = holding(host, "tcp", &old);
    let new = Forking::start_on(Transport::Tcp, old.addr().port(), new_workers);
    (old, new, key, balancer)
}

/// Who answers.
fn served(server: &Forking) -> BTreeSet<u32> {
    answers(server.addr(), 20).into_keys().collect()
}

#[test]
fn a_server_that_is_started_a_second_time_is_a_newer_generation_and_waits() {
    alone(|| {
        let host = Host::open().unwrap();
        let (old, new, key, balancer) = two(&host, 2);
        // A plain attach knows what was wished.
        assert_eq!(attach_again(&host, &key), 2);
        let status = host.status(&key).unwrap();
        assert_eq!(states(&status), [(1, Active), (1, Active), (2, Standby), (2, Standby)]);
        assert_eq!((status.serving_generation, status.hold_new), (Some(1), HoldNew::On));
        assert_eq!(served(&old), BTreeSet::from([old.pid()]));

        let promoted = balancer.promote().unwrap();
        let Promoted { generation, serving, retired, on_standby, .. } = promoted;
        assert_eq!((generation, serving.len(), retired.len(), on_standby.len()), (2, 2, 2, 0));
        let status = host.status(&key).unwrap();
        assert_eq!(states(&status), [(1, Draining), (1, Draining), (2, Active), (2, Active)]);
        assert_eq!(served(&old), BTreeSet::from([new.pid()]));
        assert_eq!(balancer.promote().unwrap_err().kind(), ErrorKind::NoGeneration);

        let back = balancer.rollback().unwrap();
        assert_eq!((back.generation, back.on_standby.len()), (1, 2));
        assert_eq!(served(&old), BTreeSet::from([old.pid()]));
        let error = balancer.rollback().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoGeneration);
        assert!(error.report().to_string().contains("no member of an older generation"), "{error}");

        balancer.promote().unwrap();
        old.stop();
        attach_again(&host, &key);
        assert_eq!(states(&host.status(&key).unwrap()), [(2, Active); 2]);
        assert_eq!(balancer.rollback().unwrap_err().kind(), ErrorKind::NoGeneration);
        // Without the wish, a new one serves at once.
        Balancer::attach(&host, &key, &Attach::default().hold_new(HoldNew::Off)).unwrap();
        let _third = Forking::start_on(Transport::Tcp, new.addr().port(), 1);
        assert_eq!(attach_again(&host, &key), 0);
        let status = host.status(&key).unwrap();
        assert_eq!((status.serving_generation, status.hold_new), (Some(3), HoldNew::Off));
        assert!(states(&status).iter().all(|(_, state)| *state == Active));
    });
}

/// Such a program would take the note that members are on standby for a part of the table's length.
#[test]
fn a_program_of_a_version_without_standby_is_replaced_in_the_step_that_needs_it() {
    alone(|| {
        let host = Host::open().unwrap();
        let (old, new, key, balancer) = two(&host, 1);
        let changed_by = |change: &dyn Fn()| {
            let before = attached_id(&host, &key);
            change();
            attached_id(&host, &key) != before
        };
        let attach = || assert_eq!(attach_again(&host, &key), 1);
        let promote = || assert_eq!(balancer.promote().unwrap().retired.len(), 2);
        let rollback = || assert_eq!(balancer.rollback().unwrap().on_standby.len(), 1);
        let try_out = || {
            let percent = Percent::new(50).unwrap();
            assert_eq!(balancer.try_out(percent).unwrap().on_trial.len(), 1);
        };
        let weigh = || {
            let change = MemberChange::new(Slot::new(0)).weight(Weight::new(3));
            balancer.change_members(&[change]).unwrap();
        };
        let changes: [(&dyn Fn(), u32); 5] = [
            (&attach, old.pid()),
            (&promote, new.pid()),
            (&rollback, old.pid()),
            (&weigh, old.pid()),
            (&promote, new.pid()),
        ];
        for (change, serves) in changes {
            forget_standby(&key);
            assert!(changed_by(change), "another instance is loaded");
            assert_eq!(served(&old), BTreeSet::from([serves]));
        }
        balancer.rollback().unwrap();
        assert!(!changed_by(&try_out), "once is enough");
        balancer.rollback().unwrap();
        forget_standby(&key);
        assert!(changed_by(&try_out));
        assert_eq!(served(&old), BTreeSet::from([old.pid(), new.pid()]));
    });
}

#[test]
fn a_worker_that_its_master_starts_again_stays_in_its_generation() {
    alone(|| {
        let host = Host::open().unwrap();
        let (old, new, key, balancer) = two(&host, 2);
        followed(&key, |_| {
            let four = |expected: [(u32, State); 2]| {
                let found = BTreeSet::from_iter(states(&settled(&host, &key, 4, &BTreeSet::new())));
                assert_eq!(found, BTreeSet::from(expected));
            };
            let again = |server: &Forking| {
                let before = cookies(&settled(&host, &key, 4, &BTreeSet::new()));
                server.kill_worker();
                settled(&host, &key, 4, &before);
            };
            four([(1, Active), (2, Standby)]);
            again(&new);
            four([(1, Active), (2, Standby)]);
            again(&old);
            four([(1, Active), (2, Standby)]);
            balancer.promote().unwrap();
            again(&old);
            four([(1, Draining), (2, Active)]);
            again(&new);
            four([(1, Draining), (2, Active)]);
            assert_eq!(served(&old), BTreeSet::from([new.pid()]));
        });
    });
}

#[test]
fn if_the_server_that_serves_ends_the_one_on_standby_serves_by_itself() {
    alone(|| {
        let host = Host::open().unwrap();
        let port = free_port();
        let old = Forking::start_on(Transport::Tcp, port, 2);
        let (key, _) = holding(&host, "tcp", &old);
        followed(&key, |_| {
            let new = Forking::start_on(Transport::Tcp, port, 2);
            settled(&host, &key, 4, &BTreeSet::new());
            old.stop();
            // The kernel's hash decides until the watcher has seen it.
            assert_eq!(served(&new), BTreeSet::from([new.pid()]));
            wait::until("it serves", BOUND, || {
                host.status(&key).is_ok_and(|status| states(&status) == [(2, Active); 2])
            });
            let third = Forking::start_on(Transport::Tcp, port, 1);
            let status = settled(&host, &key, 3, &BTreeSet::new());
            assert_eq!(
                BTreeSet::from_iter(states(&status)),
                BTreeSet::from([(2, Active), (3, Standby)])
            );
            drop(third);
        });
    });
}

#[test]
fn two_instances_of_nginx_side_by_side_are_two_generations_and_a_reload_is_none() {
    alone(|| {
        let host = Host::open().unwrap();
        let mut old = Nginx::start(2);
        let key = key_at(&host, "tcp", old.addr());
        let attach = with(Policy::RoundRobin).hold_new(HoldNew::On);
        let (balancer, _) = Balancer::attach(&host, &key, &attach).unwrap();
        old.reload(3);
        assert_eq!(attach_again(&host, &key), 0);
        let error = balancer.promote().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoGeneration);
        assert!(error.report().to_string().contains("nginx reload"), "{}", error.report());
        assert_eq!(states(&host.status(&key).unwrap()), [(1, Active); 3]);

        let new = old.start_beside(2);
        let error = balancer.promote().unwrap_err().report().to_string();
        assert!(error.contains("2 joined later and have no slot"), "{error}");
        assert_eq!(attach_again(&host, &key), 2);
        let old_workers: BTreeSet<u32> = old.worker_pids().into_iter().collect();
        let address = old.addr();
        let answered = || answers(address, 30).into_keys().collect::<BTreeSet<u32>>();
        assert_eq!(answered(), old_workers);
        balancer.promote().unwrap();
        assert_eq!(answered(), new.worker_pids().into_iter().collect());
        old.stop();
        assert_eq!(answered(), new.worker_pids().into_iter().collect());
    });
}

#[test]
fn members_of_another_generation_cannot_be_made_active_one_by_one() {
    use reuseport::MemberChange;
    use reuseport::id::Slot;

    alone(|| {
        let host = Host::open().unwrap();
        let (_old, _new, key, balancer) = two(&host, 1);
        attach_again(&host, &key);
        let change = |slot, state| MemberChange::new(Slot::new(slot)).state(state);
        balancer.change_members(&[change(0, Draining)]).unwrap();
        let refused = |slot| {
            let error = balancer.change_members(&[change(slot, Active)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            error.report().to_string()
        };
        assert!(refused(2).contains("on standby"), "{}", refused(2));
        balancer.promote().unwrap();
        assert!(refused(1).contains("rollback"), "{}", refused(1));
        assert!(refused(0).contains("rollback"), "{}", refused(0));
        balancer.rollback().unwrap();
        let expected = [(1, Draining), (1, Active), (2, Standby)];
        assert_eq!(states(&host.status(&key).unwrap()), expected, "it was drained by hand");
        balancer.change_members(&[change(0, Active)]).unwrap();
    });
}

#[test]
fn a_users_own_program_holds_no_generation_back() {
    alone(|| {
        let host = Host::open().unwrap();
        let members = listeners(2);
        let key = key_of(&host, &members[0]);
        let attach = with_object(object("first"));
        let error =
            Balancer::attach(&host, &key, &attach.clone().hold_new(HoldNew::On)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let (balancer, _) = Balancer::attach(&host, &key, &attach).unwrap();
        assert_eq!(balancer.promote().unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(balancer.rollback().unwrap_err().kind(), ErrorKind::Invalid);
    });
}
