//! Groups that come and go while a command looks at them: it says so in one line, or leaves them out. Members that left
//! before, and a host with very many groups.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use assert_cmd::cargo::cargo_bin;
use sk_reuseport::net::Bind;
use test_support::SetOnDrop;
use test_support::process::{close, output};

use crate::common::{self, group, isolated, own_netns, run, stdout};

/// Opens a group at this address, attaches to it most of the time, and closes it.
fn come_and_go(at: SocketAddr, over: &AtomicBool) {
    let name = format!("tcp:{at}");
    for turn in 0.. {
        if over.load(Relaxed) {
            return;
        }
        let members = Bind::new(at).listeners(3).unwrap();
        if turn % 3 > 0 {
            run(&["attach", &name, "--policy", "round-robin", "--hold-new"]);
        }
        drop(members);
    }
}

#[test]
fn every_verb_meets_groups_that_vanish() {
    const TURNS: usize = 2;

    isolated(|| {
        let (_stays, stays) = group(2);
        stdout(&["attach", &stays, "--policy", "round-robin"]);
        let (members, passing) = group(1);
        let at = members[0].local_addr().unwrap();
        drop(members);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let _over = SetOnDrop(&over);
            scope.spawn(|| come_and_go(at, &over));
            let of = |verb: &'static str, more: &[&'static str]| {
                let mut arguments = vec![verb, &passing];
                arguments.extend(more);
                arguments
            };
            let verbs = [
                of("show", &[]),
                of("show", &["--json"]),
                of("doctor", &[]),
                vec!["doctor"],
                of("metrics", &[]),
                vec!["metrics"],
                vec!["ls"],
                of("promote", &[]),
                of("promote", &["--canary", "10%"]),
                of("rollback", &[]),
                of("drain", &["slot:0"]),
                of("undrain", &["slot:0"]),
                of("weight", &["slot:1=3"]),
                of("policy", &["random"]),
                of("detach", &[]),
            ];
            for arguments in verbs.iter().cycle().take(TURNS * verbs.len()) {
                let output = run(arguments);
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                let code = output.status.code();
                assert!(code.is_some_and(|code| code <= 3), "{arguments:?}: {code:?} {said}");
                assert!(!said.contains("panicked"), "{arguments:?}: {said}");
                let failures = said.lines().filter(|line| line.starts_with("reuseport: ")).count();
                assert!(failures <= 1, "{arguments:?}: {said}");
            }
        });
        // The other group is as ever.
        assert_eq!(common::json(&["show", &stays, "--json"])["policy"], "round-robin");
    });
}

#[test]
fn a_host_with_very_many_groups_is_looked_at_as_any_other() {
    const GROUPS: u16 = 1000;

    isolated(|| {
        let listen = |n: u16| -> TcpListener {
            let [high, low] = n.to_be_bytes();
            Bind::new(([127, 1, high, low], 7000).into()).listeners(1).unwrap().remove(0)
        };
        let _listeners: Vec<TcpListener> = (0..GROUPS).map(listen).collect();
        let own = own_netns();
        let listed = common::json(&["ls", "--json", "--netns", &own]);
        assert_eq!(listed.as_array().unwrap().len(), usize::from(GROUPS));
        let one = "tcp:127.1.1.7:7000";
        stdout(&["attach", one]);
        let shown = common::json(&["show", one, "--json"]);
        assert_eq!(shown["policy"], "least-loaded");
        let metrics = stdout(&["metrics"]);
        let groups =
            metrics.lines().filter(|line| line.starts_with("reuseport_accept_queue_connections{"));
        assert!(groups.count() >= usize::from(GROUPS));
        let doctor = run(&["doctor", one]);
        assert!(doctor.status.code().is_some_and(|code| code == 0 || code == 3), "{doctor:?}");
        stdout(&["detach", one]);
    });
}

/// What is pinned has the host's time, whatever that of the command is.
#[test]
fn a_command_in_a_time_namespace_knows_how_long_ago_a_member_came() {
    isolated(|| {
        let (mut listeners, group) = group(2);
        stdout(&["attach", &group, "--policy", "round-robin"]);
        stdout(&["weight", &group, "slot:0=7", "slot:1=7"]);
        let bind = Bind::new(listeners[0].local_addr().unwrap());
        // The new worker of a reload comes first, and succeeds the one that leaves.
        let _successor = bind.listeners(1).unwrap();
        stdout(&["attach", &group]);
        close(listeners.remove(0));
        let later = ["--time", "--boottime", "1000000", "--fork"];
        let mut attach = Command::new("unshare");
        attach.args(later).arg(cargo_bin!("reuseport")).args(["attach", &group]);
        let attached = output(&mut attach).unwrap();
        assert!(attached.status.success(), "{attached:?}");
        let _another = bind.listeners(1).unwrap();
        stdout(&["attach", &group]);
        let mut weights = common::json(&["show", &group, "--json"])["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|member| member["weight"].as_u64().unwrap())
            .collect::<Vec<_>>();
        weights.sort_unstable();
        assert_eq!(weights, [1, 1, 7], "that weight is not passed on twice");
    });
}
