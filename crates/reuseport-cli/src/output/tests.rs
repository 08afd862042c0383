//! Output for sample groups, at fixed widths and without colour.

mod cpus;
mod doctor;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use reuseport::group::{Device, GroupKey, Protocol, Reach};
use reuseport::id::{Cookie, Netns};
use reuseport::status::{State, Uncounted};

use super::following::HoldNewView;
use super::view::{
    GroupLine, GroupView, HolderView, Identity, MemberView, OutsideView, PolicyOptionsView,
    Program, ProgramKind, QueueView, state_name,
};
use super::{Reader, ls, show};

const OWN: Netns = Netns { cookie: 1, inode: 4_026_531_840 };
const BLUE: Netns = Netns { cookie: 4097, inode: 4_026_532_200 };

fn reader(width: usize) -> Reader {
    Reader { own_netns: Some(OWN.inode), width: Some(width) }
}

fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

fn identity(protocol: Protocol, address: &str, netns: Netns) -> Identity {
    let address: SocketAddr = address.parse().unwrap();
    let mut key = GroupKey::new(netns, protocol, address);
    (key.v6only, key.uid) = (address.is_ipv6(), 33);
    let blue = (netns == BLUE).then(|| "blue".to_owned());
    let with_netns = format!("{key},netns=blue");
    let identity = Identity::new(&key, blue);
    if netns == BLUE { Identity { with_netns, ..identity } } else { identity }
}

fn program(kind: ProgramKind, name: &str, id: Option<u32>) -> Option<Program> {
    let policy = (kind == ProgramKind::Policy).then_some("round-robin");
    Some(Program { id, name: name.to_owned(), kind, policy, decides: true, standby: 0 })
}

fn holders(pids: impl IntoIterator<Item = u32>, comm: &str, fd: u32) -> Vec<HolderView> {
    let (comm, name) = (comm.to_owned(), comm.to_owned());
    let one =
        HolderView { pid: 0, fd, tid: None, comm, name, server_pid: None, server_started: None };
    pids.into_iter().map(|pid| HolderView { pid, ..one.clone() }).collect()
}

fn line(identity: Identity, program: Option<Program>, members: usize) -> GroupLine {
    let processes = holders(1201..1204, "nginx", 6);
    GroupLine {
        identity,
        reach: Reach::Alone,
        program,
        members,
        unsteered: 0,
        unborrowable: 0,
        pids: processes.iter().map(|h| h.pid).collect(),
        queue: QueueView { waiting: 3, half_open: 1, limit: 1022 },
        queue_full: 0,
        skew: None,
        findings: Vec::new(),
        processes,
    }
}

/// One group of each kind.
fn groups() -> Vec<GroupLine> {
    let ours = GroupLine {
        unsteered: 2,
        skew: Some(0.0125),
        ..line(
            identity(Protocol::Tcp, "127.0.0.1:8080", OWN),
            program(ProgramKind::Policy, "select", Some(42)),
            4,
        )
    };
    let object = line(
        identity(Protocol::Tcp, "[2001:db8:85a3::8a2e:370:7334]:443", OWN),
        program(ProgramKind::Object, "my_select", Some(43)),
        2,
    );
    let foreign = GroupLine {
        queue: QueueView { waiting: 2304, half_open: 0, limit: 425_984 },
        ..line(
            identity(Protocol::Udp, "[::]:443", OWN),
            program(ProgramKind::Foreign, "ngx_quic_reusep", Some(7)),
            2,
        )
    };
    let classic = line(
        identity(Protocol::Tcp, "0.0.0.0:80", OWN),
        program(ProgramKind::Foreign, "", None),
        2,
    );
    let kernel = GroupLine {
        processes: holders(3000..3064, "unbound", 5),
        ..line(identity(Protocol::Udp, "0.0.0.0:53", BLUE), None, 64)
    };
    vec![ours, object, foreign, classic, kernel]
}

fn member(slot: Option<u16>, state: State, cookie: u64, picks: u64) -> MemberView {
    let enrolled = |number: u64| slot.map(|_| number);
    MemberView {
        slot,
        state: slot.map(|_| state_name(state)),
        generation: slot.map(|_| 0),
        weight: slot.map(|_| 1),
        cookie: Some(cookie),
        holders: holders(1201..1204, "nginx", 6 + u32::from(slot.unwrap_or(9))),
        unsteered_because: slot.is_none().then_some("joined-later"),
        owner: slot.map(|slot| 1202 + u32::from(slot)),
        queue: QueueView { waiting: 0, half_open: 0, limit: 511 },
        open: enrolled(picks % 7),
        picks: enrolled(picks),
        recent_picks: enrolled(picks),
        share: slot.map(|_| picks as f64 / 225.0),
        weight_share: slot.map(|_| if state == State::Active { 0.5 } else { 0.0 }),
        ..MemberView::default()
    }
}

