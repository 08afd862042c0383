//! What each policy promises, and changes of weights, states and policies. The counters of the
//! kernel program prove that it made the choice.

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::common::traffic::by_slot;
use crate::common::world::{alone, counter, deal, key_at};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::common::steering::{attach, picks};
use reuseport::group::GroupKey;
use reuseport::id::{Cookie, Slot, State, Weight};
use reuseport::status::GroupStatus;
use reuseport::{Attach, Balancer, CpuList, ErrorKind, Host, MemberChange, Policy, SetPolicy};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use sk_reuseport::net::Bind;
use test_support::loopback;
use test_support::wait;

/// A UDP group with a policy. Its members are sorted by slot.
struct Udp {
    members: Vec<UdpSocket>,
    host: Host,
    key: GroupKey,
}

impl Udp {
    fn new(address: SocketAddr, count: usize, policy: &str) -> Self {
        let members = by_slot(Bind::new(address).nonblocking(true).udp_sockets(count).unwrap());
        let host = Host::open().unwrap();
        let key = key_at(&host, "udp", members[0].local_addr().unwrap());
        attach(&host, &key, policy.parse().unwrap());
        Self { members, host, key }
    }

    /// Sends a datagram, and returns the member that receives it.
    fn send(&self, client: &UdpSocket, payload: &[u8]) -> usize {
        client.send_to(payload, self.key.address).unwrap();
        self.receiver()
    }

    /// The only member that receives the last datagram.
    fn receiver(&self) -> usize {
        let mut bytes = [0; 256];
        let mut received = |member: &UdpSocket| member.recv(&mut bytes).is_ok();
        // The datagram may arrive a moment later.
        let receiver = wait::until_some("a member receives it", wait::BOUND, || {
            self.members.iter().position(&mut received)
        });
        assert!(!self.members.iter().any(received), "only one receives it");
        receiver
    }

    fn counter(&self, reason: &str) -> u64 {
        counter(&self.host.status(&self.key).unwrap(), reason)
    }

    fn picked(&self) -> u64 {
        picks(&self.host.status(&self.key).unwrap()).iter().sum()
    }
}

#[test]
fn all_ports_of_a_source_reach_the_same_member() {
    alone(|| {
        let group = Udp::new(loopback(false), 4, "source");
        let mut members = Vec::new();
        for host in 1..=40 {
            let address = Ipv4Addr::new(127, 0, 1, host);
            let from_anywhere = |_| {
                let client = UdpSocket::bind((address, 0)).unwrap();
                group.send(&client, b"x")
            };
            let mut met: Vec<usize> = (0..3).map(from_anywhere).collect();
            met.dedup();
            assert_eq!(met.len(), 1, "{address} met {met:?}");
            members.push(met[0]);
        }
        for member in 0..4 {
            assert!(members.contains(&member), "each member gets some source: {members:?}");
        }
        assert_eq!(group.picked(), 120);
    });
}

#[test]
fn sources_of_both_families_are_told_apart_by_address() {
    alone(|| {
        // A dual-stack group: packets of an IPv4 client have IPv4 headers.
        let group = Udp::new("[::]:0".parse().unwrap(), 4, "source");
        let port = group.key.address.port();
        for to in [loopback(false).ip(), loopback(true).ip()] {
            let met = |_| {
                let client = UdpSocket::bind((to, 0)).unwrap();
                client.connect(SocketAddr::new(to, port)).unwrap();
                client.send(b"x").unwrap();
                group.receiver()
            };
            let mut members: Vec<usize> = (0..8).map(met).collect();
            members.dedup();
            assert_eq!(members.len(), 1, "{to}");
        }
        assert_eq!(group.picked(), 16);
    });
}

