//! Only policies that compare open connections have them counted. Groups of other policies have no marks, and
//! there is no host layer for them.

use std::net::{TcpListener, TcpStream, UdpSocket};

use reuseport::group::{GroupKey, Protocol};
use reuseport::net::Bind;
use reuseport::policy::{LeastLoaded, LoadTerms};
use reuseport::status::{GroupStatus, MemberStatus};
use reuseport::{Attach, Balancer, Host, Policy};
use sk_reuseport::fault::{Call, Verdict, intercept};
use test_support::loopback;

use super::{Pair, Scene, ends_at_zero};
use crate::common::previous::{downgrade, note_policy, policy_code};
use crate::common::steering::{followed_by, picks};
use crate::common::world::{
    BY_OPEN, alone, deal, has_layer, host_members, is_counted, key_at, key_of, listeners, marked,
    more, object, with, with_object,
};

const BY_QUEUE: Policy = Policy::LeastLoaded(LeastLoaded::DEFAULT.load(LoadTerms::QUEUE));

/// A steered group that is alone on the host.
struct Alone {
    host: Host,
    key: GroupKey,
    members: Vec<TcpListener>,
}

impl Alone {
    fn new(request: &Attach) -> Self {
        let (members, host) = (listeners(2), Host::open().unwrap());
        let key = key_of(&host, &members[0]);
        let new = Self { host, key, members };
        new.attach(request);
        new
    }

    fn attach(&self, request: &Attach) {
        Balancer::attach(&self.host, &self.key, request).unwrap();
    }

    fn set(&self, policy: Policy) {
        let balancer = Balancer::open(&self.host, &self.key).unwrap();
        assert!(balancer.set_policy(policy).unwrap().degraded.is_empty());
    }

    fn status(&self) -> GroupStatus {
        self.host.status(&self.key).unwrap()
    }

    fn open(&self) -> Vec<Option<u64>> {
        let open = |member: &MemberStatus| member.enrolment.as_ref().unwrap().open;
        self.status().members.iter().map(open).collect()
    }

    /// No connection is counted, and this is no fault.
    #[track_caller]
    fn is_not_counted(&self) {
        assert!(!has_layer());
        assert_eq!(self.open(), [None, None]);
        assert_eq!(self.status().uncounted, None);
    }
}

fn connect(key: &GroupKey, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(key.address).unwrap()).collect()
}

#[test]
fn policies_that_do_not_compare_open_connections_have_no_layer() {
    let others = Policy::ALL.iter().filter(|policy| !matches!(policy, Policy::LeastLoaded(_)));
    for policy in others.chain([&BY_QUEUE]) {
        alone(|| {
            let group = Alone::new(&with(*policy));
            group.is_not_counted();
            assert_eq!(deal(&group.members, 6).iter().sum::<usize>(), 6);
            assert_eq!(picks(&group.status()).iter().sum::<u64>(), 6, "it decides");
            group.attach(&Attach::default());
            group.is_not_counted();
        });
    }
}

#[test]
fn a_users_own_program_has_no_layer() {
    alone(|| {
        let group = Alone::new(&with(BY_OPEN));
        assert!(has_layer());
        group.attach(&with_object(object("by_source")));
        group.is_not_counted();
        group.attach(&with(BY_OPEN));
        is_counted(&group.host, &group.key, &group.members);
    });
}

/// Not even while it is attached to.
#[test]
fn udp_has_no_layer() {
    alone(|| {
        let sockets = Bind::new(loopback(false)).udp_sockets(2).unwrap();
        let host = Host::open().unwrap();
        let key = key_at(&host, "udp", sockets[0].local_addr().unwrap());
        for policy in [Policy::Hash, Policy::default_for(Protocol::Tcp), BY_OPEN] {
            let no_tracing = move |call| {
                assert_ne!(call, Call::BpfRawTracepointOpen, "{policy:#}");
                Verdict::Allow
            };
            intercept(no_tracing, || Balancer::attach(&host, &key, &with(policy))).unwrap();
            assert!(!has_layer(), "{policy:#}");
            assert_eq!(host.status(&key).unwrap().uncounted, None);
        }
        let client = UdpSocket::bind(loopback(false)).unwrap();
        (0..6).for_each(|_| _ = client.send_to(b"x", key.address).unwrap());
        assert_eq!(picks(&host.status(&key).unwrap()).iter().sum::<u64>(), 6);
    });
}