fn ours() -> GroupView {
    GroupView {
        identity: identity(Protocol::Tcp, "127.0.0.1:8080", OWN),
        reach: Reach::Alone,
        policy: Some("round-robin"),
        policy_options: None,
        sticky: Some("none"),
        program: program(ProgramKind::Policy, "select", Some(42)),
        unsteered: 1,
        unborrowable: 0,
        outside: Vec::new(),
        not_asked: Vec::new(),
        uncounted: None,
        serving_generation: Some(0),
        trial: None,
        hold_new: HoldNewView::default(),
        watcher: None,
        skew: Some(0.0),
        members: vec![
            member(Some(0), State::Active, 12_345, 100),
            member(Some(1), State::Active, 12_346, 100),
            member(Some(2), State::Draining, 12_347, 25),
            member(None, State::Active, 12_399, 0),
        ],
        cpus_without_member: Vec::new(),
        counters: BTreeMap::from([("picks", 225), ("stray", 3), ("fallback_kernel", 0)]),
        findings: Vec::new(),
    }
}

/// A group with only the kernel's information.
fn foreign() -> GroupView {
    let mut identity = identity(Protocol::Udp, "[fe80::1]:53", BLUE);
    identity.device = Some(super::view::DeviceView { index: 2, name: Some("eth0".to_owned()) });
    GroupView {
        identity,
        reach: Reach::Alone,
        policy: None,
        policy_options: None,
        sticky: None,
        program: program(ProgramKind::Foreign, "quic", Some(9)),
        unsteered: 0,
        unborrowable: 0,
        outside: Vec::new(),
        not_asked: Vec::new(),
        uncounted: None,
        serving_generation: None,
        trial: None,
        hold_new: HoldNewView::default(),
        watcher: None,
        skew: None,
        members: (0..2)
            .map(|n| MemberView {
                cookie: Some(77 + n),
                holders: holders(5000..5040, "unbound", 5),
                queue: QueueView { waiting: 212_992, half_open: 0, limit: 212_992 },
                full: true,
                ..MemberView::default()
            })
            .collect(),
        cpus_without_member: Vec::new(),
        counters: BTreeMap::new(),
        findings: Vec::new(),
    }
}

#[test]
fn ls_wide() {
    insta::assert_snapshot!(plain(&ls(&groups(), &reader(140))));
}

#[test]
fn ls_80_columns() {
    insta::assert_snapshot!(plain(&ls(&groups(), &reader(80))));
}

#[test]
fn ls_of_one_namespace_needs_no_column_for_it() {
    insta::assert_snapshot!(plain(&ls(&groups()[..1], &reader(100))));
}

#[test]
fn ls_without_a_terminal_shortens_nothing() {
    let text = plain(&ls(&groups(), &Reader { own_netns: Some(OWN.inode), width: None }));
    assert!(text.contains("3062,3063"), "{text}");
}

#[test]
fn ls_empty() {
    insta::assert_snapshot!(plain(&ls(&[], &reader(80))));
}

#[test]
fn ls_json() {
    insta::assert_json_snapshot!(groups());
}

#[test]
fn show_wide() {
    insta::assert_snapshot!(plain(&show(&ours(), &reader(120))));
}

#[test]
fn show_80_columns() {
    insta::assert_snapshot!(plain(&show(&ours(), &reader(80))));
}

/// The same with least-loaded and with CPUs, a combination that no policy has, to test the columns.
fn least_loaded() -> GroupView {
    let mut group = ours();
    let load = vec!["queue", "open"];
    group.policy = Some("least-loaded");
    group.policy_options = Some(PolicyOptionsView::LeastLoaded { load, max_share: 1.5 });
    if let Some(program) = &mut group.program {
        program.policy = group.policy;
    }
    group.members[0].cpu = Some(3);
    group
}

#[test]
fn show_with_options_and_cpus() {
    insta::assert_snapshot!(plain(&show(&least_loaded(), &reader(140))));
    insta::assert_json_snapshot!(GroupView { members: Vec::new(), ..least_loaded() });
}

/// Members that cannot be enrolled, each with its reason, and a socket that is in no group.
fn faulty() -> GroupView {
    let without = |reason, mptcp, holders: bool| {
        let view = member(None, State::Active, 12_400, 0);
        let holders = if holders { view.holders.clone() } else { Vec::new() };
        MemberView { unsteered_because: Some(reason), mptcp, holders, ..view }
    };
    let mut group = ours();
    let unnamed = MemberView { cookie: None, ..without("no-holder", false, false) };
    group.members.extend([without("mptcp", true, true), unnamed]);
    group.outside =
        vec![OutsideView { cookie: Some(9), holders: group.members[0].holders.clone() }];
    GroupView { unsteered: 3, unborrowable: 2, ..group }
}

