//! Datagrams of one flow, and members that do not read: a member for which the next datagram is too much is passed
//! over, so none is lost while another member has room.

use std::net::UdpSocket;

use reuseport::status::GroupStatus;
use reuseport::{Host, Policy};
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, socket_recv_buffer_size};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
use sk_reuseport::net::Bind;
use test_support::loopback;
use test_support::wait::{self, BOUND};

use crate::common::steered::Steered;
use crate::common::world::{alone, counter};

/// Datagrams that are sent when all members are full.
const MORE: usize = 10;

/// A group whose members never read, and a client.
struct Unread<'a> {
    members: Vec<UdpSocket>,
    steered: Steered<'a>,
    client: UdpSocket,
    payload: Vec<u8>,
    sent: u64,
}

impl<'a> Unread<'a> {
    /// The members' buffers are of different size, each for more than one datagram of this length.
    fn new(host: &'a Host, policy: Policy, length: usize) -> Self {
        let members = Bind::new(loopback(false)).nonblocking(true).udp_sockets(3).unwrap();
        for (member, datagrams) in members.iter().zip([2, 5, 9]) {
            set_socket_recv_buffer_size_force(member, datagrams * (length + 1000)).unwrap();
        }
        let at = members[0].local_addr().unwrap();
        let steered = Steered::new(host, "udp", at, policy);
        let client = UdpSocket::bind(loopback(false)).unwrap();
        client.connect(at).unwrap();
        Self { members, steered, client, payload: vec![b'x'; length], sent: 0 }
    }

    /// Sends as many more datagrams; the program has decided on each.
    fn send(&mut self, datagrams: usize) {
        for _ in 0..datagrams {
            assert_eq!(self.client.send(&self.payload).unwrap(), self.payload.len());
        }
        self.sent += datagrams as u64;
        let decided = || {
            let status = self.steered.status();
            let ways = ["picks", "fallback_active", "fallback_draining", "fallback_kernel"];
            ways.iter().map(|way| counter(&status, way)).sum::<u64>() == self.sent
        };
        wait::until("the program has decided on all", BOUND, decided);
    }

    /// How many datagrams each member has room for, by what the first one takes.
    fn room(&mut self) -> Vec<usize> {
        self.send(1);
        let queues = self.steered.status().group.members.into_iter().map(|m| m.queue.waiting);
        let size = queues.max().unwrap() as usize;
        assert!(size > self.payload.len(), "{size}");
        let limit = |member| socket_recv_buffer_size(member).unwrap();
        self.members.iter().map(|member| limit(member) / size).collect()
    }

    /// How many datagrams wait at each member.
    fn receive(&self) -> Vec<usize> {
        let mut bytes = vec![0; self.payload.len() + 1];
        let mut receive = |member: &UdpSocket| {
            let datagrams = std::iter::from_fn(|| member.recv(&mut bytes).ok());
            datagrams.inspect(|length| assert_eq!(*length, self.payload.len())).count()
        };
        self.members.iter().map(&mut receive).collect()
    }
}

fn drops(status: &GroupStatus) -> usize {
    status.group.members.iter().map(|member| member.drops as usize).sum()
}

/// One CPU receives all, one after the other.
fn on_one_cpu() {
    let mut one = CpuSet::new();
    one.set(sched_getcpu());
    sched_setaffinity(None, &one).unwrap();
}

fn policies() -> impl Iterator<Item = Policy> {
    Policy::ALL.iter().copied().chain(["payload:0:1".parse().unwrap()])
}

/// Of each length under every policy: all members are filled to the last datagram, and none is dropped. What comes
/// then, the kernel drops.
#[track_caller]
fn assert_filled(length: usize) {
    for policy in policies() {
        alone(|| {
            on_one_cpu();
            let host = Host::open().unwrap();
            let mut group = Unread::new(&host, policy, length);
            let room = group.room();
            let all: usize = room.iter().sum();
            assert!(room.iter().all(|room| *room > 1), "{room:?}");
            group.send(all - 1);
            let status = group.steered.status();
            let what = format!("{policy}, {length} bytes: {:?}", status.counters);
            assert_eq!(drops(&status), 0, "{what}");
            assert_eq!(counter(&status, "fallback_kernel"), 0, "{what}");
            let passed = counter(&status, "queue_full");
            // Least-loaded compares queues anyway, and counts nothing.
            assert_eq!(passed > 0, policy.name() != "least-loaded", "{what}");
            assert_eq!(passed, counter(&status, "fallback_active"), "{what}");

            group.send(MORE);
            let status = group.steered.status();
            let what = format!("{policy}, {length} bytes, all full: {:?}", status.counters);
            // Kernels before Linux 6.18 take one more at each member.
            let (dropped, received) = (drops(&status), group.receive());
            assert!((MORE - room.len()..=MORE).contains(&dropped), "{what}: {dropped}");
            for (room, received) in room.iter().zip(&received) {
                assert!((*room..=room + 1).contains(received), "{what}: {received} of {room}");
            }
            assert_eq!(received.iter().sum::<usize>() + dropped, all + MORE, "{what}");
            if policy.name() != "least-loaded" {
                assert_eq!(counter(&status, "fallback_kernel"), MORE as u64, "{what}");
            }
        });
    }
}

#[test]
fn no_datagram_of_a_byte_is_lost_while_a_member_has_room() {
    assert_filled(1);
}

#[test]
fn no_datagram_of_an_ethernet_frame_is_lost_while_a_member_has_room() {
    assert_filled(1400);
}

#[test]
fn no_datagram_near_the_greatest_is_lost_while_a_member_has_room() {
    assert_filled(65_000);
}
