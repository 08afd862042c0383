//! Parsing of names, and the groups that they choose.

use proptest::prelude::*;

use super::*;
use crate::error::Result;
use crate::model::group::{Device, Holder, Member, examples};
use crate::model::id::Netns;
use crate::model::split::{Claim, tell_apart};

fn spec(text: &str) -> GroupSpec {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn problem(text: &str) -> SpecProblem {
    text.parse::<GroupSpec>().expect_err(text).problem
}

/// A group on this address, in the network namespace with this cookie.
fn key(protocol: Protocol, address: &str, netns: u64) -> GroupKey {
    let inode = 4_026_531_840 + netns as u32;
    GroupKey { netns: Netns { cookie: netns, inode }, ..examples::key(protocol, address) }
}

fn tcp(address: &str) -> GroupKey {
    key(Protocol::Tcp, address, 1)
}

fn on_device(mut key: GroupKey, index: u32, name: Option<&str>) -> GroupKey {
    key.device = Some(Device { index, name: name.map(str::to_owned) });
    key
}

fn group(key: &GroupKey) -> Group {
    examples::group(key.clone(), Vec::new())
}

fn groups(keys: &[GroupKey]) -> Vec<Group> {
    keys.iter().map(group).collect()
}

/// Whether the name matches a group with this key.
fn is(name: &str, key: &GroupKey) -> bool {
    spec(name).matches(&group(key))
}

#[test]
fn names_are_shown_as_typed() {
    for text in [
        "tcp:127.0.0.1:8080",
        "udp:[::]:53",
        "tcp:*:80",
        "tcp:0.0.0.0%eth0:80",
        "tcp:[::]%eth0.100:80",
        "tcp:*%7:80",
        "tcp:%eth0:80",
        "tcp::8080",
        "127.0.0.1:8080",
        "[::ffff:1.2.3.4]:1",
        "*:80",
        "%eth0:80",
        ":8080",
        ":8080,of=cookie:18446744073709551615",
        "udp:*%a,b:53,of=pid:1",
    ] {
        assert_eq!(spec(text).to_string(), text);
    }
    assert_eq!(spec("TCP:[fe80:0::1%eth0]:080").to_string(), "tcp:[fe80::1]%eth0:80");
}

#[test]
fn each_mistake_has_its_message() {
    use SpecProblem as P;
    let word = str::to_owned;
    for (text, expected) in [
        ("", P::Empty),
        ("8080", P::PortAlone(word(":8080"))),
        ("tcp:8080", P::PortAlone(word("tcp::8080"))),
        ("80800", P::Port(word("80800"))),
        ("sctp:127.0.0.1:80", P::Protocol(word("sctp"))),
        ("http://127.0.0.1:80", P::Protocol(word("http"))),
        ("tcp://127.0.0.1:80", P::Slashes),
        ("127.0.0.1", P::NoPort),
        ("tcp:", P::NoPort),
        ("tcp", P::NoPort),
        (":", P::NoPort),
        ("tcp:[::1]", P::NoPort),
        ("[::]:", P::NoPort),
        (":0", P::Port(word("0"))),
        (":+80", P::Port(word("+80"))),
        (":65536", P::Port(word("65536"))),
        (":http", P::Port(word("http"))),
        (":80 ", P::Port(word("80 "))),
        ("::1:80", P::NoBrackets),
        ("fe80::1:80", P::NoBrackets),
        ("tcp:::80", P::NoBrackets),
        ("[127.0.0.1]:80", P::Brackets),
        ("[::1:80", P::Brackets),
        ("[::1]x:80", P::Brackets),
        ("[]:80", P::Brackets),
        ("localhost:80", P::Address(word("localhost"))),
        ("tcp:localhost:80", P::Address(word("localhost"))),
        ("127.0.0:80", P::Address(word("127.0.0"))),
        (" :80", P::Address(word(" "))),
        ("*%:80", P::Device(word(""))),
        ("*%sixteen-letters-:80", P::Device(word("sixteen-letters-"))),
        ("*%a/b:80", P::Device(word("a/b"))),
        ("[fe80::1%eth0]%eth0:80", P::TwoDevices),
        (":80,of=cookie:0", P::Member(word("of=cookie:0"))),
        (":80,of=pid:+1", P::Member(word("of=pid:+1"))),
        (":80,of=pid:4294967296", P::Member(word("of=pid:4294967296"))),
        (":80,of=7", P::Member(word("of=7"))),
        (":80,of=slot:1", P::Member(word("of=slot:1"))),
        (":80,uid=0", P::Member(word("uid=0"))),
        (":80,of=pid:1,of=cookie:2", P::TwoMembers),
        (":80,of", P::Port(word("80,of"))),
        (",of=cookie:1", P::NoPort),
    ] {
        assert_eq!(problem(text), expected, "{text}");
    }
}

#[test]
fn mistakes_are_shown_with_a_remedy_and_without_control_characters() {
    let error = |text: &str| text.parse::<GroupSpec>().unwrap_err().to_string();
    assert_eq!(
        error("8080"),
        "`8080` does not name a group: a port alone is written with a colon, as in `:8080`"
    );
    assert_eq!(
        error("localhost:80"),
        "`localhost:80` does not name a group: `localhost` is not an address; write it in numbers \
         (127.0.0.1, [::1]), * for a wildcard, or nothing for any"
    );
    assert!(!error("\u{1b}[2J:80").contains('\u{1b}'));
    let as_error = Error::from("8080".parse::<GroupSpec>().unwrap_err());
    assert_eq!(as_error.kind(), ErrorKind::Invalid);
}

#[test]
fn a_part_that_is_left_out_matches_anything() {
    let loopback = tcp("127.0.0.1:80");
    for name in ["tcp:127.0.0.1:80", "127.0.0.1:80", "tcp::80", ":80"] {
        assert!(is(name, &loopback), "{name}");
    }
    for name in ["udp:127.0.0.1:80", "127.0.0.2:80", "*:80", ":81", "127.0.0.1%lo:80", "[::1]:80"] {
        assert!(!is(name, &loopback), "{name}");
    }
}

#[test]
fn a_star_matches_both_wildcards_and_an_address_is_literal() {
    let (v4, v6) = (tcp("0.0.0.0:80"), tcp("[::]:80"));
    assert!(is("tcp:*:80", &v4) && is("tcp:*:80", &v6));
    assert!(is("tcp:0.0.0.0:80", &v4) && !is("tcp:0.0.0.0:80", &v6));
    assert!(is("[::]:80", &v6) && !is("[::]:80", &v4));
    assert!(!is("tcp:1.2.3.4:80", &v6));
    assert!(!is("tcp:1.2.3.4:80", &tcp("[::ffff:1.2.3.4]:80")));
    assert!(is("tcp:[::ffff:1.2.3.4]:80", &tcp("[::ffff:1.2.3.4]:80")));
}

#[test]
fn a_device_matches_by_name_or_index() {
    let named = on_device(tcp("0.0.0.0:80"), 3, Some("eth0"));
    let unnamed = on_device(tcp("0.0.0.0:80"), 3, None);
    assert!(is("*%eth0:80", &named) && is("%3:80", &named));
    assert!(is("*%3:80", &unnamed) && !is("*%eth0:80", &unnamed));
    assert!(!is("*%eth1:80", &named) && !is("*%eth0:80", &tcp("0.0.0.0:80")));
}

/// The name of the chosen group, or the error.
fn choose(name: &str, keys: &[GroupKey], prefer: Option<u64>) -> Result<(String, u64)> {
    let groups = groups(keys);
    let group = spec(name).choose(&groups, prefer)?;
    Ok((group.key.to_string(), group.key.netns.cookie))
}

#[test]
fn one_match_is_chosen_wherever_it_is() {
    let keys = [tcp("127.0.0.1:80"), tcp("127.0.0.1:81")];
    assert_eq!(choose(":80", &keys, None).unwrap(), ("tcp:127.0.0.1:80".to_owned(), 1));
    assert_eq!(choose(":80", &keys, Some(99)).unwrap(), ("tcp:127.0.0.1:80".to_owned(), 1));
}

#[test]
fn the_preferred_network_namespace_breaks_ties() {
    let keys = [
        key(Protocol::Tcp, "127.0.0.1:80", 1),
        key(Protocol::Tcp, "127.0.0.1:80", 2),
        key(Protocol::Udp, "127.0.0.1:80", 2),
    ];
    assert_eq!(choose(":80", &keys, Some(1)).unwrap().1, 1);
    assert_eq!(choose("tcp::80", &keys, Some(2)).unwrap().1, 2);
    assert_eq!(choose("udp::80", &keys, Some(1)).unwrap().1, 2);

    let error = choose(":80", &keys, Some(2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Ambiguous);
    assert_eq!(
        error.report().to_string(),
        "`:80` matches 3 groups: tcp:127.0.0.1:80 (netns 4026531842), udp:127.0.0.1:80 (netns \
         4026531842) and tcp:127.0.0.1:80 (netns 4026531841); write the full address, or choose a \
         network namespace with `--netns`"
    );
    let error = choose("tcp::80", &keys, None).unwrap_err();
    assert_eq!(error.hint(), Some(&"choose a network namespace with `--netns`".into()));
}

#[test]
fn an_error_lists_at_most_five_candidates() {
    let keys: Vec<GroupKey> = (1..=8).map(|i| tcp(&format!("127.0.0.{i}:80"))).collect();
    let error = choose(":80", &keys, None).unwrap_err();
    assert_eq!(error.hint(), Some(&"write the full address".into()));
    assert!(
        error.report().to_string().contains("127.0.0.5:80 (netns 4026531841) and 3 more; "),
        "{error}"
    );
    assert!(!error.report().to_string().contains("127.0.0.6"));
}

#[test]
fn a_group_on_no_device_can_be_named_next_to_one_on_a_device() {
    let keys = [on_device(tcp("0.0.0.0:80"), 2, Some("eth0")), tcp("0.0.0.0:80")];
    assert_eq!(choose("tcp:0.0.0.0:80", &keys, None).unwrap().0, "tcp:0.0.0.0:80");
    assert_eq!(choose("tcp:0.0.0.0%eth0:80", &keys, None).unwrap().0, "tcp:0.0.0.0%eth0:80");
    assert_eq!(choose("tcp:*:80", &keys, None).unwrap_err().kind(), ErrorKind::Ambiguous);
}

#[test]
fn an_error_lists_the_groups_on_the_same_port() {
    let mut keys = vec![tcp("0.0.0.0:80"), tcp("0.0.0.0:443")];
    keys.push(key(Protocol::Tcp, "0.0.0.0:80", 2));
    let error = choose("udp:0.0.0.0:80", &keys, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        error.report().to_string(),
        "no group matches `udp:0.0.0.0:80`, but on port 80 there is tcp:0.0.0.0:80; `reuseport ls` \
         shows every group"
    );
    keys.extend((1..=3).map(|i| key(Protocol::Udp, &format!("127.0.0.{i}:80"), 1)));
    let error = choose("tcp:127.0.0.1:80", &keys, None).unwrap_err().report().to_string();
    assert!(error.contains("udp:127.0.0.1:80, udp:127.0.0.2:80 and 1 more; "), "{error}");
    assert_eq!(
        choose(":1", &keys, None).unwrap_err().report().to_string(),
        "no group matches `:1`; `reuseport ls` shows every group"
    );
}

fn member(cookie: u64, pid: u32) -> Member {
    let holder = Holder { pid, fd: 3, comm: "a".into(), thread: None, origin: None };
    Member { holders: vec![holder], ..examples::member(Protocol::Udp, cookie) }
}

/// Groups of one name: one with two members, and one that the kernel finds first.
fn split() -> Vec<Group> {
    let with = |members: &[(u64, u32)]| {
        let mut group = group(&key(Protocol::Udp, "127.0.0.1:53", 1));
        group.members = members.iter().map(|(cookie, pid)| member(*cookie, *pid)).collect();
        group
    };
    tell_apart(vec![(with(&[(5, 100), (6, 101)]), Some(2)), (with(&[(9, 101)]), Some(1))])
}

#[test]
fn groups_of_one_name_are_named_by_a_member() {
    let groups = split();
    for (name, expected) in [
        ("udp:127.0.0.1:53,of=cookie:6", 0),
        ("udp:127.0.0.1:53,of=cookie:9", 1),
        (":53,of=cookie:9", 1),
        (":53,of=pid:100", 0),
        (&groups[0].key.to_string(), 0),
    ] {
        assert_eq!(spec(name).choose(&groups, Some(1)).unwrap(), &groups[expected], "{name}");
    }
    // A process that holds members of both.
    let both = spec(":53,of=pid:101").choose(&groups, Some(1)).unwrap_err();
    assert_eq!(both.kind(), ErrorKind::Ambiguous);
    let none = spec(":53,of=cookie:7").choose(&groups, Some(1)).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotFound);
    assert!(none.to_string().contains("udp:127.0.0.1:53,of=cookie:9"), "{none}");
    let elsewhere = spec("tcp::53,of=cookie:9").choose(&groups, Some(1)).unwrap_err();
    assert_eq!(elsewhere.kind(), ErrorKind::NotFound);
}

#[test]
fn an_error_about_groups_of_one_name_says_how_each_is_written() {
    let groups = split();
    let error = spec(":53").choose(&groups, Some(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Ambiguous);
    assert_eq!(
        error.report().to_string(),
        "`:53` matches 2 groups udp:127.0.0.1:53 (netns 4026531841); name one of them: \
         udp:127.0.0.1:53,of=cookie:5 (2 members, gets nothing new) or \
         udp:127.0.0.1:53,of=cookie:9 (1 member, gets the traffic)"
    );
}

#[test]
fn groups_of_two_users_are_told_apart_by_their_members() {
    let of = |uid, cookie| {
        let mut group = group(&GroupKey { uid, ..key(Protocol::Udp, "127.0.0.1:53", 1) });
        group.members.push(member(cookie, 1));
        (group, Some(0))
    };
    let groups = tell_apart(vec![of(0, 5), of(33, 9)]);
    let error = spec("udp:127.0.0.1:53").choose(&groups, None).unwrap_err();
    let hint = error.hint().unwrap().to_string();
    assert_eq!(
        hint,
        "name one of them: udp:127.0.0.1:53,of=cookie:5 (1 member, uid 0) or \
         udp:127.0.0.1:53,of=cookie:9 (1 member, uid 33)"
    );
    assert_eq!(spec("udp::53,of=cookie:9").choose(&groups, None).unwrap().key.uid, 33);
}

#[test]
fn of_groups_of_one_name_the_one_with_the_state_is_preferred() {
    let groups = split();
    let choose = |name: &str, claims: [Claim; 2]| {
        let claim = |group: &Group| claims[usize::from(*group == groups[1])];
        spec(name).choose_with(&groups, Some(1), claim).cloned()
    };
    assert_eq!(choose(":53", [Claim::Program, Claim::None]).unwrap(), groups[0]);
    assert_eq!(choose(":53", [Claim::Members(3), Claim::Program]).unwrap(), groups[1]);
    // A member that is named goes before.
    let other = choose(":53,of=cookie:9", [Claim::Program, Claim::None]).unwrap();
    assert_eq!(other, groups[1]);
    for claims in [[Claim::None; 2], [Claim::Program; 2]] {
        assert_eq!(choose(":53", claims).unwrap_err().kind(), ErrorKind::Ambiguous);
    }
}

fn any_key() -> impl Strategy<Value = GroupKey> {
    let device = (1..100_u32, prop::option::of("[a-z0-9._-]{1,15}"))
        .prop_map(|(index, name)| Device { index, name });
    let ip = prop_oneof![
        any::<IpAddr>(),
        Just(IpAddr::from(Ipv4Addr::UNSPECIFIED)),
        Just(IpAddr::from(Ipv6Addr::UNSPECIFIED)),
    ];
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    let of = prop::option::of(any::<u64>().prop_map(|n| Cookie::new(n | 1).unwrap()));
    (protocol, ip, 1..=u16::MAX, prop::option::of(device), of).prop_map(
        |(protocol, ip, port, device, of)| GroupKey {
            address: (ip, port).into(),
            device,
            of,
            ..key(protocol, "0.0.0.0:1", 1)
        },
    )
}

fn any_spec() -> impl Strategy<Value = GroupSpec> {
    (any_key(), any::<bool>(), 0..3).prop_map(|(key, with_protocol, host)| GroupSpec {
        protocol: with_protocol.then_some(key.protocol),
        host: [Host::Any, Host::Wildcard, Host::Ip(key.address.ip())][host as usize],
        device: key.device.and_then(|device| device.name),
        port: key.address.port(),
        of: key.of.map(MemberOf::Cookie),
    })
}

proptest! {
    #[test]
    fn every_name_parses_back(spec in any_spec()) {
        prop_assert_eq!(spec.to_string().parse(), Ok(spec));
    }

    #[test]
    fn the_name_of_each_group_matches_it(key in any_key()) {
        let spec = key.to_string().parse::<GroupSpec>().unwrap();
        let mut group = group(&key);
        group.members.extend(key.of.map(|cookie| member(cookie.get(), 1)));
        prop_assert!(spec.matches(&group));
        prop_assert_eq!(spec.to_string(), key.to_string());
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".*") {
        if let Err(error) = text.parse::<GroupSpec>() {
            prop_assert!(error.to_string().chars().all(|c| !c.is_control()));
        }
    }

    #[test]
    fn nearly_valid_texts_parse_back_or_are_refused(
        text in "(tcp:|udp:|sctp:)?[\\[\\]:%*.0-9a-f]{0,20}(%eth0)?:[0-9]{1,6}",
    ) {
        if let Ok(spec) = text.parse::<GroupSpec>() {
            prop_assert_eq!(spec.to_string().parse(), Ok(spec));
        }
    }
}