#[test]
fn show_members_that_cannot_be_enrolled() {
    insta::assert_snapshot!(plain(&show(&faulty(), &reader(80))));
    let json = serde_json::to_value(faulty()).unwrap();
    assert_eq!(json["members"][5]["cookie"], serde_json::Value::Null);
    assert_eq!(json["members"][5]["unsteered_because"], "no-holder");
    assert_eq!(json["outside"][0]["cookie"], 9);
    let line = GroupLine { unsteered: 3, unborrowable: 2, ..groups().remove(0) };
    insta::assert_snapshot!("ls_unborrowable", plain(&ls(&[line], &reader(80))));
}

/// Two groups of one name.
#[test]
fn groups_of_one_name() {
    let of = |n, reach| {
        let mut line = groups().remove(0);
        let address = "127.0.0.1:8080".parse().unwrap();
        let mut key = GroupKey::new(OWN, Protocol::Udp, address);
        (key.uid, key.of) = (33, Cookie::new(n));
        (line.identity, line.reach, line.unsteered) = (Identity::new(&key, None), reach, 0);
        line
    };
    let groups = [of(12_345, Reach::Behind), of(12_399, Reach::First), of(7, Reach::Unknown)];
    insta::assert_snapshot!(plain(&ls(&groups, &reader(80))));
    let words: Vec<_> =
        groups.iter().map(|g| serde_json::to_value(g).unwrap()["split"].clone()).collect();
    assert_eq!(words, ["behind", "first", "unknown"]);
}

#[test]
fn show_foreign() {
    insta::assert_snapshot!(plain(&show(&foreign(), &reader(80))));
}

#[test]
fn show_elsewhere() {
    let mut group = GroupView { policy: None, policy_options: None, ..foreign() };
    if let Some(program) = &mut group.program {
        (program.kind, program.policy) = (ProgramKind::Elsewhere, Some("round-robin"));
    }
    insta::assert_snapshot!(plain(&show(&group, &reader(80))));
}

/// A program that `detach` left behind, and one whose members have all gone.
#[test]
fn programs_that_decide_nothing() {
    let emptied = |kind, policy| Program {
        kind,
        policy: Some(policy),
        decides: false,
        ..program(kind, "reuseport", Some(7)).unwrap()
    };
    let left = emptied(ProgramKind::Elsewhere, "round-robin");
    let group =
        GroupView { program: Some(left.clone()), policy: None, policy_options: None, ..foreign() };
    let left_line = GroupLine { program: Some(left), ..groups().remove(2) };
    let elsewhere = Program {
        kind: ProgramKind::Elsewhere,
        decides: true,
        ..emptied(ProgramKind::Elsewhere, "least-loaded")
    };
    let elsewhere = GroupLine { program: Some(elsewhere), unsteered: 0, ..groups().remove(1) };
    let mut mptcp = faulty();
    mptcp.program = Some(emptied(ProgramKind::Policy, "round-robin"));
    mptcp.members.drain(..4);
    mptcp.outside.clear();
    let mptcp = GroupView { unsteered: 0, ..mptcp };
    let line = GroupLine {
        program: mptcp.program.clone(),
        members: 2,
        unsteered: 0,
        unborrowable: 2,
        ..groups().remove(0)
    };
    let joined = GroupLine {
        unborrowable: 0,
        identity: identity(Protocol::Tcp, "127.0.0.1:81", OWN),
        ..line.clone()
    };
    let texts = [
        show(&group, &reader(80)),
        show(&mptcp, &reader(80)),
        ls(&[left_line, line, joined, elsewhere, groups().remove(4)], &reader(80)),
    ];
    for text in &texts {
        assert!(plain(text).lines().all(|line| line.chars().count() <= 80), "{}", plain(text));
    }
    insta::assert_snapshot!(plain(&texts.concat()));
}

#[test]
fn members_on_standby_are_members() {
    let notes = |joined: usize| {
        let mut group = GroupView { unsteered: 0, ..ours() };
        group.members = (0..2).map(|n| member(Some(n), State::Standby, n.into(), 0)).collect();
        group.members.extend((0..joined).map(|n| member(None, State::Active, 9 + n as u64, 0)));
        let program = program(ProgramKind::Policy, "reuseport", Some(7)).unwrap();
        group.program = Some(Program { decides: false, standby: 2, ..program });
        let line = GroupLine {
            program: group.program.clone(),
            members: group.members.len(),
            unsteered: 0,
            ..groups().remove(0)
        };
        let (show, ls) = (plain(&show(&group, &reader(200))), plain(&ls(&[line], &reader(200))));
        assert!(ls.contains("kernel hash (standby)"), "{ls}");
        let last = |text: &str| text.lines().last().unwrap().to_owned();
        assert_eq!(last(&show), last(&ls));
        last(&show)
    };
    let only = "the program of tcp:127.0.0.1:8080 has only members on standby: \
                the kernel's hash decides; ";
    assert_eq!(notes(0), format!("{only}until one is made active"));
    let add = "1 socket can be given a slot: `reuseport attach tcp:127.0.0.1:8080` adds it";
    assert_eq!(notes(1), format!("{only}{add}"));
}

