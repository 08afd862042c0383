//! Roll-outs under traffic: nothing is lost, and no member on standby gets anything.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use reuseport::Host;
use reuseport::status::{GroupStatus, State};
use test_support::load::{Outcome, asked_during, http_during};
use test_support::server::{Forking, Transport, free_port};
use test_support::wait::{self, BOUND, scaled};

use super::{Active, Standby, attach_again, holding, states};
use crate::common::world::{alone, counter};

/// The picks of members in this state.
fn picks(status: &GroupStatus, state: State) -> u64 {
    let enrolled = status.members.iter().filter_map(|member| member.enrolment.as_ref());
    enrolled.filter(|e| e.state == state).filter_map(|e| e.picks).sum()
}

/// Nothing waits at members that drain.
fn is_drained(status: &GroupStatus) -> bool {
    let draining = |state| state == Some(State::Draining);
    let members = status.members.iter();
    members
        .filter(|member| draining(member.enrolment.as_ref().map(|e| e.state)))
        .all(|member| member.member.queue.waiting == 0 && member.member.queue.half_open == 0)
}

/// Starts a new server next to the old one, promotes it, waits until the old one is drained, and ends that one.
fn roll_over(
    host: &Host,
    key: &reuseport::group::GroupKey,
    old: Forking,
    transport: Transport,
) -> Forking {
    let new = Forking::start_on(transport, old.addr().port(), 2);
    assert_eq!(attach_again(host, key), 2);
    let before = host.status(key).unwrap();
    wait::until("more traffic", BOUND, || {
        let now = host.status(key).unwrap();
        picks(&now, Active) > picks(&before, Active) + 20
    });
    assert_eq!(picks(&host.status(key).unwrap(), Standby), 0, "before it is promoted");
    reuseport::Balancer::open(host, key).unwrap().promote().unwrap();
    wait::until("the old one is drained", BOUND, || {
        // Twice: a handshake may end between the two numbers.
        is_drained(&host.status(key).unwrap()) && is_drained(&host.status(key).unwrap())
    });
    old.stop();
    attach_again(host, key);
    new
}

#[test]
fn requests_during_roll_outs_are_all_answered() {
    alone(|| {
        let host = Host::open().unwrap();
        let old = Forking::start_on(Transport::Tcp, free_port(), 2);
        let (key, _) = holding(&host, "tcp", &old);
        let mut last = None;
        let outcome = http_during(old.addr(), 4, || {
            let second = roll_over(&host, &key, old, Transport::Tcp);
            let third = roll_over(&host, &key, second, Transport::Tcp);
            let status = host.status(&key).unwrap();
            assert_eq!(states(&status), [(3, Active); 2]);
            assert_eq!(counter(&status, "fallback_kernel"), 0, "{:?}", status.counters);
            // The clients need it until they end.
            last = Some(third);
        });
        drop(last);
        assert_eq!(outcome.failed, 0, "{outcome:?}");
        assert!(outcome.answered > 40, "{outcome:?}");
    });
}

/// Sends queries, each from a new socket, until `body` ends. Each waits for its answer.
fn queries_during(to: SocketAddr, body: impl FnOnce()) -> Outcome {
    let ask = |number: u64| -> std::io::Result<bool> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(scaled(Duration::from_secs(3))))?;
        socket.connect(to)?;
        let asked = number.to_string();
        socket.send(asked.as_bytes())?;
        let mut answer = [0; 64];
        let length = socket.recv(&mut answer)?;
        Ok(answer[..length].ends_with(format!(" {asked}").as_bytes()))
    };
    let is_answered = |client: usize, number: usize| {
        ask((client as u64) << 32 | number as u64).is_ok_and(|is| is)
    };
    asked_during(4, is_answered, body)
}

#[test]
fn not_one_query_is_lost_over_a_roll_out() {
    alone(|| {
        let host = Host::open().unwrap();
        let old = Forking::start_on(Transport::Udp, free_port(), 2);
        let (key, _) = holding(&host, "udp", &old);
        let mut last = None;
        let outcome = queries_during(old.addr(), || {
            let second = roll_over(&host, &key, old, Transport::Udp);
            let third = roll_over(&host, &key, second, Transport::Udp);
            let status = host.status(&key).unwrap();
            assert_eq!(counter(&status, "fallback_kernel"), 0, "{:?}", status.counters);
            last = Some(third);
        });
        drop(last);
        assert_eq!(outcome.failed, 0, "{outcome:?}");
        assert!(outcome.answered > 40, "{outcome:?}");
    });
}
