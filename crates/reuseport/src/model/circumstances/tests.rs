use super::*;
use crate::model::group::{AttachedProgram, Group, Queue, Reach, examples};
use crate::model::id::{Slot, Weight};
use crate::model::policy::Policy;
use crate::model::status::{Enrolment, Uncounted, example};

const OURS: Steering = Steering::Ours(Program::Selection(crate::model::selection::Selection {
    policy: Policy::RoundRobin,
    sticky: crate::model::sticky::Stickiness::None,
}));

/// A member, with a slot in this state and of this weight, or without one.
fn member(socket: Member, enrolled: Option<(State, u16)>) -> MemberStatus {
    let number = u16::try_from(socket.sock_address.0).unwrap();
    let enrolment = enrolled.map(|(state, weight)| Enrolment {
        slot: Slot::new(number),
        state,
        is_held: false,
        weight: Weight::new(weight).unwrap(),
        generation: 1,
        cpu: None,
        cpu_guessed: false,
        picks: Some(0),
        recent_picks: Some(0),
        open: None,
    });
    MemberStatus {
        member: socket,
        owner: None,
        owner_thread: None,
        threads_waiting: 0,
        owner_cpu: None,
        enrolment,
    }
}

/// A listener that a process holds.
fn held(number: u64) -> Member {
    let holder = crate::model::group::Holder {
        pid: 7,
        fd: 3,
        comm: "server".to_owned(),
        thread: None,
        origin: None,
    };
    let queue = Queue { waiting: 0, half_open: 0, limit: 4096 };
    Member { holders: vec![holder], queue, ..examples::member(Protocol::Tcp, number) }
}

const ACTIVE: Option<(State, u16)> = Some((State::Active, 1));

fn status(steering: Steering, members: Vec<MemberStatus>) -> GroupStatus {
    let key = examples::key(Protocol::Tcp, "127.0.0.1:80");
    let program = (steering != Steering::KernelHash)
        .then(|| AttachedProgram { id: Some(5), name: "select".to_owned() });
    let sockets = members.iter().map(|m| m.member.clone()).collect();
    let group = Group { program, ..examples::group(key, sockets) };
    example(group, steering, members)
}

/// What is known of a group that is followed and has its state, on a host as most are.
fn facts() -> Facts {
    Facts {
        watched: Some(true),
        has_state: Some(true),
        settings: NetSettings {
            somaxconn: Some(4096),
            tcp_migrate_req: Some(0),
            ..NetSettings::default()
        },
        connected: 0,
    }
}

fn healthy() -> GroupStatus {
    status(OURS, vec![member(held(1), ACTIVE), member(held(2), ACTIVE)])
}

/// A group that no program decides for.
fn plain(members: impl IntoIterator<Item = Member>) -> GroupStatus {
    status(Steering::KernelHash, members.into_iter().map(|m| member(m, None)).collect())
}

fn names_of(status: &GroupStatus, facts: &Facts) -> Vec<&'static str> {
    circumstances(status, facts).iter().map(Finding::name).collect()
}

#[test]
fn there_is_nothing_to_say_about_a_group_that_is_followed() {
    assert_eq!(names_of(&healthy(), &facts()), [""; 0]);
    let settings = NetSettings { tcp_migrate_req: Some(1), ..facts().settings };
    let facts = Facts { watched: Some(false), has_state: Some(false), settings, connected: 0 };
    assert_eq!(names_of(&plain([held(1), held(2)]), &facts), [""; 0]);
}

#[test]
fn nothing_is_said_of_what_is_not_known() {
    assert_eq!(names_of(&healthy(), &Facts::default()), [""; 0]);
    assert_eq!(names_of(&plain([held(1), held(2)]), &Facts::default()), [""; 0]);
    assert_eq!(names_of(&status(Steering::Foreign, vec![]), &Facts::default()), [""; 0]);
}

#[test]
fn who_follows_and_what_became_of_the_program_is_told() {
    let unwatched = Facts { watched: Some(false), ..facts() };
    assert_eq!(names_of(&healthy(), &unwatched), ["no-watcher"]);
    let with = |steering| status(steering, vec![member(held(1), None), member(held(2), None)]);
    assert_eq!(names_of(&with(Steering::Foreign), &facts()), ["program-replaced"]);
    assert_eq!(names_of(&with(Steering::Elsewhere(None)), &facts()), ["state-elsewhere"]);
    assert_eq!(names_of(&with(Steering::KernelHash), &facts()), ["program-lost", "no-migration"]);
    let stateless = Facts { has_state: Some(false), ..facts() };
    assert_eq!(names_of(&with(Steering::Foreign), &stateless), [""; 0]);
    assert_eq!(names_of(&with(Steering::KernelHash), &stateless), ["no-migration"]);
}

