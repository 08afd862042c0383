//! Load reports of workers: they move picks, unless they are wrong, too old or missing.

use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use crate::common::rights::{capable_of, user_capable_of};
use crate::common::steering::{attach, picks};
use crate::common::traffic::by_slot;
use crate::common::world::{ROOT, alone, counter, key_at, more, object, with_object};
use reuseport::group::GroupKey;
use reuseport::policy::{LeastLoaded, LoadTerms, StaleAfter};
use reuseport::report::Reporter;
use reuseport::status::GroupStatus;
use reuseport::{Attach, Balancer, Degraded, ErrorKind, Host, Policy, detach};
use rustix::net::{Shutdown, listen, shutdown};
use rustix::thread::CapabilitySet;
use sk_reuseport::maps::{Array, Map, MapData, MappedArray};
use sk_reuseport::net::Bind;
use test_support::loopback;
use test_support::process::close;
use test_support::wait;

/// By queues alone, because the kernel decides when a closed connection no longer counts as open.
const OPTIONS: LeastLoaded = LeastLoaded::DEFAULT.load(LoadTerms::QUEUE);
const LEAST_LOADED: Policy = Policy::LeastLoaded(OPTIONS);

/// A TCP group whose members are sorted by slot.
struct Group {
    members: Vec<TcpListener>,
    host: Host,
    key: GroupKey,
    balancer: Balancer,
    /// The ends of connections, which keep them open.
    ends: Vec<TcpStream>,
}

impl Group {
    fn new(count: usize) -> Self {
        Self::with(count, attach)
    }

    fn with(count: usize, attach: fn(&Host, &GroupKey, Policy) -> Balancer) -> Self {
        let members = by_slot(more(loopback(false), count));
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", members[0].local_addr().unwrap());
        let balancer = attach(&host, &key, LEAST_LOADED);
        Self { members, host, key, balancer, ends: Vec::new() }
    }

    fn reporters(&self) -> Vec<Reporter> {
        self.members.iter().map(|member| Reporter::open(member).unwrap()).collect()
    }

    fn status(&self) -> GroupStatus {
        self.host.status(&self.key).unwrap()
    }

    fn set(&self, options: LeastLoaded) {
        self.balancer.set_policy(Policy::LeastLoaded(options)).unwrap();
    }

    /// Makes connections that are not accepted. Returns the picks of each member.
    fn queue(&mut self, connections: usize) -> Vec<u64> {
        let before = picks(&self.status());
        for _ in 0..connections {
            self.ends.push(TcpStream::connect(self.key.address).unwrap());
        }
        since(&before, &picks(&self.status()))
    }

    /// Makes connections, each of which is accepted and closed before the next one, so that queues
    /// are empty and none is open. Returns the picks of each member.
    fn serve(&mut self, connections: usize) -> Vec<u64> {
        self.ends.clear();
        let before = picks(&self.status());
        for _ in 0..connections {
            self.serve_one();
        }
        since(&before, &picks(&self.status()))
    }

    fn serve_one(&self) {
        let client = TcpStream::connect(self.key.address).unwrap();
        // connect returns before the last packet of the handshake arrives.
        wait::until("it is accepted", wait::BOUND, || {
            self.members.iter().filter(|member| member.accept().is_ok()).count() > 0
        });
        drop(client);
    }

    /// Waits until the program counts a member as stale.
    fn until_stale(&self) {
        let before = counter(&self.status(), "stale");
        wait::until("a member is stale", wait::BOUND, || {
            self.serve_one();
            counter(&self.status(), "stale") > before
        });
    }
}

/// Asserts that this member got nothing, and each other about its share. Any of them may get the
/// turns of the one that is skipped.
#[track_caller]
fn spares(slot: usize, picks: &[u64]) {
    let fair = picks.iter().sum::<u64>() / (picks.len() as u64 - 1);
    for (index, n) in picks.iter().enumerate() {
        let expected = if index == slot { 0..=0 } else { fair / 2..=fair * 2 };
        assert!(expected.contains(n), "all but slot {slot}: {picks:?}");
    }
}

fn since(before: &[u64], now: &[u64]) -> Vec<u64> {
    now.iter().zip(before).map(|(now, before)| now - before).collect()
}

/// The raw reports of the group: epoch, busy, in flight, reserved words.
fn raw() -> MappedArray<[u64; 8]> {
    let groups: Vec<_> = fs::read_dir(Path::new(ROOT).join("groups")).unwrap().collect();
    assert_eq!(groups.len(), 1);
    let path = groups[0].as_ref().unwrap().path().join("reports");
    let map = Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap();
    let reports: Array<_, [u64; 8]> = map.try_into().unwrap();
    reports.mapped().unwrap()
}

