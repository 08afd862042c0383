//! The policy least-loaded: which member gets a connection, given the queues and open connections.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;

use crate::common::steering::{attach, picks};
use crate::common::traffic::by_slot;
use crate::common::world::{ROOT, alone, counter, key_at};
use reuseport::group::GroupKey;
use reuseport::id::{Slot, Weight};
use reuseport::policy::{LeastLoaded, LoadTerms, MaxShare};
use reuseport::status::MemberStatus;
use reuseport::{Balancer, Host, Policy};
use sk_reuseport::maps::{Array, Map, MapData};
use sk_reuseport::net::Bind;
use test_support::loopback;
use test_support::process::close;
use test_support::wait;

const LEAST_LOADED: Policy = Policy::LeastLoaded(LeastLoaded::DEFAULT);

/// A group on loopback whose members are sorted by slot.
struct Group {
    members: Vec<TcpListener>,
    host: Host,
    key: GroupKey,
    balancer: Balancer,
    /// The ends of connections, which keep them open.
    clients: Vec<TcpStream>,
    accepted: Vec<Vec<TcpStream>>,
}

impl Group {
    fn new(count: usize, policy: Policy) -> Self {
        Self::at(loopback(false), count, policy)
    }

    fn at(address: SocketAddr, count: usize, policy: Policy) -> Self {
        let members = by_slot(Bind::new(address).nonblocking(true).listeners(count).unwrap());
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", members[0].local_addr().unwrap());
        let balancer = attach(&host, &key, policy);
        let accepted = members.iter().map(|_| Vec::new()).collect();
        Self { members, host, key, balancer, clients: Vec::new(), accepted }
    }

    fn connect(&mut self, count: usize) {
        let connect = || TcpStream::connect(self.key.address).unwrap();
        self.clients.extend((0..count).map(|_| connect()));
    }

    /// Makes connections that are accepted at once. What waits for long on a slow machine would count as
    /// waiting at workers that hang.
    fn serve(&mut self, connections: usize) {
        for _ in 0..connections {
            self.connect(1);
            self.accept(0..self.members.len());
        }
    }

    /// Accepts all connections that wait at these members, after all handshakes have completed:
    /// connect returns before the last packet of its own arrives.
    fn accept(&mut self, members: impl IntoIterator<Item = usize>) {
        wait::until("no handshake is under way", wait::BOUND, || {
            let group = self.host.refresh(&self.key).unwrap();
            group.members.iter().all(|member| member.queue.half_open == 0)
        });
        for member in members {
            let accept = std::iter::from_fn(|| Some(self.members[member].accept().ok()?.0));
            self.accepted[member].extend(accept);
        }
    }

    /// Closes the connections of a member, the ends of the server first.
    fn close(&mut self, member: usize) {
        let ports: Vec<u16> =
            self.accepted[member].drain(..).map(|c| c.peer_addr().unwrap().port()).collect();
        self.clients.retain(|client| !ports.contains(&client.local_addr().unwrap().port()));
        self.closed();
    }

    fn close_all(&mut self) {
        self.accepted.iter_mut().for_each(Vec::clear);
        self.clients.clear();
        self.closed();
    }

    /// Waits until exactly the connections that are open are counted.
    fn closed(&self) {
        let are: Vec<u64> = self.accepted.iter().map(|member| member.len() as u64).collect();
        wait::until("the connections are closed", wait::BOUND, || {
            let status = self.host.status(&self.key).unwrap();
            let open = |m: &MemberStatus| m.enrolment.as_ref().unwrap().open.unwrap();
            let waiting = |m: &MemberStatus| u64::from(m.member.queue.waiting);
            status.members.iter().map(|m| open(m) - waiting(m)).eq(are.iter().copied())
        });
    }

    fn picks(&self) -> Vec<u64> {
        picks(&self.host.status(&self.key).unwrap())
    }

    fn counter(&self, reason: &str) -> u64 {
        counter(&self.host.status(&self.key).unwrap(), reason)
    }
}

#[test]
fn equal_members_take_turns_and_the_program_reads_queues() {
    alone(|| {
        for address in [loopback(false), loopback(true)] {
            let mut group = Group::at(address, 4, LEAST_LOADED);
            assert!(group.host.status(&group.key).unwrap().reads_queues);
            group.serve(40);
            assert_eq!(group.picks(), [10; 4]);
        }
    });
}

