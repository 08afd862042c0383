use super::*;
use crate::model::group::{Queue, examples};
use crate::model::id::{Slot, Weight};
use crate::model::policy::Payload;
use crate::model::selection::Steering;
use crate::model::server::recognise;
use crate::model::status::{Enrolment, example};

/// A process that comes from `first`, which began at that second and runs this file.
fn holder(pid: u32, comm: &str, file: u64, first: u32, second: u64) -> Holder {
    let origin = Origin {
        binary: Binary { device: 8, inode: file },
        first: Some(first),
        started: Duration::from_secs(second),
    };
    Holder { pid, fd: 3, comm: comm.to_owned(), thread: None, origin: Some(origin) }
}

fn member(number: u64, holders: impl Into<Vec<Holder>>) -> Member {
    Member { holders: holders.into(), ..examples::member(Protocol::Tcp, number) }
}

fn of(steering: Steering, members: Vec<MemberStatus>) -> Vec<Finding> {
    findings_of(steering, None, members)
}

fn of_generation(serving: u32, members: Vec<MemberStatus>) -> Vec<Finding> {
    findings_of(Steering::Ours(Policy::RoundRobin.into()), Some(serving), members)
}

fn findings_of(
    steering: Steering,
    serving_generation: Option<u32>,
    members: Vec<MemberStatus>,
) -> Vec<Finding> {
    let protocol = members.first().map_or(Protocol::Tcp, |m| m.member.protocol);
    let key = examples::key(protocol, "127.0.0.1:80");
    let sockets = members.iter().map(|m| m.member.clone()).collect();
    let group = examples::group(key, sockets);
    let status = GroupStatus { serving_generation, ..example(group, steering, members) };
    findings(&status, |holder| recognise(&holder.comm, []))
}

fn among(members: &[Member]) -> Vec<Finding> {
    let status = |member: &Member| MemberStatus {
        member: member.clone(),
        owner: None,
        owner_thread: None,
        threads_waiting: 0,
        owner_cpu: None,
        enrolment: None,
    };
    of(Steering::KernelHash, members.iter().map(status).collect())
}

fn nginx(pid: u32) -> Holder {
    holder(pid, "nginx", 1, 10, 0)
}

#[test]
fn there_is_nothing_to_say_about_a_healthy_group() {
    let all = [nginx(10), nginx(11), nginx(12)];
    assert_eq!(among(&[member(1, all.clone()), member(2, all)]), []);
    assert_eq!(among(&[]), []);
}

#[test]
fn one_socket_is_nothing_to_choose_among_whoever_holds_it() {
    let found = among(&[member(1, [nginx(10), nginx(11), nginx(11)])]);
    let [Finding::OneSocket { processes, server: Some(server), .. }] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!((*processes, server.name), (2, "nginx"));
    assert_eq!(found[0].name(), "one-socket");
    let unknown = among(&[member(1, [holder(5, "a", 1, 5, 0)])]);
    assert_eq!(unknown, [Finding::OneSocket { processes: 1, waiters: Some(1), server: None }]);
}

#[test]
fn who_waits_is_said_only_where_it_was_seen() {
    let waited = |number, waiters, waiting| Member {
        waiters,
        queue: Queue { waiting, half_open: 0, limit: 128 },
        ..member(number, [nginx(10)])
    };
    let found = among(&[waited(1, Some(0), 3), waited(2, None, 9), waited(3, Some(0), 0)]);
    let members = ["cookie:1", "cookie:3"].map(str::to_owned).to_vec();
    assert_eq!(found, [Finding::Unwaited { members, waiting: 3 }]);
    assert_eq!(found[0].members(), ["cookie:1", "cookie:3"]);

    let found = among(&[waited(1, Some(2), 0), waited(2, Some(1), 0)]);
    assert_eq!(found, [Finding::SeveralWait { members: vec!["cookie:1".to_owned()] }]);
    // One socket says it by itself.
    assert_eq!(among(&[waited(1, Some(5), 0)]).len(), 1);
}