#[test]
fn requests_in_flight_count_like_waiting_connections() {
    alone(|| {
        let mut group = Group::new(3);
        let reporters = group.reporters();
        reporters[0].in_flight(5);
        assert_eq!(group.queue(10), [0, 5, 5]);
        // Now the load of each is 5.
        assert_eq!(group.queue(3), [1, 1, 1]);
        let request = reporters[1].request();
        assert_eq!(group.queue(2), [1, 0, 1]);
        drop(request);
        assert_eq!(group.queue(1), [0, 1, 0]);
        reporters[0].in_flight(0);
        assert_eq!(group.queue(5), [5, 0, 0]);
        reporters[2].started();
        reporters[2].started();
        reporters[2].finished();
        assert_eq!(group.queue(2), [1, 1, 0]);
        // In flight is part of the term queue.
        reporters[1].in_flight(1000);
        group.ends.clear();
        group.members.iter().for_each(|member| while member.accept().is_ok() {});
        group.set(OPTIONS.load(LoadTerms::OPEN));
        assert_eq!(group.serve(9).iter().filter(|n| **n >= 2).count(), 3);
        let status = group.status();
        assert_eq!(counter(&status, "stale"), 0);
        assert_eq!(counter(&status, "picks"), picks(&status).iter().sum());
    });
}

#[test]
fn a_hanging_worker_with_an_empty_queue_gets_nothing() {
    alone(|| {
        let mut group = Group::new(3);
        let at_once = StaleAfter::from_millis(10).unwrap();
        group.set(OPTIONS.stale_after(at_once));
        let reporters = group.reporters();
        reporters[0].busy();
        group.until_stale();
        let before = counter(&group.status(), "stale");
        spares(0, &group.serve(40));
        // It is compared only at its own turns: at the turn of an idle member, no other is looked
        // at.
        let turns = counter(&group.status(), "stale") - before;
        assert!((13..=14).contains(&turns), "{turns}");
        // A longer queue is preferred to a stale worker.
        reporters[1].in_flight(100);
        reporters[2].in_flight(100);
        spares(0, &group.serve(10));
        reporters[1].in_flight(0);
        reporters[2].in_flight(0);
        // With a longer limit it is not stale.
        let hour = StaleAfter::from_millis(3_600_000).unwrap();
        group.set(OPTIONS.stale_after(hour));
        assert_eq!(group.serve(30), [10; 3]);
        group.set(OPTIONS.stale_after(at_once));
        spares(0, &group.serve(30));
        reporters[0].idle();
        let before = counter(&group.status(), "stale");
        assert_eq!(group.serve(30), [10; 3]);
        assert_eq!(counter(&group.status(), "stale"), before);
        // If all hang, they are equal.
        let _turns = [reporters[1].turn(), reporters[2].turn()];
        group.until_stale();
        assert_eq!(group.serve(10), [10, 0, 0]);
        let _turn = reporters[0].turn();
        wait::until("all are stale", wait::BOUND, || {
            let before = counter(&group.status(), "stale");
            group.serve_one();
            counter(&group.status(), "stale") == before + 3
        });
        assert_eq!(group.serve(30), [10; 3]);
    });
}

#[test]
fn idle_reporters_change_nothing() {
    alone(|| {
        let mut group = Group::new(4);
        let reporters = group.reporters();
        assert_eq!(group.serve(20), [5; 4]);
        for reporter in &reporters {
            reporter.idle();
            reporter.in_flight(0);
            // One more than were started.
            reporter.finished();
        }
        assert_eq!(group.serve(20), [5; 4]);
        // Dropping a reporter clears its report.
        reporters[0].in_flight(9);
        reporters[0].busy();
        drop(reporters);
        assert_eq!(group.serve(20), [5; 4]);
        assert_eq!(counter(&group.status(), "stale"), 0);
    });
}

