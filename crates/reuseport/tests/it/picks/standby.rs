//! A member on standby gets nothing, also where all others are full: the kernel drops there, as it does for every full
//! queue, and the client tries again.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use reuseport::id::Slot;
use reuseport::status::State;
use reuseport::{Host, MemberChange};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, listen, socket_with};
use test_support::process::close;
use test_support::wait::{self, BOUND};

use crate::common::steered::Steered;
use crate::common::world::{accept_all, alone, counter, listeners};

fn begin_to_connect(at: SocketAddr) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let client = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    assert_eq!(connect(&client, &at), Err(Errno::INPROGRESS));
    client
}

fn waiting(steered: &Steered<'_>, slot: usize) -> u32 {
    steered.status().members[slot].member.queue.waiting
}

/// Of two listeners, the second one is on standby, and a connection fills the first one.
fn full<'a>(host: &'a Host, policy: &str) -> (Vec<TcpListener>, Steered<'a>, OwnedFd, SocketAddr) {
    let members = listeners(2);
    let at = members[0].local_addr().unwrap();
    let steered = Steered::new(host, "tcp", at, policy.parse().unwrap());
    steered.change(&[MemberChange::new(Slot::new(1)).state(State::Standby)]);
    listen(&members[0], 0).unwrap();
    let first = begin_to_connect(at);
    wait::until("a connection waits", BOUND, || waiting(&steered, 0) == 1);
    (members, steered, first, at)
}

#[test]
fn what_no_serving_member_can_take_is_dropped_and_not_given_to_a_member_on_standby() {
    for policy in ["round-robin", "hash", "source", "random", "cpu"] {
        alone(|| {
            let host = Host::open().unwrap();
            let (members, steered, _first, at) = full(&host, policy);
            let _second = begin_to_connect(at);
            let dropped = || counter(&steered.status(), "fallback_full");
            wait::until("it is dropped", BOUND, || dropped() > 0);
            assert_eq!(waiting(&steered, 1), 0, "{policy}");
            assert_eq!(counter(&steered.status(), "fallback_kernel"), 0, "{policy}");
            assert_eq!(steered.picks_of(0), 1, "{policy}: what is dropped is no pick");
            assert_eq!(accept_all(&members[0]), 1);
            // The client's kernel sends its SYN again.
            wait::until("it comes in", BOUND, || accept_all(&members[0]) == 1);
            assert_eq!((steered.picks_of(0), steered.picks_of(1)), (2, 0), "{policy}");
        });
    }
}

#[test]
fn without_a_member_that_serves_those_on_standby_do() {
    alone(|| {
        let host = Host::open().unwrap();
        let (mut members, steered, first, at) = full(&host, "round-robin");
        close(members.remove(0));
        drop(first);
        let _second = begin_to_connect(at);
        wait::until("the kernel's hash chooses", BOUND, || accept_all(&members[0]) >= 1);
        assert!(counter(&steered.status(), "fallback_kernel") > 0);
    });
}
