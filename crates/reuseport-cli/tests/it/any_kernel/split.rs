//! Groups of one name: how the command tells them apart, and which one each verb means.

use std::net::{Ipv4Addr, UdpSocket};

use rustix::net::sockopt::socket_cookie;
use serde_json::{Value, json as value};
use test_support::process::close;
use test_support::split::{before_split, loopback, split_off};
use test_support::wait::{BOUND, until};

use crate::common::{Running, error, isolated, json, own_netns, pinned_groups, run, stdout};

/// The lines of `ls --json` in this network namespace: the group that gets the traffic comes last.
fn groups() -> Vec<Value> {
    let mut groups = json(&["ls", "--netns", &own_netns(), "--json"]).as_array().unwrap().clone();
    groups.sort_by_key(|group| group["split"] == "first");
    groups
}

fn name(group: &Value) -> String {
    group["group"].as_str().unwrap().to_owned()
}

/// Two groups of one name; the names of the old and of the new one, and the name alone.
fn split() -> (Vec<UdpSocket>, [String; 3]) {
    let (mut sockets, leaver) = before_split(Ipv4Addr::UNSPECIFIED.into(), 3);
    sockets.extend(split_off(leaver));
    let groups = groups();
    assert_eq!(groups.len(), 2, "{groups:?}");
    let alone = format!("udp:{}", sockets[0].local_addr().unwrap());
    (sockets, [name(&groups[0]), name(&groups[1]), alone])
}

#[test]
fn ls_and_show_tell_groups_of_one_name_apart() {
    isolated(|| {
        let (sockets, [old, new, alone]) = split();
        for (group, (members, reach)) in groups().iter().zip([(3, "behind"), (2, "first")]) {
            assert_eq!(group["members"], members);
            assert_eq!(group["split"], reach);
            let cookie = json(&["show", &name(group), "--json"])["members"][0]["cookie"].clone();
            assert_eq!(name(group), format!("{alone},of=cookie:{cookie}"));
        }
        let text = stdout(&["ls", "--netns", &own_netns()]);
        assert!(text.contains(&format!("{old} gets nothing new; ")), "{text}");
        assert!(text.contains(&format!("{new} gets what is new; ")), "{text}");
        let text = stdout(&["show", &old]);
        assert!(text.contains(&format!("{old} gets nothing new; ")), "{text}");

        let refused = error(2, &["show", &alone]);
        assert!(refused.contains("matches 2 groups"), "{refused}");
        for candidate in [
            format!("  {old}  3 members, gets nothing new"),
            format!("  {new}  2 members, gets the"),
        ] {
            assert!(refused.lines().skip(2).any(|line| line.starts_with(&candidate)), "{refused}");
        }
        // This process holds the members of both.
        let pid = format!("{alone},of=pid:{}", std::process::id());
        assert!(error(2, &["show", &pid]).contains("matches 2 groups"));
        assert!(error(1, &["show", &format!("{alone},of=cookie:1")]).contains("no group matches"));
        drop(sockets);
    });
}

