//! Concurrent operations on one group, members that come and go during them, groups that grow,
//! network namespaces that end. After many cycles nothing is left over.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::common::cookie;
use crate::common::world::{
    BY_OPEN, World, accept_all, alone, counter, deal, has_layer, host_members, is_counted,
    is_steered, key_at, key_of, listeners, more, nothing_pinned, with,
};
use reuseport::group::GroupKey;
use reuseport::status::Steering;
use reuseport::{Attach, Balancer, ErrorKind, Host, Policy};
use rustix::net::{Shutdown, shutdown};
use sk_reuseport::fault::{Call, Verdict, intercept};
use test_support::process::close;
use test_support::{netns, wait};

#[test]
fn several_threads_attach_to_one_group() {
    alone(|| {
        let turns = wait::times_or(8, 3);
        let members = listeners(3);
        let host = Host::open().unwrap();
        let key = key_of(&host, &members[0]);
        thread::scope(|scope| {
            for policy in Policy::ALL {
                let key = &key;
                scope.spawn(move || {
                    let host = Host::open().unwrap();
                    for _ in 0..turns {
                        Balancer::attach(&host, key, &with(*policy)).unwrap();
                        Balancer::attach(&host, key, &Attach::default()).unwrap();
                    }
                });
            }
            for _ in 0..20 {
                assert_eq!(deal(&members, 6).iter().sum::<usize>(), 6);
                host.statuses().unwrap();
            }
        });
        is_counted(&host, &key, &members);
        is_steered(&host, &key, &members);
        assert!(!has_layer());
        reuseport::detach(&host, &key).unwrap();
        assert!(nothing_pinned());
    });
}

#[test]
fn threads_attach_while_others_detach() {
    alone(|| {
        let turns = wait::times_or(10, 4);
        let members = listeners(3);
        let host = Host::open().unwrap();
        let key = key_of(&host, &members[0]);
        let (attached, detached) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let host = Host::open().unwrap();
                    for _ in 0..turns {
                        Balancer::attach(&host, &key, &Attach::default()).unwrap();
                        attached.fetch_add(1, Ordering::Relaxed);
                    }
                });
                scope.spawn(|| {
                    let host = Host::open().unwrap();
                    while attached.load(Ordering::Relaxed) < 2 * turns {
                        match reuseport::detach(&host, &key) {
                            Ok(_) => _ = detached.fetch_add(1, Ordering::Relaxed),
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::NotAttached, "{error}")
                            }
                        }
                    }
                });
            }
            while attached.load(Ordering::Relaxed) < 2 * turns {
                assert_eq!(deal(&members, 6).iter().sum::<usize>(), 6);
            }
        });
        assert!(detached.into_inner() > 0);
        is_counted(&host, &key, &members);
        is_steered(&host, &key, &members);
        reuseport::detach(&host, &key).unwrap();
        assert!(nothing_pinned());
    });
}

/// How many more turns the threads of [`join_and_leave`] may take.
#[derive(Default)]
struct Turns {
    left: AtomicUsize,
    done: AtomicBool,
}

/// Opens or closes listeners at each turn, and sometimes closes all.
fn join_and_leave(address: SocketAddr, turns: &Turns) {
    let take = |left: usize| left.checked_sub(1);
    let mut own: Vec<TcpListener> = Vec::new();
    for turn in 0.. {
        while turns.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            if turns.done.load(Ordering::Relaxed) {
                return;
            }
            thread::yield_now();
        }
        match own.len() {
            _ if turn % 50 == 49 => own.clear(),
            0..8 => own.extend(more(address, 2)),
            _ => drop(own.remove(0)),
        }
    }
}

/// Attaches repeatedly while other listeners join and leave the group; returns how often it
/// succeeded.
fn attach_under_churn(members: &[TcpListener], key: &GroupKey) -> usize {
    const TIMES: usize = 150;

    let host = Host::open().unwrap();
    let turns = Turns::default();
    let mut succeeded = 0;
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| join_and_leave(key.address, &turns));
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for turn in 0..TIMES {
                turns.left.fetch_add(turn % 40, Ordering::Relaxed);
                match Balancer::attach(&host, key, &Attach::default()) {
                    Ok(_) => succeeded += 1,
                    Err(error) => assert!(
                        matches!(error.kind(), ErrorKind::Vanished | ErrorKind::NotFound),
                        "{:?}: {}",
                        error.kind(),
                        error.report()
                    ),
                }
                if turn % 20 == 19 {
                    // It fails if the group has ended and begun anew.
                    let _ = reuseport::detach(&host, key);
                }
                for member in members {
                    accept_all(member);
                }
            }
        }));
        turns.done.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    succeeded
}

#[test]
fn slow_members_join_and_leave_while_others_stay() {
    alone(|| {
        let members = listeners(2);
        let host = Host::open().unwrap();
        let key = key_of(&host, &members[0]);
        let succeeded = attach_under_churn(&members, &key);
        assert!(succeeded > 100, "{succeeded}");
        is_counted(&host, &key, &members);
        is_steered(&host, &key, &members);
        reuseport::detach(&host, &key).unwrap();
        assert!(nothing_pinned());
    });
}

#[test]
fn slow_all_members_join_and_leave() {
    alone(|| {
        let members = listeners(1);
        let host = Host::open().unwrap();
        let key = key_of(&host, &members[0]);
        close(members);
        let succeeded = attach_under_churn(&[], &key);
        assert!(succeeded > 0);
        let members = more(key.address, 3);
        is_counted(&host, &key, &members);
        is_steered(&host, &key, &members);
        reuseport::detach(&host, &key).unwrap();
        assert!(nothing_pinned());
    });
}