#[test]
fn a_queue_is_full_as_the_kernel_counts() {
    let with = |protocol, waiting, limit| {
        let queue = Queue { waiting, half_open: 0, limit };
        let of = |n| Member { queue, ..examples::member(protocol, n) };
        among(&[of(1), of(2)])
    };
    let both = || vec!["cookie:1".to_owned(), "cookie:2".to_owned()];
    assert_eq!(with(Protocol::Tcp, 4, 4), [], "one more is accepted");
    assert_eq!(with(Protocol::Tcp, 5, 4), [Finding::QueueFull { members: both() }]);
    assert_eq!(with(Protocol::Udp, 4096 - 768, 4096), [], "the smallest datagram fits");
    assert_eq!(with(Protocol::Udp, 4096 - 767, 4096), [Finding::QueueFull { members: both() }]);
    assert_eq!(with(Protocol::Udp, u32::MAX, 4096), [Finding::QueueFull { members: both() }]);
    assert_eq!(with(Protocol::Udp, 0, 100), [], "an empty queue takes a datagram of any size");
}

#[test]
fn drops_are_named_with_their_members() {
    let dropping = Member { drops: 7, ..member(2, [nginx(10)]) };
    let found = among(&[member(1, [nginx(10)]), dropping]);
    assert_eq!(found, [Finding::Drops { members: vec![("cookie:2".to_owned(), 7)] }]);
    assert_eq!(found[0].members(), ["cookie:2"]);

    let deferring = Member { drops: 7, defers_accept: true, ..member(2, [nginx(10)]) };
    assert_eq!(among(&[member(1, [nginx(10)]), deferring]), []);
}

/// The servers that are told apart, each with its first process and its number of sockets.
fn apart(members: &[Member]) -> Option<(Vec<(u32, usize)>, bool)> {
    among(members).into_iter().find_map(|finding| match finding {
        Finding::SeveralServers { parties, different } => {
            Some((parties.iter().map(|p| (p.pid, p.members)).collect(), different))
        }
        _ => None,
    })
}

#[test]
fn servers_that_share_a_port_are_told_apart_by_their_file_or_by_when_they_began() {
    // The workers of one master, each with its own socket; one was replaced an hour later.
    let worker = |pid| holder(pid, "app", 1, 10, 0);
    assert_eq!(apart(&[member(1, [worker(11)]), member(2, [worker(99)])]), None);
    // Two runs of the same file at the same time, as a service manager starts them.
    let other = holder(20, "app", 1, 20, 1);
    assert_eq!(apart(&[member(1, [worker(11)]), member(2, [other])]), None);
    // A restart under way.
    let later = holder(30, "app", 1, 30, 60);
    let sockets = [member(1, [later.clone()]), member(2, [worker(11)]), member(3, [worker(12)])];
    assert_eq!(apart(&sockets), Some((vec![(10, 2), (30, 1)], false)));
    // Another program, started at the same time.
    let stranger = holder(40, "nc", 2, 40, 0);
    let sockets = [member(1, [worker(11)]), member(2, [stranger.clone()])];
    assert_eq!(apart(&sockets), Some((vec![(10, 1), (40, 1)], true)));
    // Two containers of one image: its file has another device in each.
    let container = holder(60, "app", 3, 60, 0);
    assert_eq!(apart(&[member(1, [worker(11)]), member(2, [container])]), None);
    let later = holder(60, "app", 3, 60, 60);
    let sockets = [member(1, [worker(11)]), member(2, [later])];
    assert_eq!(apart(&sockets), Some((vec![(10, 1), (60, 1)], false)));
    // A manager holds all sockets.
    let manager = holder(1, "systemd", 9, 1, 0);
    let both = [member(1, [worker(11), manager.clone()]), member(2, [stranger, manager])];
    assert_eq!(apart(&both), None);
    // Nothing is known of one.
    let hidden = Holder { origin: None, ..worker(50) };
    assert_eq!(apart(&[member(1, [worker(11)]), member(2, [hidden])]), None);
}