#[test]
fn show_uncounted() {
    let show = |why, columns| {
        let group = GroupView { uncounted: Some(why), ..ours() };
        let text = plain(&show(&group, &reader(columns)));
        text[text.find("open connections").unwrap()..].to_owned()
    };
    let texts = [
        show(Uncounted::NotAttached, 140),
        show(Uncounted::LayerReplaced, 80),
        show(Uncounted::Unreadable, 80),
    ];
    insta::assert_snapshot!(texts.concat());
}

#[test]
fn show_empty() {
    let empty = GroupView { members: vec![], unsteered: 0, ..foreign() };
    insta::assert_snapshot!(plain(&show(&empty, &reader(80))));
}

#[test]
fn show_json() {
    insta::assert_json_snapshot!(ours());
}

#[test]
fn show_json_foreign() {
    insta::assert_json_snapshot!(GroupView {
        members: foreign().members[..1].to_vec(),
        ..foreign()
    });
}

#[test]
fn the_remedy_for_another_namespace_names_it() {
    let group = GroupLine { unsteered: 1, ..groups().remove(4) };
    let text = plain(&ls(&[group], &reader(200)));
    let last = text.lines().last().unwrap();
    assert_eq!(
        last,
        "1 socket of udp:0.0.0.0:53 joined after `attach` and gets nothing; \
         `reuseport attach udp:0.0.0.0:53,netns=blue` adds it"
    );
}

#[test]
fn a_device_is_in_the_json_by_index_and_name() {
    let device = Some(Device { index: 2, name: Some("eth0".to_owned()) });
    let mut key = GroupKey::new(OWN, Protocol::Tcp, "0.0.0.0:80".parse().unwrap());
    key.device = device;
    let json = serde_json::to_value(Identity::new(&key, None)).unwrap();
    assert_eq!(json["group"], "tcp:0.0.0.0%eth0:80");
    assert_eq!(json["device"], serde_json::json!({"index": 2, "name": "eth0"}));
    assert_eq!(json["netns"], 4_026_531_840_u32);
}

#[test]
fn nothing_is_wider_than_80_columns() {
    let mut reloaded = ours();
    reloaded.members[2].generation = Some(1);
    reloaded.members[0].weight = Some(1000);
    let texts = [
        ls(&groups(), &reader(80)),
        show(&ours(), &reader(80)),
        show(&reloaded, &reader(80)),
        show(&least_loaded(), &reader(80)),
        show(&faulty(), &reader(80)),
        show(&foreign(), &reader(80)),
    ];
    for text in texts.map(|text| plain(&text)) {
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}

#[test]
fn a_member_is_one_line_at_80_columns_and_its_generation_is_there_if_there_are_several() {
    let members = |group: &GroupView| {
        let text = plain(&show(group, &reader(80)));
        let table: Vec<String> =
            text.lines().skip_while(|l| !l.is_empty()).map(str::to_owned).collect();
        let title = table[1].clone();
        (title, table[2..].iter().filter(|line| line.contains("nginx")).count())
    };
    let (title, lines) = members(&ours());
    assert!(!title.contains("GEN") && title.ends_with("HELD BY"), "{title}");
    assert_eq!(lines, 4);
    let mut reloaded = ours();
    reloaded.members[2].generation = Some(1);
    let (title, lines) = members(&reloaded);
    assert!(title.contains("GEN") && title.ends_with("HELD BY"), "{title}");
    assert_eq!(lines, 4);
}

#[test]
fn ls_says_that_the_queue_of_one_member_is_full_which_the_sum_hides() {
    let group = |full| {
        let queue = QueueView { waiting: 17, half_open: 0, limit: 256 };
        GroupLine { queue, queue_full: full, ..groups().remove(0) }
    };
    let queue = |full| plain(&ls(&[group(full)], &reader(140)));
    assert!(queue(0).contains(" 17/256  "), "{}", queue(0));
    assert!(queue(1).contains(" 17/256, 1 full  "), "{}", queue(1));
    assert_eq!(serde_json::to_value(group(1)).unwrap()["queue_full"], 1);
}
