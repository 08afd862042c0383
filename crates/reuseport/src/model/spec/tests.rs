//! Parsing of names, what they match, and properties of all names.

mod choosing;

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use choosing::{choose, member};

use super::*;
use crate::error::{Error, ErrorKind};
use crate::model::group::{Device, Holder, Member, examples};
use crate::model::id::Netns;
use crate::model::split::tell_apart;

fn spec(text: &str) -> GroupSpec {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn problem(text: &str) -> SpecProblem {
    text.parse::<GroupSpec>().expect_err(text).problem().clone()
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
        "udp:127.0.0.1:53,uid=4294967295",
        "tcp:[::]:80,v6only",
        ":80,netns=blue",
        "tcp:*%a,v6only:80,v6only,uid=0,netns=4026531840,of=pid:7",
        "udp:*%a,b:53,of=pid:1",
    ] {
        assert_eq!(spec(text).to_string(), text);
    }
    assert_eq!(spec("TCP:[fe80:0::1%eth0]:080").to_string(), "tcp:[fe80::1]%eth0:80");
    assert_eq!(spec("tcp:[::]:80,of=pid:1,dev=eth0").to_string(), "tcp:[::]%eth0:80,of=pid:1");
    assert_eq!(spec(":80,netns=b,uid=1,v6only").to_string(), ":80,v6only,uid=1,netns=b");
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
        ("*%eth0:80,dev=eth1", P::TwoDevices),
        (":80,dev=eth0,dev=eth0", P::TwoDevices),
        (":80,dev=", P::Device(word(""))),
        (":80,of=cookie:0", P::Member(word("cookie:0"))),
        (":80,of=pid:+1", P::Member(word("pid:+1"))),
        (":80,of=pid:4294967296", P::Member(word("pid:4294967296"))),
        (":80,of=7", P::Member(word("7"))),
        (":80,of=slot:1", P::Member(word("slot:1"))),
        (":80,of=pid:1,of=cookie:2", P::TwoMembers),
        (":80,uid=root", P::User(word("root"))),
        (":80,uid=-1", P::User(word("-1"))),
        (":80,uid=4294967296", P::User(word("4294967296"))),
        (":80,uid=1,uid=1", P::Twice("uid")),
        (":80,v6only,v6only", P::Twice("v6only")),
        (":80,netns=a,netns=b", P::Twice("netns")),
        (":80,netns=", P::Netns(word(""))),
        (":80,netns=a/b", P::Netns(word("a/b"))),
        (":80,v6", P::Unknown(word("v6"))),
        (":80,", P::Unknown(word(""))),
        (":80,v6only=1", P::Unknown(word("v6only=1"))),
        (":80,comm=nginx", P::Unknown(word("comm=nginx"))),
        (":80,of", P::Unknown(word("of"))),
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
}

#[test]
fn an_ipv4_address_and_the_same_mapped_to_ipv6_find_each_other() {
    let (v4, mapped) = (tcp("1.2.3.4:80"), tcp("[::ffff:1.2.3.4]:80"));
    let names = ["tcp:1.2.3.4:80", "tcp:[::ffff:1.2.3.4]:80"];
    for (key, name) in [&v4, &mapped].into_iter().flat_map(|key| names.map(|name| (key, name))) {
        assert!(is(name, key), "{name}");
        assert_eq!(choose(name, std::slice::from_ref(key), None).unwrap().0, key.to_string());
    }
    // The one that is written so, if both are there.
    for name in names {
        assert_eq!(choose(name, &[v4.clone(), mapped.clone()], None).unwrap().0, name);
    }
    assert!(!is("tcp:[::1.2.3.4]:80", &v4));
}

#[test]
fn parts_after_the_port_match_the_user_the_namespace_and_v6only() {
    let mut one = GroupKey { v6only: true, uid: 33, ..tcp("[::]:80") };
    one.written.netns_name = Some("blue".into());
    for name in [":80,uid=33", ":80,v6only", ":80,netns=blue", ":80,netns=4026531841"] {
        assert!(is(name, &one), "{name}");
    }
    for name in [":80,uid=3", ":80,netns=red", ":80,netns=1", ":80,uid=33,netns=red"] {
        assert!(!is(name, &one), "{name}");
    }
    assert!(!is(":80,v6only", &tcp("[::]:80")));
    // Where the caller knows what a name means.
    let red = spec(":80").in_netns("red", 4_026_531_841);
    assert!(red.matches(&group(&one)));
    assert_eq!((red.to_string().as_str(), red.netns()), (":80,netns=red", Some("red")));
}