#[test]
fn sockets_that_join_two_servers_make_them_one() {
    let [a, b] = [holder(11, "app", 1, 10, 0), holder(31, "app", 1, 30, 60)];
    let sockets = [member(1, [a.clone()]), member(2, [b.clone()]), member(3, [a, b])];
    assert_eq!(apart(&sockets), None);
}

/// The finding for members with these weights and recent picks.
fn dealt(protocol: Protocol, policy: Policy, picks: &[(u16, u64)]) -> Vec<Finding> {
    let member = |(number, (weight, picks)): (u16, &(u16, u64))| MemberStatus {
        member: examples::member(protocol, u64::from(number) + 1),
        owner: None,
        owner_thread: None,
        threads_waiting: 0,
        owner_cpu: None,
        enrolment: Some(Enrolment {
            slot: Slot::new(number),
            state: State::Active,
            is_held: false,
            weight: Weight::new(*weight).unwrap(),
            generation: 1,
            cpu: None,
            cpu_guessed: false,
            picks: Some(*picks),
            recent_picks: Some(*picks),
            open: None,
        }),
    };
    of(Steering::Ours(policy.into()), (0..).zip(picks).map(member).collect())
}

#[test]
fn a_roll_out_is_no_mixture_of_servers() {
    let old = member(1, [holder(10, "a", 1, 10, 0)]);
    let new = member(2, [holder(20, "a", 1, 20, 100)]);
    let found = |states: [State; 2], serving| {
        let one = |(number, (member, state)): (u16, (&Member, State))| MemberStatus {
            member: member.clone(),
            owner: None,
            owner_thread: None,
            threads_waiting: 0,
            owner_cpu: None,
            enrolment: Some(Enrolment {
                slot: Slot::new(number),
                state,
                is_held: false,
                weight: Weight::DEFAULT,
                generation: u32::from(number) + 1,
                cpu: None,
                cpu_guessed: false,
                picks: None,
                recent_picks: None,
                open: None,
            }),
        };
        let members = (0..).zip([&old, &new].into_iter().zip(states)).map(one).collect();
        of_generation(serving, members).len()
    };
    use State::{Active, Draining, Standby};
    assert_eq!(found([Active, Active], 2), 1);
    assert_eq!(found([Active, Standby], 1), 0);
    assert_eq!(found([Draining, Active], 2), 0);
    // Drained by hand.
    assert_eq!(found([Active, Draining], 2), 1);
}

#[test]
fn traffic_of_few_keys_is_seen_in_the_picks_of_policies_that_keep_keys_together() {
    use Protocol::{Tcp, Udp};
    let uneven = [(1, 20), (1, 1980)];
    let expected =
        |policy| vec![Finding::OneSided { member: "cookie:2".into(), percent: 99, policy }];
    let payload = Policy::Payload(Payload::new(0, 4).unwrap());
    for policy in [Policy::Hash, Policy::Source, payload] {
        assert_eq!(dealt(Udp, policy, &uneven), expected(policy));
    }
    assert_eq!(dealt(Tcp, Policy::Source, &uneven), expected(Policy::Source));
    for (protocol, policy) in [(Tcp, Policy::Hash), (Udp, Policy::RoundRobin), (Udp, Policy::Cpu)] {
        assert_eq!(dealt(protocol, policy, &uneven), [], "{policy}");
    }
    let few = [(1, 2), (1, 198)];
    let even = [(1, 300), (1, 1700)];
    let by_weight = [(1, 20), (99, 1980)];
    for picks in [few, even, by_weight] {
        assert_eq!(dealt(Udp, Policy::Hash, &picks), []);
    }
}