/// Attaching to a listener that has left its group would make a new group of it.
#[test]
fn a_member_that_stops_listening_at_the_last_moment_is_not_attached_to() {
    alone(|| {
        let first = listeners(1);
        let members = more(first[0].local_addr().unwrap(), 2);
        close(first);
        let host = Host::open().unwrap();
        let key = key_of(&host, &members[0]);
        let chosen = host.refresh(&key).unwrap().members[0].cookie;
        let stopping = members.iter().find(|member| Some(cookie(member)) == chosen).unwrap();
        let stopping = stopping.try_clone().unwrap();
        let hook = move |call| {
            if call == Call::AttachReuseportEbpf {
                // The second shutdown fails, because the socket no longer listens.
                let _ = shutdown(&stopping, Shutdown::Both);
            }
            Verdict::Allow
        };
        intercept(hook, || Balancer::attach(&host, &key, &with(Policy::RoundRobin))).unwrap();
        let status = host.status(&key).unwrap();
        assert!(status.steering.selection().is_some(), "{:?}", status.steering);
        assert_eq!(status.members.len(), 1);
        assert_eq!(deal(&members, 4).iter().sum::<usize>(), 4);
    });
}

/// Beyond 128 sockets the kernel reallocates a group (`reuseport_grow`).
#[test]
fn a_group_that_grows_beyond_128_stays_steered() {
    alone(|| {
        let mut members = listeners(100);
        let host = Host::open().unwrap();
        let key = key_of(&host, &members[0]);
        let before = is_steered(&host, &key, &members).group.program;
        members.extend(more(key.address, 50));
        // New members get no connections yet, and the shares of the others do not change.
        let dealt = deal(&members, 200);
        assert!(dealt[..100].iter().all(|n| *n == 2) && dealt[100..].iter().all(|n| *n == 0));
        let after = is_steered(&host, &key, &members);
        assert_eq!(after.group.program, before);
        members.extend(more(key.address, 150));
        is_steered(&host, &key, &members);
        close(members.split_off(10));
        let status = is_steered(&host, &key, &members);
        assert_eq!(counter(&status, "select_error") + counter(&status, "fallback_kernel"), 0);
        is_counted(&host, &key, &members);
        reuseport::detach(&host, &key).unwrap();
    });
}

/// The kernel reuses the inode number of a network namespace at once, its cookie never.
#[test]
fn the_same_address_in_a_later_namespace_is_another_group() {
    alone(|| {
        let address: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        let mut before: Option<GroupKey> = None;
        for _ in 0..3 {
            let key = netns::isolated(|| {
                let members = more(address, 2);
                let host = Host::open().unwrap();
                let key = key_at(&host, "tcp", address);
                if let Some(before) = &before {
                    assert_ne!(*before, key);
                    let error = reuseport::detach(&host, before).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::NotFound);
                    assert!(nothing_pinned(), "the state of the old group is gone");
                }
                assert_eq!(host.status(&key).unwrap().steering, Steering::KernelHash);
                is_steered(&host, &key, &members);
                key
            });
            before = Some(key);
        }
    });
}

fn open_connections(host: &Host, key: &GroupKey) -> Vec<Option<u64>> {
    let status = host.status(key).unwrap();
    status.members.iter().filter_map(|m| Some(m.enrolment.as_ref()?.open)).collect()
}

#[test]
fn slow_nothing_is_left_over_after_many_cycles() {
    nothing_is_left_over(50);
}

#[test]
#[ignore = "soak"]
fn soak_nothing_is_left_over_after_hundreds_of_cycles() {
    nothing_is_left_over(400);
}

fn nothing_is_left_over(cycles: usize) {
    alone(|| {
        let host = Host::open().unwrap();
        // Keeps the host layer, which would otherwise be made anew in each cycle.
        let other = listeners(2);
        let other_key = key_of(&host, &other[0]);
        Balancer::attach(&host, &other_key, &with(BY_OPEN)).unwrap();
        let members = listeners(3);
        let key = key_of(&host, &members[0]);
        let groups: [(&GroupKey, &[TcpListener]); 2] = [(&key, &members), (&other_key, &other)];
        let before = World::of(&host, &groups);
        // Connections that outlive the attachment during which they were accepted.
        let mut lasting = Vec::new();
        for cycle in 0..cycles {
            Balancer::attach(&host, &key, &with(Policy::ALL[cycle % 3])).unwrap();
            Balancer::attach(&host, &key, &with(BY_OPEN)).unwrap();
            assert_eq!(open_connections(&host, &key), [Some(0); 3]);
            lasting.push(TcpStream::connect(key.address).unwrap());
            let open: u64 = open_connections(&host, &key).into_iter().flatten().sum();
            assert_eq!(open, 1);
            if cycle % 5 == 4 {
                // Connections of this cycle and of earlier ones end: only the former are counted.
                lasting.clear();
                members.iter().for_each(|member| _ = accept_all(member));
                wait::until("no connection is open", wait::BOUND, || {
                    open_connections(&host, &key) == [Some(0); 3]
                });
            }
            assert_eq!(host_members(), 5);
            reuseport::detach(&host, &key).unwrap();
            assert_eq!(World::of(&host, &groups), before);
        }
        assert_eq!(deal(&other, 10), [5, 5]);
        reuseport::detach(&host, &other_key).unwrap();
        assert!(nothing_pinned());
    });
}
