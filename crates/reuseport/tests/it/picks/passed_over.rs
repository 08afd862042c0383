//! A member whose queue is full, or whose slot is empty: what it cannot take goes to the others in proportion to
//! their weights.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use reuseport::{Host, Policy};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, listen, socket_with};
use test_support::process::close;
use test_support::wait::{self, BOUND};

use crate::common::steered::Steered;
use crate::common::world::{accept_all, alone, counter, listeners};

const MEMBERS: usize = 5;

/// Connections after the one that fills a member.
const TIMES: usize = 700;

/// The member that can take none.
const UNABLE: usize = 2;

struct Group<'a> {
    listeners: Vec<TcpListener>,
    steered: Steered<'a>,
    at: SocketAddr,
}

impl<'a> Group<'a> {
    fn new(host: &'a Host, policy: Policy, weights: [u16; MEMBERS]) -> Self {
        let listeners = listeners(MEMBERS);
        let at = listeners[0].local_addr().unwrap();
        let steered = Steered::new(host, "tcp", at, policy);
        steered.set_weights(&weights);
        Self { listeners, steered, at }
    }

    /// A connection from an address that depends on the number; the members named accept all that wait.
    fn connect(&self, number: usize, accepting: impl Fn(usize) -> bool) -> TcpStream {
        let client =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .unwrap();
        let source = Ipv4Addr::new(127, 1, (number / 250) as u8, (number % 250 + 1) as u8);
        bind(&client, &SocketAddr::new(source.into(), 0)).unwrap();
        connect(&client, &self.at).unwrap();
        for (_, listener) in self.listeners.iter().enumerate().filter(|(slot, _)| accepting(*slot))
        {
            accept_all(listener);
        }
        client.into()
    }

    /// One connection waits at a member that has room for no other.
    fn fill(&self) {
        listen(&self.listeners[UNABLE], 0).unwrap();
        let waiting = || {
            let member = &self.steered.status().group.members[UNABLE];
            member.queue.waiting == 1
        };
        for number in 0.. {
            let _client = self.connect(number, |slot| slot != UNABLE);
            if self.steered.picks_of(UNABLE) == 1 {
                break;
            }
        }
        wait::until("a connection waits", BOUND, waiting);
    }

    /// Connects, and counts the picks by slot.
    fn deal(&self) -> Vec<usize> {
        let picks = || (0..MEMBERS).map(|slot| self.steered.picks_of(slot) as usize);
        let before: Vec<_> = picks().collect();
        let fallbacks = counter(&self.steered.status(), "fallback_active");
        for number in 0..TIMES {
            self.connect(number, |slot| slot != UNABLE);
        }
        let dealt: Vec<_> = picks().zip(before).map(|(after, before)| after - before).collect();
        assert_eq!(dealt.iter().sum::<usize>(), TIMES, "the program decides on each");
        assert!(counter(&self.steered.status(), "fallback_active") > fallbacks, "{dealt:?}");
        dealt
    }
}

/// Within four standard deviations of the weight's share; exactly, if `exact`.
#[track_caller]
fn assert_shares(what: &str, dealt: &[usize], weights: [u16; MEMBERS], exact: bool) {
    let able = |slot: &usize| *slot != UNABLE;
    let sum: u16 = (0..MEMBERS).filter(able).map(|slot| weights[slot]).sum();
    assert_eq!(dealt[UNABLE], 0, "{what}: {dealt:?}");
    for slot in (0..MEMBERS).filter(able) {
        let share = f64::from(weights[slot]) / f64::from(sum);
        let all = TIMES as f64;
        let bound = if exact { 1.0 } else { 4.0 * (all * share * (1.0 - share)).sqrt() };
        let off = (dealt[slot] as f64 - all * share).abs();
        assert!(
            off <= bound,
            "{what}: slot {slot} of {dealt:?} is {off:.0} off, beyond {bound:.0}"
        );
    }
}

const POLICIES: [(&str, bool); 4] =
    [("round-robin", true), ("hash", false), ("source", false), ("random", false)];

const WEIGHTS: [[u16; MEMBERS]; 2] = [[1; MEMBERS], [1, 2, 5, 3, 4]];

#[test]
fn what_a_full_member_cannot_take_goes_to_the_others_by_weight() {
    for ((policy, exact), weights) in
        POLICIES.into_iter().flat_map(|policy| WEIGHTS.map(|weights| (policy, weights)))
    {
        alone(|| {
            let host = Host::open().unwrap();
            let group = Group::new(&host, policy.parse().unwrap(), weights);
            group.fill();
            let what = format!("{policy} {weights:?}");
            assert_shares(&what, &group.deal(), weights, exact);
        });
    }
}

#[test]
fn what_a_closed_member_cannot_take_goes_to_the_others_by_weight() {
    for ((policy, exact), weights) in
        POLICIES.into_iter().flat_map(|policy| WEIGHTS.map(|weights| (policy, weights)))
    {
        alone(|| {
            let host = Host::open().unwrap();
            let mut group = Group::new(&host, policy.parse().unwrap(), weights);
            close(group.listeners.remove(UNABLE));
            // A listener that takes no part stands in its place.
            group.listeners.insert(UNABLE, listeners(1).remove(0));
            let what = format!("{policy} {weights:?}");
            assert_shares(&what, &group.deal(), weights, exact);
        });
    }
}