#[test]
fn members_without_a_slot_are_told_by_why() {
    let hidden = Member { holders: Vec::new(), ..held(3) };
    let mptcp = Member { mptcp: true, ..held(4) };
    let mut all = healthy();
    all.members.extend([held(5), hidden.clone(), mptcp.clone()].map(|m| member(m, None)));
    let found = circumstances(&all, &facts());
    let of = |number: u64| vec![format!("cookie:{number}")];
    assert_eq!(
        found,
        [
            Finding::JoinedLater { members: of(5) },
            Finding::HiddenMember { members: of(3), steered: true },
            Finding::Mptcp { members: of(4), steered: true },
        ]
    );
    // One that has a slot keeps it.
    let kept = status(OURS, vec![member(hidden.clone(), ACTIVE), member(held(1), ACTIVE)]);
    assert_eq!(names_of(&kept, &facts()), [""; 0]);
    let before = Facts { has_state: Some(false), settings: NetSettings::default(), ..facts() };
    assert_eq!(
        circumstances(&plain([hidden, mptcp, held(1)]), &before),
        [
            Finding::HiddenMember { members: of(3), steered: false },
            Finding::Mptcp { members: of(4), steered: false },
        ]
    );
}

#[test]
fn a_program_that_selects_no_member_or_none_that_is_active_is_told() {
    let draining = Some((State::Draining, 1));
    let with = |all: &[Option<(State, u16)>]| {
        let members = (1..).zip(all).map(|(n, enrolled)| member(held(n), *enrolled));
        circumstances(&status(OURS, members.collect()), &facts())
    };
    assert_eq!(with(&[draining, Some((State::Active, 0))]), [Finding::NoneActive]);
    assert_eq!(with(&[draining, ACTIVE]), []);
    assert_eq!(with(&[None, None]), [Finding::Undecided { standby: 0, joinable: 2 }]);
    let standby = Some((State::Standby, 1));
    assert_eq!(with(&[standby, None]), [Finding::Undecided { standby: 1, joinable: 1 }]);
}

#[test]
fn short_accept_queues_are_told_with_the_limit_that_holds() {
    let with = |protocol, queues: &[(u32, u32)]| {
        let socket = |(n, (waiting, limit)): (u64, &(u32, u32))| {
            let queue = Queue { waiting: *waiting, half_open: 0, limit: *limit };
            Member { queue, protocol, ..held(n) }
        };
        let settings = NetSettings { tcp_migrate_req: None, ..facts().settings };
        let facts = Facts { has_state: Some(false), settings, ..facts() };
        circumstances(&plain((1..).zip(queues).map(socket)), &facts)
    };
    let small = |members: &[u64], limit, fullest| Finding::SmallBacklog {
        members: members.iter().map(|n| format!("cookie:{n}")).collect(),
        limit,
        fullest,
        somaxconn: Some(4096),
    };
    assert_eq!(with(Protocol::Tcp, &[(0, 128), (255, 511)]), []);
    assert_eq!(with(Protocol::Tcp, &[(1, 5), (0, 511)]), [small(&[1], 5, (1, 5))]);
    let filling = [small(&[1, 2], 16, (256, 511))];
    assert_eq!(with(Protocol::Tcp, &[(2, 16), (256, 511)]), filling);
    assert_eq!(filling[0].severity(), crate::model::finding::Severity::Problem);
    assert_eq!(with(Protocol::Tcp, &[(6, 5), (0, 511)]), [], "it is full");
    assert_eq!(with(Protocol::Udp, &[(0, 5), (0, 511)]), []);
}

#[test]
fn what_the_group_is_made_of_is_told() {
    let mut odd = healthy();
    odd.group.outside = vec![held(9)];
    odd.group.reach = Reach::Behind;
    odd.group.members[0].not_asked = vec![NotAsked::Multicast, NotAsked::Transparent];
    odd.group.members[1].not_asked = vec![NotAsked::Broadcast];
    odd.group.members[1].transparent = true;
    odd.uncounted = Some(Uncounted::NotAttached);
    odd.reads_queues = false;
    let expected = [
        "connected-udp",
        "split",
        "uncounted",
        "queues-unread",
        "multicast",
        "broadcast",
        "tproxy",
        "tproxy",
    ];
    assert_eq!(names_of(&odd, &facts()), expected);
    let connected = Facts { connected: 3, ..facts() };
    let found = circumstances(&healthy(), &connected);
    assert_eq!(found, [Finding::ConnectedUdp { sockets: Vec::new(), connected: 3 }]);
    assert_eq!(found[0].severity(), crate::model::finding::Severity::Advice);
}

#[test]
fn a_policy_that_does_not_suit_the_server_is_told() {
    let pooler = |socket: Member| {
        let holder = crate::model::group::Holder {
            comm: "pgbouncer".to_owned(),
            ..socket.holders[0].clone()
        };
        member(Member { holders: vec![holder], ..socket }, ACTIVE)
    };
    let all = status(OURS, vec![pooler(held(1)), pooler(held(2))]);
    assert_eq!(names_of(&all, &facts()), ["unsuited-policy"]);
}
