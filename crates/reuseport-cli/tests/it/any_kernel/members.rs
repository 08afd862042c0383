//! Members that cannot be enrolled: what `attach`, `show`, `ls` and `detach` say, and how they exit.

use std::net::{SocketAddr, TcpListener};

use crate::common::{Running, error, group, isolated, json, own_netns, pinned_groups, run, stdout};
use sk_reuseport::net::Bind;
use test_support::feature::{self, require};
use test_support::process::close;
use test_support::wait::{BOUND, until};
use test_support::{InFlight, InRing};

/// One more member, which `hide` takes: no process has a descriptor of it afterwards.
fn hidden<T>(address: SocketAddr, group: &str, hide: impl FnOnce(TcpListener) -> T) -> T {
    let hidden = hide(Bind::new(address).listeners(1).unwrap().remove(0));
    // Until execve, a child of another test has a copy.
    until("it is hidden", BOUND, || {
        let shown = json(&["show", group, "--json"]);
        shown["members"]
            .as_array()
            .unwrap()
            .iter()
            .any(|member| member["holders"] == serde_json::json!([]))
    });
    hidden
}

#[test]
fn attach_refuses_to_starve_a_member_and_partial_says_who_gets_nothing() {
    isolated(|| {
        let (listeners, group) = group(2);
        let hidden = hidden(listeners[0].local_addr().unwrap(), &group, InFlight::send);
        let refused = error(2, &["attach", &group]);
        assert!(
            refused.contains("1 living member") || refused.contains("a living member"),
            "{refused}"
        );
        assert!(
            refused.contains("no visible process") && refused.contains("--partial"),
            "{refused}"
        );
        assert_eq!(pinned_groups(), 0);

        let partial = run(&["attach", &group, "--partial", "--policy", "round-robin"]);
        assert_eq!(partial.status.code(), Some(3), "{partial:?}");
        let (said, why) = (
            String::from_utf8(partial.stdout).unwrap(),
            String::from_utf8(partial.stderr).unwrap(),
        );
        assert!(
            said.contains("2 sockets") && said.contains("left out: a socket without"),
            "{said}"
        );
        assert!(said.lines().any(|line| line.starts_with("hint: if a process of")), "{said}");
        assert!(why.contains("1 living member") && why.contains("reuseport show"), "{why}");
        assert!(why.contains("gets nothing from now on"), "{why}");

        let shown = json(&["show", &group, "--json"]);
        let reasons: Vec<_> = shown["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["unsteered_because"].clone())
            .collect();
        assert_eq!(serde_json::json!(reasons), serde_json::json!([null, null, "no-holder"]));
        assert_eq!((&shown["unsteered"], &shown["unborrowable"]), (&1.into(), &1.into()));
        let text = stdout(&["show", &group]);
        assert!(
            text.contains("no visible process") && text.contains("1 socket gets nothing"),
            "{text}"
        );
        assert!(text.lines().all(|line| !line.contains("joined after")), "{text}");
        let text = stdout(&["ls", "--netns", &own_netns()]);
        assert!(text.contains("cannot be enrolled"), "{text}");

        // As soon as a process has it, it is like any other.
        let back = TcpListener::from(hidden.receive());
        assert!(stdout(&["attach", &group]).contains("3 sockets"));
        drop(back);
    });
}

#[test]
fn members_that_are_left_out_are_grouped_by_reason() {
    isolated(|| {
        let (listeners, group) = group(1);
        let address = listeners[0].local_addr().unwrap();
        let _hidden =
            [hidden(address, &group, InFlight::send), hidden(address, &group, InFlight::send)];
        let hidden = || {
            let shown = json(&["show", &group, "--json"]);
            let members = shown["members"].as_array().unwrap().clone();
            members.iter().filter(|m| m["holders"] == serde_json::json!([])).count()
        };
        until("both are hidden", BOUND, || hidden() == 2);
        let partial = run(&["attach", &group, "--partial"]);
        let said = String::from_utf8(partial.stdout).unwrap();
        assert_eq!(said.matches("left out: ").count(), 1, "{said}");
        assert_eq!(said.matches("no visible process").count(), 1, "{said}");
        let why = String::from_utf8(partial.stderr).unwrap();
        assert!(why.contains("2 living members") && why.contains(" get nothing"), "{why}");
    });
}

#[test]
fn watch_says_that_no_member_is_left() {
    isolated(|| {
        let (mut listeners, group) = group(1);
        let hidden = hidden(listeners[0].local_addr().unwrap(), &group, InFlight::send);
        let mut watch = Running::start(&["attach", &group, "--watch", "--partial"]);
        watch.read_until("Watching");
        close(listeners.remove(0));
        let line = watch.read_until("no member is left");
        assert!(line.contains("and the kernel's hash decides"), "{line}");
        let text = stdout(&["show", &group]);
        assert!(text.contains("no socket can be given a slot"), "{text}");
        assert!(text.contains("1 socket has no slot: no visible process"), "{text}");
        assert_eq!(watch.interrupt().status.code(), Some(0));
        drop(hidden);
    });
}

#[test]
fn a_listener_that_only_a_ring_has_is_named_and_partial_goes_on_without_it() {
    if !require(&feature::IO_URING) {
        return;
    }
    isolated(|| {
        let (listeners, group) = group(1);
        let ring = hidden(listeners[0].local_addr().unwrap(), &group, InRing::register);
        let refused = error(2, &["attach", &group]);
        assert!(refused.contains("no visible process"), "{refused}");
        assert_eq!(pinned_groups(), 0);
        let partial = run(&["attach", &group, "--partial"]);
        assert_eq!(partial.status.code(), Some(3), "{partial:?}");
        let shown = json(&["show", &group, "--json"]);
        let members = shown["members"].as_array().unwrap();
        assert!(members.iter().any(|m| m["unsteered_because"] == "no-holder"), "{shown}");
        drop(ring);
    });
}

#[test]
fn detach_lets_go_of_a_group_whose_sockets_cannot_be_borrowed() {
    isolated(|| {
        let (mut listeners, group) = group(1);
        stdout(&["attach", &group]);
        let hidden = InFlight::send(listeners.remove(0));
        until("it is hidden", BOUND, || {
            json(&["show", &group, "--json"])["members"][0]["holders"] == serde_json::json!([])
        });
        let detached = run(&["detach", &group]);
        assert_eq!(detached.status.code(), Some(3), "{detached:?}");
        let (said, why) = (
            String::from_utf8(detached.stdout).unwrap(),
            String::from_utf8(detached.stderr).unwrap(),
        );
        assert!(said.contains("let go") && said.contains("kernel's hash"), "{said}");
        assert!(why.contains("stays attached") && why.contains("hint: "), "{why}");
        assert_eq!(pinned_groups(), 0);

        let text = stdout(&["show", &group]);
        assert!(text.contains("has no member: the kernel's hash decides"), "{text}");
        assert!(!text.contains("gets nothing"), "{text}");
        let program = json(&["show", &group, "--json"])["program"].clone();
        assert_eq!((&program["kind"], &program["decides"]), (&"elsewhere".into(), &false.into()));
        let text = stdout(&["ls", "--netns", &own_netns()]);
        assert!(text.contains("kernel hash (emptied)"), "{text}");
        assert_eq!(run(&["detach", &group]).status.code(), Some(3), "as before");
        let back = TcpListener::from(hidden.receive());
        stdout(&["detach", &group]);
        drop(back);
    });
}
