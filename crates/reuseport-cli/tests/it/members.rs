//! Members that cannot be enrolled: what `attach`, `show`, `ls` and `detach` say, and how they exit.

use std::net::{SocketAddr, TcpListener};

use crate::common::{error, group, isolated, json, own_netns, pinned_groups, run, stdout};
use sk_reuseport::net::Bind;
use test_support::InFlight;
use test_support::wait::{BOUND, until};

/// One more member, hidden: no process has a descriptor of it.
fn hidden(address: SocketAddr, group: &str) -> InFlight {
    let hidden = InFlight::send(Bind::new(address).listeners(1).unwrap().remove(0));
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
        let hidden = hidden(listeners[0].local_addr().unwrap(), &group);
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
        assert!(said.contains("2 sockets") && said.contains("left out: cannot borrow"), "{said}");
        assert!(why.contains("1 living member") && why.contains("reuseport show"), "{why}");

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
        drop(hidden);
    });
}
