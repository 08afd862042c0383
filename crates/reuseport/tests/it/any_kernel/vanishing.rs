//! Changes of members that may have closed by then: a change applies to the members that it names
//! or is refused, and never affects others.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

use crate::common::cookie;
use crate::common::world::{alone, counter, deal, listeners, more};
use reuseport::id::Cookie;
use reuseport::{Balancer, ErrorKind, Host, MemberChange, Policy, State, Stats, Weight};
use test_support::SetOnDrop;
use test_support::wait::{self, BOUND};

/// How many members stay, and how many others exist at a time.
const STAY: usize = 2;
const PASSING: usize = 3;

const TURNS: usize = 30;

/// Only passing members get this weight.
const PASSING_WEIGHT: Weight = Weight::MAX;

/// Opens members, enrols them, and closes them again.
fn come_and_go(at: SocketAddr, over: &AtomicBool, rounds: &AtomicUsize) {
    let host = Host::open().unwrap();
    let mut passing: Vec<TcpListener> = Vec::new();
    while !over.load(Relaxed) {
        if passing.len() == PASSING {
            passing.remove(0);
        }
        passing.extend(more(at, 1));
        let key = host.group_of(&passing[0]).unwrap().key;
        Balancer::attach(&host, &key, &Default::default()).unwrap();
        rounds.fetch_add(1, Relaxed);
    }
}

/// Changes of all members in `stats` but those that stay.
fn changes(stats: &Stats, stay: &[Cookie], turn: usize) -> Vec<MemberChange> {
    let state = if turn.is_multiple_of(2) { State::Draining } else { State::Active };
    let passing = stats
        .members
        .iter()
        .filter(|member| !member.cookie.is_some_and(|cookie| stay.contains(&cookie)));
    let change = |member: &reuseport::MemberStats| {
        Some(
            MemberChange::new(member.slot?)
                .member(member.cookie)
                .weight(PASSING_WEIGHT)
                .state(state),
        )
    };
    passing.filter_map(change).collect()
}

#[test]
fn changes_race_with_members_that_vanish() {
    alone(|| {
        let staying = listeners(STAY);
        let host = Host::open().unwrap();
        let key = host.group_of(&staying[0]).unwrap().key;
        let (balancer, _) = Balancer::attach(&host, &key, &Policy::RoundRobin.into()).unwrap();
        let stay: Vec<Cookie> = staying.iter().map(cookie).collect();
        let over = AtomicBool::new(false);
        let (mut done, mut refused) = (0, 0);
        let rounds = AtomicUsize::new(0);
        thread::scope(|scope| {
            let _over = SetOnDrop(&over);
            scope.spawn(|| come_and_go(key.address, &over, &rounds));
            for turn in 0..TURNS {
                let stats = balancer.stats().unwrap();
                let changes = changes(&stats, &stay, turn);
                if turn.is_multiple_of(3) {
                    // Until these members are closed, and others may have their slots.
                    let then = rounds.load(Relaxed) + PASSING + 1;
                    wait::until("other members came", BOUND, || rounds.load(Relaxed) >= then);
                }
                match balancer.change_members(&changes) {
                    Ok(_) => done += 1,
                    Err(error) => {
                        let kinds = [ErrorKind::Vanished, ErrorKind::NotFound];
                        assert!(kinds.contains(&error.kind()), "{:?}: {error}", error.kind());
                        refused += 1;
                    }
                }
                if turn % 10 == 9 {
                    let policy = Policy::ALL[turn / 10 % Policy::ALL.len()];
                    balancer.set_policy(policy).unwrap();
                }
                for listener in &staying {
                    let now = balancer.stats().unwrap();
                    let of = now.of(listener).unwrap();
                    assert_eq!((of.state, of.weight), (Some(State::Active), Some(Weight::DEFAULT)));
                }
            }
        });
        println!("{done} done, {refused} refused");
        assert!(done > 0 && refused >= TURNS / 3 - 1, "{done} done, {refused} refused");
        // The passing members are gone, and those that stay share evenly.
        Balancer::attach(&host, &key, &Policy::RoundRobin.into()).unwrap();
        let before = host.status(&key).unwrap();
        assert_eq!(before.members.len(), STAY);
        assert_eq!(deal(&staying, 20), [10, 10]);
        let after = host.status(&key).unwrap();
        assert_eq!(counter(&after, "picks") - counter(&before, "picks"), 20);
    });
}
