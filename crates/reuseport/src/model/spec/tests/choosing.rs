//! The groups that names choose, and how groups are written.

use super::*;
use crate::error::Result;
use crate::model::split::Claim;

/// The name of the chosen group, or the error.
pub(super) fn choose(name: &str, keys: &[GroupKey], prefer: Option<u64>) -> Result<(String, u64)> {
    let mut groups = groups(keys);
    tell_names_apart(&mut groups, prefer);
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
        "`:80` matches 3 groups; name one of them:\n  \
         tcp:127.0.0.1:80                   0 members\n  \
         udp:127.0.0.1:80                   0 members\n  \
         tcp:127.0.0.1:80,netns=4026531841  0 members"
    );
    let error = choose("tcp::80", &keys, None).unwrap_err();
    assert_eq!(
        error.hint(),
        Some(
            &"name one of them:\n  \
              tcp:127.0.0.1:80,netns=4026531841  0 members\n  \
              tcp:127.0.0.1:80,netns=4026531842  0 members"
                .into()
        )
    );
}

#[test]
fn an_error_lists_candidates_in_one_line_or_one_on_each_but_not_all_of_many() {
    let keys: Vec<GroupKey> = (1..=19).map(|i| tcp(&format!("127.0.0.{i}:80"))).collect();
    let hint =
        |n: usize| choose(":80", &keys[..n], Some(1)).unwrap_err().hint().unwrap().to_string();
    assert_eq!(hint(2), "name one of them: tcp:127.0.0.1:80 or tcp:127.0.0.2:80");
    assert_eq!(hint(3).lines().count(), 1);
    assert_eq!(hint(4).lines().count(), 5);
    let many = hint(19);
    assert!(many.ends_with("127.0.0.16:80  0 members\nand 3 more, which `reuseport ls` shows"));
    assert!(!many.contains("127.0.0.17"), "{many}");
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
        "no group matches `udp:0.0.0.0:80`, but on port 80 there is tcp:0.0.0.0:80,netns=4026531841 \
         and tcp:0.0.0.0:80,netns=4026531842; `reuseport ls` shows every group"
    );
    keys.extend((1..=3).map(|i| key(Protocol::Udp, &format!("127.0.0.{i}:80"), 1)));
    let error = choose("tcp:127.0.0.1:80", &keys, None).unwrap_err().report().to_string();
    assert!(
        error.contains("tcp:0.0.0.0:80,netns=4026531842, udp:127.0.0.1:80 and 2 more; "),
        "{error}"
    );
    assert_eq!(
        choose(":1", &keys, None).unwrap_err().report().to_string(),
        "no group matches `:1`; `reuseport ls` shows every group"
    );
}

pub(super) fn member(cookie: u64, pid: u32) -> Member {
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
        "`:53` matches 2 groups; name one of them:\n  \
         udp:127.0.0.1:53,of=cookie:5  2 members, gets nothing new\n  \
         udp:127.0.0.1:53,of=cookie:9  1 member, gets the traffic"
    );
}

/// The names of the groups with these keys, for a reader in the namespace with cookie 1.
fn names(keys: &[GroupKey]) -> Vec<String> {
    let mut groups = groups(keys);
    tell_names_apart(&mut groups, Some(1));
    groups.iter().map(|group| group.key.to_string()).collect()
}

#[test]
fn a_name_has_what_tells_it_apart_and_no_more() {
    let dual = tcp("[::]:80");
    let v6only = GroupKey { v6only: true, ..dual.clone() };
    let of = |uid, key: &GroupKey| GroupKey { uid, ..key.clone() };
    let elsewhere = |key: &GroupKey, netns| GroupKey {
        netns: Netns { cookie: netns, inode: netns as u32 },
        ..key.clone()
    };
    for (keys, expected) in [
        (vec![v6only.clone()], vec!["tcp:[::]:80"]),
        (vec![of(33, &dual)], vec!["tcp:[::]:80"]),
        (vec![elsewhere(&dual, 9)], vec!["tcp:[::]:80"]),
        (vec![dual.clone(), v6only.clone()], vec!["tcp:[::]:80", "tcp:[::]:80,v6only"]),
        (vec![dual.clone(), of(33, &dual)], vec!["tcp:[::]:80,uid=0", "tcp:[::]:80,uid=33"]),
        (
            vec![dual.clone(), of(33, &dual), of(33, &v6only)],
            vec!["tcp:[::]:80,uid=0", "tcp:[::]:80,uid=33", "tcp:[::]:80,v6only"],
        ),
        (vec![dual.clone(), elsewhere(&dual, 9)], vec!["tcp:[::]:80", "tcp:[::]:80,netns=9"]),
        (
            vec![elsewhere(&dual, 8), elsewhere(&of(33, &dual), 9)],
            vec!["tcp:[::]:80,uid=0", "tcp:[::]:80,uid=33"],
        ),
        (
            vec![on_device(dual.clone(), 3, Some("eth0")), elsewhere(&dual, 9)],
            vec!["tcp:[::]%eth0:80", "tcp:[::]:80,netns=9"],
        ),
        (
            vec![dual.clone(), GroupKey { protocol: Protocol::Udp, ..dual.clone() }],
            vec!["tcp:[::]:80", "udp:[::]:80"],
        ),
        (
            vec![tcp("1.2.3.4:80"), tcp("[::ffff:1.2.3.4]:80")],
            vec!["tcp:1.2.3.4:80", "tcp:[::ffff:1.2.3.4]:80"],
        ),
    ] {
        assert_eq!(names(&keys), expected);
    }
}

#[test]
fn a_namespace_is_written_by_its_name_if_that_can_be_typed() {
    let text = |name: Option<&str>| {
        let netns_name = name.map(Into::into);
        Written { netns_name, ..Written::default() }.netns_text(7)
    };
    assert_eq!(text(Some("cni-0a1b.2_c")), "cni-0a1b.2_c");
    for name in [None, Some("a,b"), Some("12"), Some("a b"), Some("\u{1b}[2J")] {
        assert_eq!(text(name), "7", "{name:?}");
    }
}

#[test]
fn each_of_many_groups_on_one_address_has_a_name_of_its_own() {
    let of = |n: u64, uid| GroupKey { uid, ..key(Protocol::Tcp, "0.0.0.0:80", n) };
    let keys: Vec<GroupKey> = (1..90).flat_map(|n| [of(n, 0), of(n, 33)]).collect();
    let names = names(&keys);
    assert_eq!(names[..2], ["tcp:0.0.0.0:80,uid=0", "tcp:0.0.0.0:80,uid=33"]);
    assert_eq!(names[3], "tcp:0.0.0.0:80,uid=33,netns=4026531842");
    assert_eq!(names.iter().collect::<std::collections::HashSet<_>>().len(), names.len());
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