#[test]
fn equal_payloads_of_all_senders_reach_the_same_member() {
    alone(|| {
        let group = Udp::new(loopback(false), 4, "payload:2:4");
        let mut members = Vec::new();
        for id in 0u32..40 {
            let met = |turn: u8| {
                let client = UdpSocket::bind(loopback(false)).unwrap();
                let mut payload = vec![turn, turn ^ 0xff];
                payload.extend(id.to_be_bytes());
                payload.push(turn);
                group.send(&client, &payload)
            };
            let mut met: Vec<usize> = (0..3).map(met).collect();
            met.dedup();
            assert_eq!(met.len(), 1, "{id}");
            members.push(met[0]);
        }
        assert!((0..4).all(|member| members.contains(&member)), "{members:?}");
        assert_eq!((group.picked(), group.counter("payload_short")), (120, 0));
        // Too short by one byte: the flow decides, and the datagram is counted.
        let client = UdpSocket::bind(loopback(false)).unwrap();
        let met: Vec<usize> = (0..5).map(|_| group.send(&client, b"12345")).collect();
        assert_eq!(met, [met[0]; 5]);
        assert_eq!(group.counter("payload_short"), 5);
        group.send(&client, b"123456");
        assert_eq!(group.counter("payload_short"), 5);
    });
}

#[test]
fn each_group_hashes_sources_with_its_own_seed() {
    alone(|| {
        let members = |group: &Udp| -> Vec<usize> {
            let of = |n| UdpSocket::bind((Ipv4Addr::new(127, 0, 2, n), 0)).unwrap();
            (1..=40).map(|n| group.send(&of(n), b"x")).collect()
        };
        let (one, other) =
            (Udp::new(loopback(false), 4, "source"), Udp::new(loopback(false), 4, "source"));
        assert_eq!(members(&one), members(&one));
        assert_ne!(members(&one), members(&other), "each group has its own seed");
    });
}

#[test]
fn each_cpu_has_its_member() {
    alone(|| {
        let cpus: Vec<usize> = {
            let set = sched_getaffinity(None).unwrap();
            (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
        };
        let members =
            by_slot(Bind::new(loopback(false)).nonblocking(true).udp_sockets(cpus.len()).unwrap());
        let host = Host::open().unwrap();
        let key = key_at(&host, "udp", members[0].local_addr().unwrap());
        // In reverse, so that it cannot match by accident.
        let order: Vec<String> = cpus.iter().rev().map(usize::to_string).collect();
        let attach = Attach::from(Policy::Cpu).cpus(order.join(",").parse::<CpuList>().unwrap());
        let (balancer, _) = Balancer::attach(&host, &key, &attach).unwrap();
        let before = sched_getaffinity(None).unwrap();
        for (turn, cpu) in cpus.iter().rev().enumerate() {
            let mut one = CpuSet::new();
            one.set(*cpu);
            sched_setaffinity(None, &one).unwrap();
            for _ in 0..20 {
                let client = UdpSocket::bind(loopback(false)).unwrap();
                client.send_to(b"x", key.address).unwrap();
            }
            let picks = picks(&host.status(&key).unwrap());
            assert!(picks[..=turn].iter().all(|n| *n == 20), "{picks:?}");
            assert!(picks[turn + 1..].iter().all(|n| *n == 0), "{picks:?}");
        }
        sched_setaffinity(None, &before).unwrap();
        let cpus: Vec<Option<u16>> = cpus.iter().map(|cpu| u16::try_from(*cpu).ok()).collect();
        let of = |status: &GroupStatus| -> Vec<Option<u16>> {
            status.members.iter().map(|m| m.enrolment.as_ref().unwrap().cpu).collect()
        };
        let backwards: Vec<Option<u16>> = cpus.iter().rev().copied().collect();
        assert_eq!(of(&host.status(&key).unwrap()), backwards);
        let list = cpus.iter().flatten().map(u16::to_string).collect::<Vec<_>>().join(",");
        let list: CpuList = list.parse().unwrap();
        balancer.set_policy(SetPolicy::new(Policy::Cpu).cpus(list)).unwrap();
        assert_eq!(of(&host.status(&key).unwrap()), cpus);
        let attach = attach.cpus("60000".parse::<CpuList>().unwrap());
        let error = Balancer::attach(&host, &key, &attach).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        balancer.detach().unwrap();
    });
}

#[test]
fn the_policy_payload_is_refused_for_tcp() {
    alone(|| {
        let members = by_slot(Bind::new(loopback(false)).listeners(2).unwrap());
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", members[0].local_addr().unwrap());
        let policy: Policy = "payload:0:8".parse().unwrap();
        let error = Balancer::attach(&host, &key, &policy.into());
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.report().to_string().contains("SYN"), "{error}");
        let balancer = attach(&host, &key, Policy::RoundRobin);
        let error = balancer.set_policy(policy).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    });
}

