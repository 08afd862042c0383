//! Thousands of changes of weights, states and policies under load: no request fails, a member that
//! is not in the table gets nothing, and every choice is a pick.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use reuseport::id::Slot;
use reuseport::{Host, MemberChange, Policy, State};
use rustix::net::{Shutdown, shutdown};
use sk_reuseport::net::Bind;
use test_support::load::{Outcome, http_during};
use test_support::loopback;
use test_support::wait::{self, BOUND};
use test_support::{bpffs, netns};

use crate::common::steered::Steered;
use crate::common::traffic::by_slot;

/// In all groups together.
const MANY_CHANGES: usize = 10_000;
const CHANGES: usize = 1_000;
const SOME_CHANGES: usize = 120;

/// Each change waits for an RCU grace period. Changes of several groups share one.
const GROUPS: usize = 10;
const MEMBERS: usize = 4;
const CLIENTS: usize = 1;

/// A round: a member drains, weights change, the policy changes, weights change, the member
/// returns.
const ROUND: usize = 5;

/// How many requests must be answered while a member drains.
const REQUESTS: u64 = 5;

/// Listeners, each with a thread that answers requests until this is dropped.
struct Server(Vec<TcpListener>);

impl Server {
    fn start<'scope>(scope: &'scope thread::Scope<'scope, '_>) -> Self {
        let listeners = by_slot(Bind::new(loopback(false)).listeners(MEMBERS).unwrap());
        for listener in &listeners {
            let listener = listener.try_clone().unwrap();
            scope.spawn(move || serve(&listener));
        }
        Self(listeners)
    }

    fn address(&self) -> SocketAddr {
        self.0[0].local_addr().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.iter().for_each(|listener| _ = shutdown(listener, Shutdown::Both));
    }
}

fn serve(listener: &TcpListener) {
    while let Ok((mut stream, _)) = listener.accept() {
        let mut asked = Vec::new();
        let mut bytes = [0; 256];
        while !asked.ends_with(b"\r\n\r\n") {
            let read = stream.read(&mut bytes).unwrap();
            assert_ne!(read, 0, "the client closed the connection");
            asked.extend(&bytes[..read]);
        }
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nx").unwrap();
    }
}

/// Makes the changes of one round, or the first `changes` of them.
fn round(steered: &Steered<'_>, round: usize, changes: usize) {
    let member = round % MEMBERS;
    let out = |state| {
        let slot = Slot::new(member as u16);
        steered.change(&[MemberChange::new(slot).state(state)]);
    };
    let weights = |turn: usize| {
        let weight = |member| 1 + ((turn * 7 + member * 3) % 13) as u16;
        let weights: [u16; MEMBERS] = std::array::from_fn(weight);
        steered.set_weights(&weights);
    };
    out(State::Draining);
    let before = (steered.picks_of(member), picked(steered));
    for change in 1..changes.min(ROUND - 1) {
        match change {
            2 => steered.set_policy(Policy::ALL[round % Policy::ALL.len()]),
            _ => weights(round + change),
        }
    }
    let enough = || picked(steered) >= before.1 + REQUESTS;
    wait::until("the others are picked", BOUND, enough);
    assert_eq!(steered.picks_of(member), before.0, "slot {member} was out of the table");
    if changes >= ROUND {
        out(State::Active);
    }
}

fn picked(steered: &Steered<'_>) -> u64 {
    (0..MEMBERS).map(|slot| steered.picks_of(slot)).sum()
}

/// Makes rounds of changes until the number that all groups share is used up.
fn change_group(host: &Host, at: SocketAddr, left: &AtomicUsize) {
    let steered = Steered::new(host, "tcp", at, Policy::RoundRobin);
    let mut changes = 0;
    let outcome = http_during(at, CLIENTS, || {
        for turn in 0.. {
            let take = |left: usize| (left > 0).then(|| left.saturating_sub(ROUND));
            let Ok(left) = left.fetch_update(SeqCst, SeqCst, take) else { return };
            round(&steered, turn, left);
            changes += left.min(ROUND);
        }
    });
    println!("{}: {changes} changes, {outcome:?}", steered.key());
    let Outcome { answered, failed } = outcome;
    assert_eq!(failed, 0);
    // No choice fell back to another member or to the kernel.
    let counted = steered.status().counters;
    let of = |reason: &str| counted.iter().find(|counter| counter.reason == reason).unwrap().count;
    let others = ["fallback_active", "fallback_draining", "fallback_kernel", "select_error"];
    assert!(others.iter().all(|reason| of(reason) == 0), "{counted:?}");
    assert_eq!(of("picks"), answered, "{counted:?}");
    steered.detach();
}

fn changes_under_load(changes: usize) {
    netns::isolated(|| {
        let host = Host::open().unwrap();
        let left = AtomicUsize::new(changes);
        thread::scope(|scope| {
            let group = || {
                let server = Server::start(scope);
                let (host, left) = (&host, &left);
                scope.spawn(move || {
                    bpffs::private();
                    change_group(host, server.address(), left);
                })
            };
            let groups: Vec<_> = std::iter::repeat_with(group).take(GROUPS).collect();
            for group in groups {
                group.join().unwrap_or_else(|cause| panic::resume_unwind(cause));
            }
        });
    });
}

#[test]
fn changes_of_every_kind_under_load() {
    changes_under_load(wait::times(SOME_CHANGES));
}

#[test]
fn slow_a_thousand_changes_of_every_kind_under_load() {
    changes_under_load(wait::times(CHANGES));
}

#[test]
#[ignore = "soak"]
fn soak_ten_thousand_changes_of_every_kind_under_load() {
    changes_under_load(MANY_CHANGES);
}