#[test]
fn a_member_that_does_not_accept_gets_at_most_two_connections() {
    alone(|| {
        let mut group = Group::new(4, LEAST_LOADED);
        for _ in 0..300 {
            group.connect(1);
            group.accept(1..4);
        }
        let picks = group.picks();
        assert!(picks[0] <= 2, "{picks:?}");
        assert_eq!(picks.iter().sum::<u64>(), 300);
        assert!(picks[1..].iter().all(|n| (95..=105).contains(n)), "{picks:?}");
        // It accepts again and gets its share, since all are idle.
        group.accept(0..4);
        group.clients.clear();
        group.accepted.iter_mut().for_each(Vec::clear);
        group.closed();
        let before = group.picks();
        for _ in 0..100 {
            group.connect(1);
            group.accept(0..4);
            group.close_all();
        }
        let since: Vec<u64> = group.picks().iter().zip(&before).map(|(n, b)| n - b).collect();
        assert!(since.iter().all(|n| (20..=30).contains(n)), "{since:?}");
    });
}

/// Three of four hang: they must not get what the cap takes from the fourth.
#[test]
fn the_cap_sends_nothing_to_members_that_hang() {
    alone(|| {
        let mut group = Group::new(4, LEAST_LOADED);
        for _ in 0..300 {
            group.connect(1);
            group.accept(3..4);
        }
        let picks = group.picks();
        assert!(picks[..3].iter().all(|n| *n <= 2), "{picks:?}");
    });
}

/// A worker that closes each connection at once is always idle, while the others have connections
/// open.
#[test]
fn a_worker_that_fails_at_once_gets_at_most_twice_its_share() {
    alone(|| {
        let mut group = Group::new(4, LEAST_LOADED);
        group.serve(40);
        let before = group.picks();
        // Windows of 8 picks per member; where a window begins is not known.
        let windows = wait::times_or(12, 4);
        for _ in 0..windows * 8 * 4 {
            group.connect(1);
            group.accept(0..4);
            group.close(0);
        }
        let since: Vec<u64> = group.picks().iter().zip(&before).map(|(n, b)| n - b).collect();
        let capped = 2 * 8 * windows as u64;
        assert!((capped - 22..=capped + 16).contains(&since[0]), "{since:?}");
        assert!(group.counter("share_capped") > 0);
        // Without the cap, it gets all connections but those by which idle members are not starved.
        let uncapped = LeastLoaded::DEFAULT.max_share(MaxShare::from_hundredths(10_000).unwrap());
        group.balancer.set_policy(Policy::LeastLoaded(uncapped)).unwrap();
        let before = group.picks();
        for _ in 0..50 {
            group.connect(1);
            group.accept(0..4);
            group.close(0);
        }
        let uncapped = group.picks()[0] - before[0];
        assert!((44..=49).contains(&uncapped), "{uncapped}");
    });
}

#[test]
fn the_fewest_connections_win_unless_the_load_is_the_queue_alone() {
    alone(|| {
        let mut group = Group::new(3, LEAST_LOADED);
        group.serve(30);
        // The connections of the first member stay open, the others close.
        group.close(1);
        group.close(2);
        for _ in 0..6 {
            group.connect(1);
            group.accept(0..3);
        }
        assert_eq!(group.picks(), [10, 13, 13]);
        let queue_alone = LeastLoaded::DEFAULT.load(LoadTerms::QUEUE);
        group.balancer.set_policy(Policy::LeastLoaded(queue_alone)).unwrap();
        for _ in 0..6 {
            group.connect(1);
            group.accept(0..3);
        }
        assert_eq!(group.picks(), [12, 15, 15]);
    });
}

#[test]
fn loads_are_compared_in_proportion_to_weights() {
    alone(|| {
        let mut group = Group::new(2, LEAST_LOADED);
        let weights = [(Slot::new(0), Weight::new(3).unwrap()), (Slot::new(1), Weight::DEFAULT)];
        group.balancer.set_weights(&weights).unwrap();
        // Idle: turns by weight.
        for _ in 0..40 {
            group.connect(1);
            group.accept(0..2);
            group.close_all();
        }
        let idle = group.picks();
        assert!((28..=32).contains(&idle[0]), "{idle:?}");
        // No member accepts: queues by weight, once that is known.
        group.connect(200);
        let queued = group.picks();
        assert!((145..=155).contains(&(queued[0] - idle[0])), "{idle:?} {queued:?}");
    });
}