#[test]
fn verbs_mean_the_steered_group_and_attach_wants_to_be_told() {
    isolated(|| {
        let (mut sockets, [old, new, alone]) = split();
        for verb in [&["attach"][..], &["detach"], &["policy"], &["weight"], &["drain"]] {
            let rest: &[&str] = match verb {
                ["policy"] => &["hash"],
                ["weight"] => &["slot:0=1"],
                ["drain"] => &["slot:0"],
                _ => &[],
            };
            let refused = error(2, &[verb, &[&alone], rest].concat());
            assert!(refused.contains(&old) && refused.contains(&new), "{refused}");
        }
        assert_eq!(pinned_groups(), 0);

        let attached = run(&["attach", &old, "--policy", "round-robin"]);
        assert_eq!(attached.status.code(), Some(3), "{attached:?}");
        let text = String::from_utf8(attached.stdout).unwrap();
        assert!(text.contains("3 sockets") && text.contains(&format!("attach {old}")), "{text}");
        let why = String::from_utf8(attached.stderr).unwrap();
        let hint =
            format!("hint: `reuseport detach {old}`, and attach to that one instead: {new}\n");
        assert!(why.starts_with(&format!("reuseport: {old} gets nothing new: ")), "{why}");
        assert!(why.ends_with(&hint), "{why}");
        assert!(error(2, &["attach", &alone]).contains("matches 2 groups"));
        let second = error(2, &["attach", &new]);
        assert!(second.contains(&format!("reuseport detach {old}")), "{second}");
        assert_eq!(error(1, &["detach", &new]).lines().count(), 1);
        assert!(error(1, &["weight", &new, "slot:0=2"]).contains(&new));

        assert_eq!(json(&["show", &alone, "--json"])["group"], old.as_str());
        assert_eq!(json(&["show", &new, "--json"])["program"], Value::Null);
        assert!(stdout(&["weight", &alone, "slot:0=2"]).contains(&old));
        assert!(stdout(&["policy", &alone, "random"]).contains(&old));
        assert!(stdout(&["drain", &alone, "slot:1"]).contains(&old));
        assert!(stdout(&["undrain", &alone, "slot:1"]).contains(&old));
        let programs = groups().iter().map(|g| g["program"]["kind"].clone()).collect::<Vec<_>>();
        assert_eq!(programs, [value!("policy"), Value::Null]);
        assert!(stdout(&["detach", &alone]).contains(&old));
        assert_eq!(pinned_groups(), 0);

        // Alone, it has its old name.
        close(sockets.split_off(3));
        assert_eq!(groups().iter().map(name).collect::<Vec<_>>(), [alone.as_str()]);
        assert!(stdout(&["attach", &alone]).starts_with(&format!("{alone}: ")));
        assert!(stdout(&["detach", &alone]).starts_with("detached"));
    });
}

#[test]
fn a_drain_that_waits_ends_with_the_group_though_another_one_has_its_name() {
    isolated(|| {
        let (sockets, leaver) = before_split(Ipv4Addr::UNSPECIFIED.into(), 3);
        let at = leaver.local_addr().unwrap();
        let alone = format!("udp:{at}");
        stdout(&["attach", &alone, "--policy", "round-robin"]);
        let clients: Vec<_> = (0..8).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        clients
            .iter()
            .for_each(|client| assert_eq!(client.send_to(b"q", loopback(at)).unwrap(), 1));
        let leavers = socket_cookie(&leaver).unwrap();
        let show = json(&["show", &alone, "--json"]);
        let members = show["members"].as_array().unwrap();
        let member = members.iter().find(|member| member["cookie"] != leavers).unwrap();
        assert!(member["queue"].as_u64().unwrap() > 0, "{member}");

        let slot = format!("slot:{}", member["slot"]);
        let mut drain = Running::start(&["drain", &alone, &slot, "--wait"]);
        drain.read_until("drains");
        let new = split_off(leaver);
        close(sockets);
        let said = drain.read_until("drained");
        assert_eq!(said, format!("{alone}: drained\n"));
        let output = drain.output();
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
        drop(new);
    });
}

#[test]
fn a_watcher_says_that_its_group_is_split() {
    isolated(|| {
        let (sockets, leaver) = before_split(Ipv4Addr::UNSPECIFIED.into(), 2);
        let alone = format!("udp:{}", sockets[0].local_addr().unwrap());
        let mut watcher = Running::start(&["attach", &alone, "--watch"]);
        watcher.read_until("Watching");
        let new = split_off(leaver);
        let said = watcher.read_until("gets nothing new");
        assert!(said.contains(&format!(" {alone},of=cookie:")), "{said}");
        assert!(said.contains("this one is followed"), "{said}");
        until("the member that left has no slot", BOUND, || {
            json(&["show", &alone, "--json"])["members"].as_array().unwrap().len() == 2
        });
        let output = watcher.interrupt();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        stdout(&["detach", &alone]);
        drop((sockets, new));
    });
}