/// Any process that may open the map can write any value.
#[test]
fn invalid_reports_break_nothing() {
    alone(|| {
        let mut group = Group::new(4);
        let reports = raw();
        let epoch = reports.get(0).unwrap()[0];
        assert_eq!(epoch, 1);
        // Busy since a time in the future.
        let future = 31_536_000_000_000_000_u64 >> 16;
        let busy = reports.atomic_u64(0, 8).unwrap();
        let in_flight = reports.atomic_u64(0, 16).unwrap();
        let ordering = std::sync::atomic::Ordering::Relaxed;
        busy.store(epoch << 48 | future, ordering);
        assert_eq!(group.serve(20), [5; 4]);
        // Busy since boot with the most requests in flight, but of another epoch.
        busy.store((epoch + 1) << 48 | 1, ordering);
        in_flight.store((epoch + 1) << 48 | 0xffff_ffff_ffff, ordering);
        assert_eq!(group.serve(20), [5; 4]);
        // The same, of the current epoch.
        busy.store(0, ordering);
        in_flight.store(epoch << 48 | 0xffff_ffff_ffff, ordering);
        spares(0, &group.serve(30));
        // Random words: every connection is still picked for a member.
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..200 {
            for slot in 0..4 {
                let mut draw = || {
                    random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    random ^ random >> 29
                };
                let words = [draw(), draw(), draw(), draw(), 0, 0, 0, 0];
                assert!(reports.set(slot, words));
            }
            group.serve_one();
        }
        let status = group.status();
        assert_eq!(picks(&status).iter().sum::<u64>(), 270);
        assert_eq!(counter(&status, "picks"), 270);
    });
}

#[test]
fn a_reporter_that_lost_its_slot_does_not_report_for_the_next_member() {
    alone(|| {
        let mut group = Group::new(3);
        // Not the first member, which keeps the port.
        let old = Reporter::open(&group.members[2]).unwrap();
        old.in_flight(7);
        assert!(old.is_current());
        close(group.members.remove(2));
        Balancer::attach(&group.host, &group.key, &Attach::default()).unwrap();
        assert!(!old.is_current());
        group.members.extend(more(group.key.address, 1));
        Balancer::attach(&group.host, &group.key, &Attach::default()).unwrap();
        let reports = raw();
        assert_eq!(reports.get(2).unwrap(), [2, 0, 0, 0, 0, 0, 0, 0]);
        old.in_flight(9);
        old.started();
        old.busy();
        assert!(!old.is_current());
        assert_eq!(reports.get(2).unwrap(), [2, 0, 0, 0, 0, 0, 0, 0]);
        // The new member starts slowly, for 8 windows of 8 picks.
        group.serve(200);
        assert_eq!(group.serve(30), [10; 3]);
        // As if the old reporter had stored at the moment when the slot changed hands.
        assert!(reports.set(2, [2, 1 << 48 | 1, 1 << 48 | 1000, 0, 0, 0, 0, 0]));
        assert_eq!(group.serve(30), [10; 3]);
        // Dropping the old reporter does not clear the report of the new member.
        let new = Reporter::open(&group.members[2]).unwrap();
        new.in_flight(7);
        drop(old);
        spares(2, &group.serve(30));
    });
}

#[test]
fn a_report_survives_changes_and_ends_with_the_attachment() {
    alone(|| {
        let mut group = Group::new(3);
        let reporter = Reporter::open(&group.members[2]).unwrap();
        reporter.in_flight(7);
        spares(2, &group.serve(20));
        group.balancer.set_policy(Policy::RoundRobin).unwrap();
        assert_eq!(group.serve(30), [10; 3]);
        group.balancer.set_policy(LEAST_LOADED).unwrap();
        spares(2, &group.serve(20));
        attach(&group.host, &group.key, LEAST_LOADED);
        spares(2, &group.serve(20));
        // A member that stops listening and listens again stays the same member.
        shutdown(&group.members[2], Shutdown::Both).unwrap();
        listen(&group.members[2], 64).unwrap();
        attach(&group.host, &group.key, LEAST_LOADED);
        assert!(reporter.is_current());
        spares(2, &group.serve(20));
        detach(&group.host, &group.key).unwrap();
        assert!(!reporter.is_current());
        reporter.started();
        attach(&group.host, &group.key, LEAST_LOADED);
        assert!(!reporter.is_current());
        assert_eq!(group.serve(30), [10; 3]);
        let reporter = Reporter::open(&group.members[2]).unwrap();
        reporter.in_flight(7);
        spares(2, &group.serve(20));
    });
}

#[test]
fn reports_count_for_datagrams_too() {
    alone(|| {
        let members = by_slot(Bind::new(loopback(false)).nonblocking(true).udp_sockets(3).unwrap());
        let address = members[0].local_addr().unwrap();
        let host = Host::open().unwrap();
        let key = key_at(&host, "udp", address);
        let options = OPTIONS.stale_after(StaleAfter::from_millis(10).unwrap());
        let _balancer = attach(&host, &key, Policy::LeastLoaded(options));
        let reporters: Vec<_> = members.iter().map(|m| Reporter::open(m).unwrap()).collect();
        let client = UdpSocket::bind(loopback(false)).unwrap();
        let drain = || members.iter().for_each(|m| while m.recv(&mut [0; 10]).is_ok() {});
        let send = |count| {
            let before = picks(&host.status(&key).unwrap());
            for _ in 0..count {
                client.send_to(&[7; 10], address).unwrap();
                drain();
            }
            since(&before, &picks(&host.status(&key).unwrap()))
        };
        assert_eq!(send(30), [10; 3]);
        reporters[1].in_flight(1);
        spares(1, &send(20));
        reporters[1].in_flight(0);
        reporters[0].busy();
        wait::until("it is stale", wait::BOUND, || {
            send(1);
            counter(&host.status(&key).unwrap(), "stale") > 0
        });
        spares(0, &send(20));
        reporters[0].idle();
        assert_eq!(send(30), [10; 3]);
    });
}