/// The others wake up after every eighth connection: all that waits is young then.
#[test]
fn a_burst_does_not_go_to_the_worker_that_wakes_first() {
    alone(|| {
        let mut group = Group::new(4, LEAST_LOADED);
        let mut accepted = Vec::new();
        let mut accept = |listener: &TcpListener| {
            accepted.extend(std::iter::from_fn(|| Some(listener.accept().ok()?.0)));
        };
        for connection in 0..96 {
            group.connect(1);
            let awake = if connection % 8 == 7 { 4 } else { 1 };
            group.members[..awake].iter().for_each(&mut accept);
        }
        // By queues alone, it would get five of eight.
        let picks = group.picks();
        assert!(picks[0] <= 40, "{picks:?}");
        assert_eq!(picks.iter().sum::<u64>(), 96);
    });
}

/// The counting programs are gone: what they counted last stays as it is.
#[test]
fn a_count_that_froze_neither_attracts_nor_repels_for_long() {
    alone(|| {
        let mut group = Group::new(4, LEAST_LOADED);
        group.serve(160);
        group.close(1);
        for program in ["count_open", "count_nested"] {
            fs::remove_file(Path::new(ROOT).join("host").join(program)).unwrap();
        }
        let open = |group: &Group| -> Vec<u32> {
            let map =
                Map::from_map_data(MapData::from_pin(format!("{ROOT}/host/members")).unwrap());
            let members: Array<_, [u32; 4]> = map.unwrap().try_into().unwrap();
            (0..group.members.len() as u32)
                .map(|index| members.get(&index, 0).unwrap()[2])
                .collect()
        };
        wait::until("connections are no longer counted", wait::BOUND, || {
            let before = open(&group);
            group.connect(1);
            group.accept(0..4);
            open(&group) == before
        });
        // The one that has fewer gets at most twice its share, and all the same after that.
        let mut deal = |connections| {
            let before = group.picks();
            for _ in 0..connections {
                group.connect(1);
                group.accept(0..4);
            }
            group.picks().iter().zip(&before).map(|(n, b)| n - b).collect::<Vec<u64>>()
        };
        let first = deal(64);
        assert!(first[1] <= 40, "{first:?}");
        let later = deal(128);
        assert!(later.iter().all(|n| (24..=40).contains(n)), "{first:?} {later:?}");
    });
}

/// A member whose socket is closed seems to have an empty queue.
#[test]
fn a_closed_member_is_rarely_tried() {
    alone(|| {
        let mut group = Group::new(4, LEAST_LOADED);
        group.serve(8);
        close(group.members.remove(1));
        group.accepted.remove(1);
        let others = [0, 1, 2];
        for _ in 0..120 {
            group.connect(1);
            group.accept(others);
        }
        let status = group.host.status(&group.key).unwrap();
        let picks = picks(&status);
        assert_eq!(picks.len(), 3);
        assert!(picks.iter().all(|n| (40..=46).contains(n)), "{picks:?}");
        assert_eq!(counter(&status, "fallback_kernel") + counter(&status, "fallback_active"), 0);
        // Tried about once in a window, not at every pick.
        let empty = counter(&status, "empty_slot");
        assert!((1..=20).contains(&empty), "{empty}");
    });
}

#[test]
fn a_sample_of_many_members_avoids_those_that_hang() {
    alone(|| {
        let mut group = Group::new(100, LEAST_LOADED);
        // All members but the first ten hang.
        let turns = wait::times_or(1000, 400);
        for _ in 0..turns {
            group.connect(1);
            group.accept(0..10);
        }
        let picks = group.picks();
        let worst = picks[10..].iter().max().unwrap();
        assert!(*worst <= 12, "{picks:?}");
        assert!(picks[..10].iter().all(|n| *n > turns as u64 / 50), "{picks:?}");
    });
}

#[test]
fn datagrams_go_where_the_fewest_bytes_wait() {
    alone(|| {
        let address = loopback(false);
        let members = by_slot(Bind::new(address).nonblocking(true).udp_sockets(3).unwrap());
        let address = members[0].local_addr().unwrap();
        let host = Host::open().unwrap();
        let key = key_at(&host, "udp", address);
        let _balancer = attach(&host, &key, LEAST_LOADED);
        let client = UdpSocket::bind(loopback(false)).unwrap();
        let mut bytes = [0; 100];
        for _ in 0..300 {
            client.send_to(&[7; 100], address).unwrap();
            // The first member hangs.
            for member in &members[1..] {
                while member.recv(&mut bytes).is_ok() {}
            }
        }
        let picks = picks(&host.status(&key).unwrap());
        assert!(picks[0] <= 2, "{picks:?}");
        assert!(picks[1..].iter().all(|n| (140..=160).contains(n)), "{picks:?}");
    });
}
