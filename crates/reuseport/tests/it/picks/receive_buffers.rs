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
use crate::common::world::{alone, counter, python_with};

/// Datagrams that are sent when all members are full.
const MORE: usize = 10;

/// The length of each datagram of a train (GSO): the kernel brings it to the socket as one.
const IN_TRAIN: usize = 100;

/// Sets an option of UDP.
fn set(socket: &UdpSocket, option: usize, value: usize) {
    let script =
        format!("import socket; socket.socket(fileno=0).setsockopt(17, {option}, {value})");
    python_with(socket, &script);
}

/// Each send becomes a train of datagrams.
fn send_trains(client: &UdpSocket) {
    const UDP_SEGMENT: usize = 103;
    set(client, UDP_SEGMENT, IN_TRAIN);
}

/// The members read trains as one.
fn accept_trains(members: &[UdpSocket]) {
    const UDP_GRO: usize = 104;
    members.iter().for_each(|member| set(member, UDP_GRO, 1));
}

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
    assert_filled_under(policies(), length, |_| {});
}

#[track_caller]
fn assert_filled_under(
    policies: impl IntoIterator<Item = Policy>,
    length: usize,
    prepare: impl Fn(&Unread<'_>) + Sync,
) {
    for policy in policies {
        alone(|| {
            on_one_cpu();
            let host = Host::open().unwrap();
            let mut group = Unread::new(&host, policy, length);
            prepare(&group);
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

/// The members that accept trains are full when a train does not fit as one.
#[test]
fn no_train_is_lost_while_a_member_that_accepts_trains_has_room() {
    assert_filled_under(["hash", "least-loaded"].map(|p| p.parse().unwrap()), 6000, |group| {
        accept_trains(&group.members);
        send_trains(&group.client);
    });
}

/// Members that do not accept trains get each datagram by itself: they take more together.
#[test]
fn no_datagram_of_a_train_is_lost_while_a_member_has_room() {
    for policy in ["hash", "round-robin"] {
        alone(|| {
            on_one_cpu();
            let host = Host::open().unwrap();
            let mut group = Unread::new(&host, policy.parse().unwrap(), 6000);
            for (member, size) in group.members.iter().zip([90_000, 100_000, 110_000]) {
                set_socket_recv_buffer_size_force(member, size).unwrap();
            }
            send_trains(&group.client);
            let full = loop {
                let before = group.steered.status();
                assert_eq!(drops(&before), 0, "{policy}: {:?}", before.counters);
                group.send(1);
                if counter(&group.steered.status(), "fallback_kernel") > 0 {
                    break before;
                }
            };
            for member in full.group.members {
                let queue = member.queue;
                assert!(queue.waiting > queue.limit / 2, "{policy}: {queue:?}");
            }
        });
    }
}
