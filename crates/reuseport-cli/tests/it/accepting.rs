//! `attach --hold-new=accepting`: a socket that joins gets nothing until a thread waits for connections on it.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::thread;

use reuseport::net::Bind;
use serde_json::{Value, json as value};
use test_support::wait::{BOUND, until};

use crate::common::{Running, error, group, isolated, json, run, stdout};

/// Another socket of the group.
fn another(address: SocketAddr) -> TcpListener {
    Bind::new(address).listeners(1).unwrap().remove(0)
}

/// A thread accepts there from now on.
fn accepts(listener: &TcpListener) {
    let listener = listener.try_clone().unwrap();
    drop(thread::spawn(move || listener.incoming().for_each(drop)));
}

fn each(group: &str, field: &str) -> Value {
    let shown = json(&["show", group, "--json"]);
    shown["members"].as_array().unwrap().iter().map(|member| member[field].clone()).collect()
}

#[test]
fn without_a_watcher_each_attach_looks_once_and_promoting_lets_all_join() {
    isolated(|| {
        let (mut members, group) = group(2);
        stdout(&["attach", &group, "--policy", "round-robin", "--hold-new=accepting"]);
        let refused = error(1, &["promote", &group]);
        assert!(refused.contains("no member is on standby"), "{refused}");
        assert!(refused.contains("--hold-new=on"), "{refused}");
        let address = members[0].local_addr().unwrap();
        members.extend([another(address), another(address)]);

        let text = stdout(&["attach", &group]);
        assert!(text.contains("2 new sockets on standby until a thread waits"), "{text}");
        assert_eq!(each(&group, "state"), value!(["active", "active", "standby", "standby"]));
        assert_eq!(each(&group, "held"), value!([false, false, true, true]));
        let shown = json(&["show", &group, "--json"]);
        assert_eq!(
            (&shown["hold_new"], &shown["hold_new_until"]),
            (&value!(true), &value!("accepting"))
        );
        let text = stdout(&["show", &group]);
        assert!(text.contains("newcomers wait until they accept"), "{text}");
        let found = String::from_utf8(run(&["doctor", &group]).stdout).unwrap();
        assert!(found.contains("not-accepting"), "{found}");
        assert!(found.contains(&format!("reuseport promote {group}")), "{found}");

        accepts(&members[2]);
        until("the third accepts", BOUND, || {
            let text = stdout(&["attach", &group]);
            text.contains("1 socket on standby accepts connections now, and serves")
        });
        assert_eq!(each(&group, "state"), value!(["active", "active", "active", "standby"]));
        let text = stdout(&["promote", &group]);
        let said =
            format!("{group}: 1 member from standby serves now: 4 members in all; none drains\n");
        assert_eq!(text, said);
        assert_eq!(each(&group, "state"), value!(["active", "active", "active", "active"]));
        let found = String::from_utf8(run(&["doctor", &group]).stdout).unwrap();
        assert!(!found.contains("not-accepting"), "{found}");
    });
}

#[test]
fn a_watcher_lets_a_member_join_when_it_accepts_and_says_so() {
    isolated(|| {
        let (members, group) = group(1);
        let mut watch = Running::start(&["attach", &group, "--hold-new=accepting", "--watch"]);
        watch.read_until("Watching");
        let new = another(members[0].local_addr().unwrap());
        watch.read_until("on standby until a thread waits for connections on it");
        assert_eq!(each(&group, "state"), value!(["active", "standby"]));
        accepts(&new);
        watch.read_until("accepts connections now, and serves");
        assert_eq!(each(&group, "state"), value!(["active", "active"]));
        assert!(watch.interrupt().status.success());
    });
}

/// Another command may hold members, or let them go.
#[test]
fn a_watcher_looks_for_what_another_command_holds() {
    isolated(|| {
        let (members, group) = group(1);
        let mut watch = Running::start(&["attach", &group, "--watch"]);
        watch.read_until("Watching");
        stdout(&["attach", &group, "--hold-new=accepting"]);
        let new = another(members[0].local_addr().unwrap());
        until("it is held", BOUND, || each(&group, "state") == value!(["active", "standby"]));
        accepts(&new);
        until("it serves", BOUND, || each(&group, "state") == value!(["active", "active"]));
    });
}

#[test]
fn under_the_agent_a_server_serves_from_when_it_accepts() {
    isolated(|| {
        let (members, group) = group(2);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "[server.web]\ngroups = [\"{group}\"]\nhold-new = \"accepting\"\n").unwrap();
        let _agent = Running::start(&["agent", "--config", file.path().to_str().unwrap()]);
        // It finds them as sockets that have come.
        until("both are held", BOUND, || each(&group, "held") == value!([true, true]));
        let shown = json(&["show", &group, "--json"]);
        assert_eq!(shown["program"]["decides"], false, "{shown}");
        accepts(&members[1]);
        until("one serves", BOUND, || {
            let states = each(&group, "state");
            states == value!(["active", "standby"]) || states == value!(["standby", "active"])
        });
        accepts(&members[0]);
        until("both serve", BOUND, || each(&group, "state") == value!(["active", "active"]));
    });
}

#[test]
fn a_misspelt_word_is_answered_with_the_nearest() {
    isolated(|| {
        let (_members, group) = group(1);
        let output = run(&["attach", &group, "--hold-new=acepting"]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(text.contains("a similar value exists: 'accepting'"), "{text}");
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "[server.web]\ngroups = [\"{group}\"]\nhold-new = \"acepting\"\n").unwrap();
        let text = error(2, &["agent", "--config", file.path().to_str().unwrap()]);
        assert!(text.contains("did you mean `accepting`?"), "{text}");
    });
}