/// The program reads reports from a map, not from kernel memory.
#[test]
fn reports_count_where_queues_cannot_be_read() {
    alone(|| {
        let mut group = Group::with(3, |host, key, policy| {
            let attach = || Balancer::attach(host, key, &policy.into());
            let (balancer, attached) = capable_of(CapabilitySet::BPF, attach).unwrap();
            let unread = |lost: &Degraded| matches!(lost, Degraded::QueuesUnread(_));
            assert!(attached.degraded.iter().any(unread), "{attached:?}");
            balancer
        });
        let reporter = capable_of(CapabilitySet::BPF, || Reporter::open(&group.members[0]));
        reporter.unwrap().in_flight(1);
        // That reporter was dropped at the end of its statement.
        assert_eq!(group.serve(30), [10; 3]);
        let reporter = Reporter::open(&group.members[0]).unwrap();
        reporter.in_flight(1);
        spares(0, &group.serve(20));
    });
}

#[test]
fn reporting_takes_no_rights_but_opening_a_reporter_does() {
    alone(|| {
        let mut group = Group::new(3);
        let reporter = Reporter::open(&group.members[0]).unwrap();
        let none = CapabilitySet::empty();
        user_capable_of(none, || reporter.in_flight(1));
        spares(0, &group.serve(20));
        let error = user_capable_of(none, || Reporter::open(&group.members[1])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    });
}

#[test]
fn the_next_worker_clears_the_report_of_one_that_was_killed() {
    alone(|| {
        let mut group = Group::new(3);
        let killed = Reporter::open(&group.members[0]).unwrap();
        killed.in_flight(50);
        killed.busy();
        std::mem::forget(killed);
        spares(0, &group.serve(20));
        let next = Reporter::open(&group.members[0]).unwrap();
        assert!(group.serve(30).iter().all(|n| *n >= 8));
        drop(next);
    });
}

#[test]
fn the_turns_of_busy_members_spread_evenly_over_the_others() {
    alone(|| {
        let mut group = Group::new(8);
        let reporters = group.reporters();
        reporters[..4].iter().for_each(|reporter| reporter.in_flight(1));
        let picks = group.serve(800);
        assert_eq!(picks[..4], [0; 4]);
        // Each has 100 turns of its own and gets a quarter of 400 other turns.
        assert!(picks[4..].iter().all(|n| (160..=240).contains(n)), "{picks:?}");
    });
}

#[test]
fn a_socket_that_is_not_a_member_is_refused() {
    alone(|| {
        let refused = |socket: &dyn AsFd, kind, said: &str| {
            let error = Reporter::open(socket.as_fd()).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.report().to_string().contains(said), "{error}");
        };
        let members = more(loopback(false), 2);
        refused(&members[0], ErrorKind::NotFound, "no slot in any group; attach to its group");
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", members[0].local_addr().unwrap());
        attach(&host, &key, LEAST_LOADED);
        let newcomers = more(key.address, 1);
        refused(&newcomers[0], ErrorKind::NotFound, "attach again");
        let (unix, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
        refused(&unix, ErrorKind::NotFound, "no slot");
        let theirs = with_object(object("by_source"));
        Balancer::attach(&host, &key, &theirs).unwrap();
        refused(&members[0], ErrorKind::Invalid, "the user's own program decides");
    });
}

#[test]
fn the_threads_of_a_worker_share_one_count() {
    alone(|| {
        let mut group = Group::new(2);
        let reporter = Reporter::open(&group.members[0]).unwrap();
        let (send, receive) = mpsc::channel();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (reporter, send) = (reporter.clone(), send.clone());
                thread::spawn(move || {
                    for _ in 0..10_000 {
                        drop(reporter.request());
                    }
                    // One request of each thread goes on.
                    send.send(reporter.request()).unwrap();
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        drop(send);
        assert_eq!(raw().get(0).unwrap()[2], 1 << 48 | 4);
        assert_eq!(group.serve(10), [0, 10]);
        assert_eq!(receive.into_iter().count(), 4);
        assert_eq!(raw().get(0).unwrap()[2], 1 << 48);
        assert_eq!(group.serve(10), [5; 2]);
    });
}