#[test]
fn under_every_policy_draining_members_get_nothing_new_and_can_return() {
    alone(|| {
        let members = by_slot(Bind::new(loopback(false)).nonblocking(true).listeners(3).unwrap());
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", members[0].local_addr().unwrap());
        let balancer = attach(&host, &key, Policy::RoundRobin);
        let change = |slot, state| {
            let change = MemberChange::new(Slot::new(slot)).state(state);
            balancer.change_members(&[change]).unwrap()
        };
        for policy in Policy::ALL {
            balancer.set_policy(*policy).unwrap();
            let shares = change(1, State::Draining);
            assert_eq!(shares[1].state, State::Draining);
            let dealt = deal(&members, 60);
            assert_eq!((dealt[1], dealt[0] + dealt[2]), (0, 60), "{policy}: {dealt:?}");
            change(1, State::Active);
            // Weight 0 has the same effect.
            let zero = [(Slot::new(0), Weight::new(0).unwrap())];
            balancer.set_weights(&zero).unwrap();
            let dealt = deal(&members, 60);
            assert_eq!((dealt[0], dealt[1] + dealt[2]), (0, 60), "{policy}: {dealt:?}");
            balancer.set_weights(&[(Slot::new(0), Weight::DEFAULT)]).unwrap();
        }
        // No member is active, so draining ones are selected.
        (0..3).for_each(|slot| _ = change(slot, State::Draining));
        assert_eq!(deal(&members, 12).iter().sum::<usize>(), 12);
        let status = host.status(&key).unwrap();
        assert_eq!(counter(&status, "fallback_draining"), 12);
        // The program never selects a standby member.
        (0..3).for_each(|slot| _ = change(slot, State::Standby));
        assert_eq!(deal(&members, 12).iter().sum::<usize>(), 12);
        assert_eq!(counter(&host.status(&key).unwrap(), "fallback_kernel"), 12);
    });
}

/// During a change of policy the old program picks from the new table, which it must understand.
#[test]
fn a_change_of_policy_under_traffic_sends_nothing_to_a_draining_member() {
    alone(|| {
        // At least from each policy to the next one.
        let count = wait::times_or(30, Policy::ALL.len() + 1);
        let members = by_slot(Bind::new(loopback(false)).nonblocking(true).listeners(3).unwrap());
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", members[0].local_addr().unwrap());
        let balancer = attach(&host, &key, Policy::RoundRobin);
        let (slot, state) = (Slot::new(0), Some(State::Draining));
        let drain = MemberChange::new(slot).state(state);
        balancer.change_members(&[drain]).unwrap();
        let done = AtomicBool::new(false);
        let connections = thread::scope(|scope| {
            let traffic = scope.spawn(|| {
                let mut connections = 0;
                while !done.load(Ordering::Relaxed) {
                    connections += deal(&members, 4).iter().sum::<usize>();
                }
                connections
            });
            let changes = catch_unwind(AssertUnwindSafe(|| {
                for policy in Policy::ALL.iter().cycle().take(count) {
                    balancer.set_policy(*policy).unwrap();
                }
            }));
            done.store(true, Ordering::Relaxed);
            let connections = traffic.join().unwrap();
            changes.unwrap_or_else(|panic| resume_unwind(panic));
            connections
        });
        let status = host.status(&key).unwrap();
        assert_eq!(picks(&status)[0], 0);
        assert_eq!(counter(&status, "picks"), connections as u64);
        assert!(connections > count, "{connections}");
    });
}