/// By the verbs `policy` and `attach --policy`.
#[test]
fn a_change_of_policy_starts_counting_and_stops_it() {
    for change in [Alone::set, |group: &Alone, policy| group.attach(&with(policy))] {
        alone(|| {
            let group = Alone::new(&with(Policy::RoundRobin));
            let before = connect(&group.key, 2);
            for _ in 0..2 {
                group.is_not_counted();
                change(&group, BY_OPEN);
                assert_eq!(marked(&group.members), [true, true]);
                assert_eq!(host_members(), 2);
                assert_eq!(group.open(), [Some(0), Some(0)], "those from before are not counted");
                let counted = connect(&group.key, 4);
                assert_eq!(group.open(), [Some(2), Some(2)], "the program reads the counts");
                // Another policy that compares them.
                change(&group, Policy::default_for(Protocol::Tcp));
                assert_eq!(group.open(), [Some(2), Some(2)]);
                change(&group, Policy::RoundRobin);
                assert_eq!(marked(&group.members), [false, false]);
                drop(counted);
                assert_eq!(picks(&group.status()).iter().sum::<u64>() % 2, 0);
            }
            drop(before);
            change(&group, BY_QUEUE);
            group.is_not_counted();
        });
    }
}

/// Connections keep their marks, and their ends change no count, also not of the members that have the indices
/// then.
#[test]
fn a_group_that_leaves_the_layer_of_another_one() {
    ends_at_zero(2, |scene| {
        let pairs = scene.pairs(4);
        let servers = |pairs: &[Pair]| marked(&pairs.iter().map(|p| &p.server).collect::<Vec<_>>());
        assert_eq!(servers(&pairs), [true; 4]);
        scene.balancer().set_policy(Policy::RoundRobin).unwrap();
        assert_eq!(marked(&scene.members), [false, false]);
        assert_eq!(host_members(), 1, "the listener of the other group");
        let unmarked = uncounted_pairs(scene, 4);
        assert_eq!(servers(&unmarked), [false; 4]);
        let [first, rest @ ..]: [Pair; 4] = pairs.try_into().ok().unwrap();
        drop(first);
        scene.attach();
        assert_eq!(scene.open(), [0, 0]);
        let again = scene.pairs(4);
        drop((rest, unmarked));
        assert_eq!(scene.open(), [2, 2]);
        drop(again);
    });
}

/// Opens connections that are not counted, and accepts them.
fn uncounted_pairs(scene: &Scene, count: usize) -> Vec<Pair> {
    let (clients, servers) = (scene.connect(count), scene.accept(count));
    clients.into_iter().zip(servers).map(|(client, server)| Pair { client, server }).collect()
}

#[test]
fn a_watcher_marks_newcomers_while_the_policy_compares_open_connections() {
    alone(|| {
        let mut members = listeners(2);
        let host = Host::open().unwrap();
        let key = key_of(&host, &members[0]);
        followed_by(&key, Policy::RoundRobin, |group| {
            group.settled(2);
            assert!(!has_layer());
            let balancer = Balancer::open(&host, &key).unwrap();
            balancer.set_policy(BY_OPEN).unwrap();
            members.extend(more(key.address, 1));
            group.settled(3);
            assert_eq!(marked(&members), [true; 3]);
            balancer.set_policy(Policy::RoundRobin).unwrap();
            members.extend(more(key.address, 1));
            group.settled(4);
            assert_eq!(marked(&members), [false; 4]);
            assert!(!has_layer());
        });
    });
}

/// They counted the connections of every group, and noted in which layer, or did not.
#[test]
fn the_next_attach_takes_the_marks_away_that_an_earlier_version_made() {
    for noted in [true, false] {
        alone(|| {
            let group = Alone::new(&with(Policy::RoundRobin));
            let code = policy_code(&group.key);
            group.attach(&with(BY_OPEN));
            downgrade(&group.key);
            note_policy(&group.key, code, noted);
            assert_eq!(group.status().steering.policy(), Some(Policy::RoundRobin));
            assert_eq!(group.status().uncounted, None);
            assert_eq!(marked(&group.members), [true, true]);
            group.attach(&Attach::default());
            assert_eq!(marked(&group.members), [false, false]);
            group.is_not_counted();
            is_counted(&group.host, &group.key, &group.members);
            group.set(Policy::RoundRobin);
            group.is_not_counted();
        });
    }
}