#[test]
fn a_device_matches_by_name_or_index() {
    let named = on_device(tcp("0.0.0.0:80"), 3, Some("eth0"));
    let unnamed = on_device(tcp("0.0.0.0:80"), 3, None);
    assert!(is("*%eth0:80", &named) && is("%3:80", &named));
    assert!(is("*%3:80", &unnamed) && !is("*%eth0:80", &unnamed));
    assert!(!is("*%eth1:80", &named) && !is("*%eth0:80", &tcp("0.0.0.0:80")));
    // A device whose name is the index of another one.
    let number = on_device(tcp("0.0.0.0:80"), 7, Some("3"));
    assert!(!is("*%3:80", &number) && is("*%7:80", &number));
}

#[test]
fn a_device_whose_name_cannot_be_typed_is_written_by_its_index() {
    let text = |name| on_device(tcp("0.0.0.0:80"), 7, Some(name)).to_string();
    assert_eq!(text("br-1.lan_0"), "tcp:0.0.0.0%br-1.lan_0:80");
    for name in ["3", "", "a,b", "`id`", "$x", "a;b", "\x1b[2J", "é"] {
        assert_eq!(text(name), "tcp:0.0.0.0%7:80", "{name:?}");
    }
}

#[test]
fn a_device_is_the_same_whatever_its_name() {
    let keys = [Some("eth0"), Some("wan"), None].map(|name| on_device(tcp("0.0.0.0:80"), 7, name));
    assert!(keys.iter().all(|key| *key == keys[0] && key.has_name_of(&keys[0])));
    assert_eq!(HashSet::from(keys.clone()).len(), 1);
    let other = on_device(tcp("0.0.0.0:80"), 8, Some("eth0"));
    assert!(other != keys[0] && !other.has_name_of(&keys[0]));
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
    let netns = prop::option::of("[a-z0-9._-]{1,9}");
    let parts = (any::<bool>(), prop::option::of(any::<u32>()), netns);
    (any_key(), any::<bool>(), 0..3, parts).prop_map(|(key, with_protocol, host, parts)| {
        GroupSpec {
            protocol: with_protocol.then_some(key.protocol),
            host: [Host::Any, Host::Wildcard, Host::Ip(key.address.ip())][host as usize],
            device: key.device.and_then(|device| device.name),
            port: key.address.port(),
            v6only: parts.0,
            uid: parts.1,
            netns: parts.2.map(|text| NetnsName { text, inode: None }),
            of: key.of.map(MemberOf::Cookie),
        }
    })
}

/// Groups that differ in little: on one port, in three namespaces, of three users.
fn similar_groups() -> impl Strategy<Value = Vec<Group>> {
    let ip =
        prop::sample::select(vec!["0.0.0.0:80", "[::]:80", "1.2.3.4:80", "[::ffff:1.2.3.4]:80"]);
    let device = prop::option::of(0..2_usize).prop_map(|device| {
        device.map(|n| Device { index: 2 + n as u32, name: Some(format!("eth{n}")) })
    });
    let key = (any::<bool>(), ip, any::<bool>(), device, 0..3_u32, 1..4_u64).prop_map(
        |(is_tcp, ip, v6only, device, uid, netns)| {
            let protocol = if is_tcp { Protocol::Tcp } else { Protocol::Udp };
            GroupKey { v6only, device, uid, ..key(protocol, ip, netns) }
        },
    );
    prop::collection::vec(key, 1..12).prop_map(|keys| {
        let listed = keys.iter().zip(1..).map(|(key, cookie)| {
            let members = vec![member(cookie, 7)];
            (Group { members, ..group(key) }, Some(cookie as usize))
        });
        let mut groups = tell_apart(listed.collect());
        tell_names_apart(&mut groups, Some(1));
        groups
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
    fn each_name_of_a_listing_finds_its_group(groups in similar_groups()) {
        for group in &groups {
            let spec: GroupSpec = group.key.to_string().parse().unwrap();
            prop_assert_eq!(spec.choose(&groups, Some(1)).unwrap(), group);
            prop_assert_eq!(spec.to_string(), group.key.to_string());
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".*") {
        if let Err(error) = text.parse::<GroupSpec>() {
            prop_assert!(error.to_string().chars().all(|c| !c.is_control()));
        }
    }

    #[test]
    fn nearly_valid_texts_parse_back_or_are_refused(
        text in "(tcp:|udp:|sctp:)?[\\[\\]:%*.0-9a-f]{0,20}(%eth0)?:[0-9]{1,6}\
                (,(v6only|uid=[0-9]{1,2}|netns=[a-z]{1,2}|dev=eth1|of=pid:[0-9])){0,3}",
    ) {
        if let Ok(spec) = text.parse::<GroupSpec>() {
            prop_assert_eq!(spec.to_string().parse(), Ok(spec));
        }
    }
}