/// With a backlog of 1, the queue of a listener is full when two connections wait.
#[test]
fn under_every_policy_a_member_with_a_full_queue_is_skipped() {
    alone(|| {
        for policy in Policy::ALL {
            let members = by_slot(
                Bind::new(loopback(false)).backlog(1).nonblocking(true).listeners(3).unwrap(),
            );
            let host = Host::open().unwrap();
            let key = key_at(&host, "tcp", members[0].local_addr().unwrap());
            let balancer = attach(&host, &key, *policy);
            // Connecting to a full queue would take a second, until the SYN is sent again.
            let clients: Vec<TcpStream> =
                (0..6).map(|_| TcpStream::connect(key.address).unwrap()).collect();
            let status = host.status(&key).unwrap();
            assert_eq!(picks(&status), [2; 3], "{policy}");
            assert_eq!(counter(&status, "fallback_kernel"), 0);
            drop(clients);
            balancer.detach().unwrap();
        }
    });
}

#[test]
fn a_refused_change_changes_nothing() {
    alone(|| {
        let members = by_slot(Bind::new(loopback(false)).nonblocking(true).listeners(2).unwrap());
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", members[0].local_addr().unwrap());
        let balancer = attach(&host, &key, Policy::RoundRobin);
        let empty = MemberChange::new(Slot::new(60)).state(State::Draining);
        let one = MemberChange::new(Slot::new(0)).state(State::Draining);
        let error = balancer.change_members(&[one, empty]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert_eq!(deal(&members, 20), [10, 10], "all or none");
        let other = balancer.clone();
        balancer.detach().unwrap();
        let error = other.set_policy(Policy::Hash).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotAttached, "{error}");
    });
}

#[test]
fn a_change_applies_only_to_the_member_that_it_names() {
    alone(|| {
        let members = by_slot(Bind::new(loopback(false)).nonblocking(true).listeners(2).unwrap());
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", members[0].local_addr().unwrap());
        let balancer = attach(&host, &key, Policy::RoundRobin);
        let cookies: Vec<Cookie> =
            host.status(&key).unwrap().members.iter().filter_map(|m| m.member.cookie).collect();
        let drain =
            |slot, member| MemberChange::new(Slot::new(slot)).member(member).state(State::Draining);
        let changes = [drain(0, cookies[0]), drain(1, cookies[0])];
        let error = balancer.change_members(&changes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Vanished, "{error}");
        assert_eq!(deal(&members, 20), [10, 10], "all or none");
        balancer.change_members(&[drain(1, cookies[1])]).unwrap();
        assert_eq!(deal(&members, 20), [20, 0]);
    });
}

#[test]
fn attaching_can_set_weights() {
    alone(|| {
        let members = by_slot(Bind::new(loopback(false)).nonblocking(true).listeners(2).unwrap());
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", members[0].local_addr().unwrap());
        let cookies: Vec<Cookie> =
            host.status(&key).unwrap().members.iter().filter_map(|m| m.member.cookie).collect();
        let weight = |weight| Weight::new(weight).unwrap();
        let weighing = |weights| Attach::from(Policy::RoundRobin).weights(weights);
        let attach = weighing(vec![(cookies[1], weight(3))]);
        Balancer::attach(&host, &key, &attach).unwrap();
        assert_eq!(deal(&members, 40), [10, 30]);
        // Attaching again sets weights of old members too; a member that is not named keeps its
        // own.
        Balancer::attach(&host, &key, &weighing(vec![(cookies[0], weight(7))])).unwrap();
        assert_eq!(deal(&members, 40), [28, 12]);
    });
}
