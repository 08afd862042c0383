//! `attach --hold-new`, `promote`, `rollback`: a new version of a server takes over, and the way back.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::json;
use test_support::client::http_get;
use test_support::process::output;
use test_support::server::{Forking, Transport, free_port};
use test_support::wait::{BOUND, until};

use super::changes::{each, show};
use crate::common::{Running, command, error, group, isolated, run, stdout};

/// Who answers.
fn served(server: &Forking) -> BTreeSet<u32> {
    (0..12).map(|_| http_get(server.addr()).trim().parse().unwrap()).collect()
}

/// An old server, whose group keeps new ones waiting, and a new one.
fn two() -> (Forking, Forking, String) {
    let old = Forking::start_on(Transport::Tcp, free_port(), 2);
    let group = format!("tcp:{}", old.addr());
    stdout(&["attach", &group, "--policy", "round-robin", "--hold-new"]);
    let new = Forking::start_on(Transport::Tcp, old.addr().port(), 2);
    (old, new, group)
}

#[test]
fn a_new_server_is_promoted_and_rolled_back() {
    isolated(|| {
        let (old, new, group) = two();
        let refused = error(1, &["promote", &group]);
        assert!(refused.contains("2 joined later and have no slot"), "{refused}");
        let text = stdout(&["attach", &group]);
        assert!(text.contains("2 sockets of a newer generation on standby"), "{text}");
        assert_eq!(each(&group, "state"), json!(["active", "active", "standby", "standby"]));
        assert_eq!(each(&group, "generation"), json!([1, 1, 2, 2]));
        let shown = show(&group);
        assert_eq!((&shown["serving_generation"], &shown["hold_new"]), (&json!(1), &json!(true)));
        let text = stdout(&["show", &group]);
        assert!(text.contains("generation 1; newer ones wait for `promote`"), "{text}");
        assert_eq!(served(&old), BTreeSet::from([old.pid()]));

        let text = stdout(&["promote", &group, "--wait", "1m"]);
        let said = format!("{group}: generation 2 serves: 2 members; 2 older ones drain\n");
        assert!(text.starts_with(&said), "{text}");
        assert_eq!(text.lines().filter(|line| line.ends_with("is drained")).count(), 2, "{text}");
        assert_eq!(each(&group, "state"), json!(["draining", "draining", "active", "active"]));
        assert_eq!(served(&old), BTreeSet::from([new.pid()]));
        let refused = error(1, &["promote", &group]);
        assert!(refused.contains("nginx reload, HAProxy -W, Envoy hot restart"), "{refused}");
        let refused = error(2, &["undrain", &group, "gen:1"]);
        assert!(refused.contains("reuseport rollback"), "{refused}");

        let text = stdout(&["rollback", &group]);
        assert_eq!(text, format!("{group}: generation 1 serves: 2 members; 2 newer ones wait\n"));
        assert_eq!(served(&old), BTreeSet::from([old.pid()]));
        let refused = error(1, &["rollback", &group]);
        assert!(refused.contains("no member of an older generation is left"), "{refused}");
        let text = stdout(&["undrain", &group, "gen:2"]);
        assert!(text.contains("on standby and stays so: `reuseport promote`"), "{text}");

        stdout(&["promote", &group]);
        old.stop();
        assert_eq!(served(&new), BTreeSet::from([new.pid()]));
        stdout(&["attach", &group, "--hold-new=off"]);
        assert_eq!(show(&group)["hold_new"], false);
        let third = Forking::start_on(Transport::Tcp, new.addr().port(), 1);
        stdout(&["attach", &group]);
        assert_eq!(served(&new), BTreeSet::from([new.pid(), third.pid()]));
        stdout(&["rollback", &group]);
        assert_eq!(served(&new), BTreeSet::from([new.pid()]));
    });
}

#[test]
fn a_watcher_keeps_new_servers_waiting_and_honours_what_another_command_sets() {
    isolated(|| {
        let old = Forking::start_on(Transport::Tcp, free_port(), 2);
        let group = format!("tcp:{}", old.addr());
        let mut watch = Running::start(&["attach", &group, "--hold-new", "--watch"]);
        watch.read_until("decides among 2 sockets");
        let new = Forking::start_on(Transport::Tcp, old.addr().port(), 2);
        until("they wait", BOUND, || {
            each(&group, "state") == json!(["active", "active", "standby", "standby"])
        });
        stdout(&["promote", &group]);
        old.stop();
        until("the old one is gone", BOUND, || each(&group, "generation") == json!([2, 2]));
        stdout(&["attach", &group, "--hold-new=off"]);
        let _third = Forking::start_on(Transport::Tcp, new.addr().port(), 1);
        until("it serves at once", BOUND, || {
            each(&group, "state") == json!(["active", "active", "active"])
        });
        watch.interrupt();
    });
}

#[test]
fn a_server_is_promoted_when_it_is_ready() {
    isolated(|| {
        let (old, new, group) = two();
        stdout(&["attach", &group]);
        let directory = tempfile::tempdir().unwrap();
        // One that hangs, and one that fails: nothing changes.
        for (command, how) in [("sleep 1000", "has not ended"), ("exit 7", "exit status: 7")] {
            let late = ["promote", &group, "--when-ready", command, "--ready-timeout", "300ms"];
            let late = error(3, &late);
            assert!(late.contains("not ready in 300ms") && late.contains(how), "{late}");
            assert_eq!(each(&group, "state"), json!(["active", "active", "standby", "standby"]));
        }
        // One that is killed, and one that prints more than a pipe holds.
        for (command, how) in [
            ("kill -KILL $$", "signal: 9 (SIGKILL)"),
            ("head -c 3000000 /dev/zero | tr '\\0' x; exit 7", "exit status: 7"),
        ] {
            let late = ["promote", &group, "--when-ready", command, "--ready-timeout", "300ms"];
            let late = run(&late);
            assert_eq!(late.status.code(), Some(3));
            let said = String::from_utf8(late.stderr).unwrap();
            let end = &said[said.len().saturating_sub(400)..];
            assert!(end.contains("not ready in 300ms") && end.contains(how), "{end}");
        }
        // One that cannot be started.
        let mut unknown = command(&["promote", &group, "--when-ready", "true"]);
        let unknown = output(unknown.env("PATH", directory.path())).unwrap();
        let said = String::from_utf8(unknown.stderr).unwrap();
        assert_eq!(unknown.status.code(), Some(2), "{said}");
        assert!(said.starts_with("reuseport: cannot run `true`: "), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(each(&group, "state"), json!(["active", "active", "standby", "standby"]));
        // It is told which processes to ask, and succeeds the second time.
        let file = directory.path().join("told");
        let file = file.to_str().unwrap();
        let asked = format!(
            "test -e {file} && exit; echo $REUSEPORT_GROUPS $REUSEPORT_PIDS > {file}; exit 1"
        );
        stdout(&["promote", &group, "--when-ready", &asked]);
        let told = std::fs::read_to_string(file).unwrap();
        let (of, pids) = told.trim().split_once(' ').unwrap();
        let pids: BTreeSet<u32> = pids.split(' ').map(|pid| pid.parse().unwrap()).collect();
        assert_eq!((of, pids), (group.as_str(), new.worker_pids().into_iter().collect()));
        assert_eq!(served(&old), BTreeSet::from([new.pid()]));
        // Without a newer one, it is not asked.
        error(1, &["promote", &group, "--when-ready", "sleep 1000"]);
    });
}

/// Of two at once, one comes first, and the other one finds what that one made of the group.
#[test]
fn promotions_and_rollbacks_at_once_leave_one_generation_serving() {
    isolated(|| {
        let (old, new, group) = two();
        stdout(&["attach", &group]);
        let at_once = |verbs: [&str; 2]| {
            let running = verbs.map(|verb| Running::start(&[verb, &group]));
            let mut codes = running.map(|one| one.output().status.code().unwrap());
            codes.sort_unstable();
            codes
        };
        for _ in 0..3 {
            assert_eq!(at_once(["promote", "promote"]), [0, 1]);
            assert_eq!(served(&old), BTreeSet::from([new.pid()]));
            assert_eq!(at_once(["rollback", "rollback"]), [0, 1]);
            assert_eq!(served(&old), BTreeSet::from([old.pid()]));
            // A rollback that comes first has nothing to go back to.
            let codes = at_once(["promote", "rollback"]);
            assert!(codes == [0, 0] || codes == [0, 1], "{codes:?}");
            let serves = if codes == [0, 0] { old.pid() } else { new.pid() };
            assert_eq!(served(&old), BTreeSet::from([serves]));
            run(&["rollback", &group]);
        }
    });
}

#[test]
fn an_old_server_that_takes_nothing_is_not_drained_in_time() {
    isolated(|| {
        let (listeners, group) = group(2);
        stdout(&["attach", &group, "--policy", "round-robin", "--hold-new"]);
        let _waiting = super::changes::connect(&listeners, 2);
        let port = listeners[0].local_addr().unwrap().port();
        let _new = Forking::start_on(Transport::Tcp, port, 1);
        stdout(&["attach", &group]);
        let late = run(&["promote", &group, "--wait=100ms"]);
        assert_eq!(late.status.code(), Some(3));
        let late = String::from_utf8(late.stderr).unwrap();
        assert!(late.contains("not drained in 100ms") && late.contains("rollback"), "{late}");
        assert_eq!(each(&group, "state"), json!(["draining", "draining", "active"]));
    });
}

#[test]
fn a_canary_gets_its_part_of_all_picks_and_is_state() {
    isolated(|| {
        let (old, new, group) = two();
        let refused = error(1, &["promote", &group, "--canary", "10%"]);
        assert!(refused.contains("have no slot"), "{refused}");
        stdout(&["attach", &group]);
        let text = stdout(&["promote", &group, "--canary", "25%"]);
        let said = "generation 1 serves: 2 members; 2 newer ones are on trial\n";
        assert_eq!(text, format!("{group}: {said}"));
        let shown = show(&group);
        assert_eq!(shown["trial"], json!({"generation": 2, "percent": 25}));
        assert_eq!((&shown["serving_generation"], &shown["hold_new"]), (&json!(1), &json!(true)));
        assert_eq!(each(&group, "state"), json!(["active", "active", "active", "active"]));
        assert_eq!(each(&group, "weight"), json!([1, 1, 1, 1]), "the real ones");
        let text = stdout(&["show", &group]);
        assert!(text.contains("generation 2 is on trial, with 25% of the picks"), "{text}");
        let answers: Vec<u32> =
            (0..80).map(|_| http_get(old.addr()).trim().parse().unwrap()).collect();
        let of = |server: &Forking| answers.iter().filter(|pid| **pid == server.pid()).count();
        assert_eq!((of(&old), of(&new)), (60, 20), "of round-robin, exactly");
        // An `attach` and a weight change nothing about it.
        stdout(&["attach", &group]);
        stdout(&["weight", &group, "slot:2=3"]);
        assert_eq!(show(&group)["trial"]["percent"], 25);
        assert_eq!(each(&group, "weight"), json!([1, 1, 3, 1]));

        stdout(&["rollback", &group]);
        assert_eq!(show(&group)["trial"], json!(null));
        assert_eq!(each(&group, "state"), json!(["active", "active", "standby", "standby"]));
        // One that is killed goes on.
        let mut tried = Running::start(&["promote", &group, "--canary=50", "--for", "1h"]);
        tried.read_until("on trial");
        let interrupted = tried.interrupt();
        assert_eq!(interrupted.status.code(), Some(2));
        assert_eq!(show(&group)["trial"]["percent"], 50);
        // After its time, the newest generation serves.
        stdout(&["promote", &group, "--canary=10%", "--for=100ms", "--wait"]);
        assert_eq!(served(&old), BTreeSet::from([new.pid()]));
        assert_eq!(show(&group)["trial"], json!(null));
    });
}

#[test]
fn only_the_generation_that_was_checked_or_tried_is_promoted() {
    isolated(|| {
        let (old, new, group) = two();
        stdout(&["attach", &group]);
        let directory = tempfile::tempdir().unwrap();
        let [begun, go_on] = ["begun", "go-on"].map(|name| directory.path().join(name));
        let ready = format!("touch {}; test -e {}", begun.display(), go_on.display());
        let promote = Running::start(&["promote", &group, "--when-ready", &ready]);
        until("it is asked", BOUND, || begun.exists());
        let _third = Forking::start_on(Transport::Tcp, old.addr().port(), 1);
        stdout(&["attach", &group]);
        std::fs::write(&go_on, "").unwrap();
        let refused = promote.output();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(3), "{said}");
        assert!(said.contains("a newer generation came meanwhile: 3"), "{said}");
        assert_eq!(served(&old), BTreeSet::from([old.pid()]));

        let mut tried = Running::start(&["promote", &group, "--canary", "50%", "--for", "5s"]);
        tried.read_until("on trial");
        tried.signal(Signal::STOP);
        let fourth = Forking::start_on(Transport::Tcp, old.addr().port(), 1);
        stdout(&["attach", &group]);
        tried.signal(Signal::CONT);
        let refused = tried.output();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(3), "{said}");
        assert!(said.contains("a newer generation came meanwhile: 4"), "{said}");
        let trial = json!({"generation": 3, "percent": 50});
        assert_eq!(show(&group)["trial"], trial, "traffic is as it was");

        // Another trial with the same part is another one.
        let mut tried = Running::start(&["promote", &group, "--canary", "50%", "--for", "1h"]);
        tried.read_until("on trial");
        let _fifth = Forking::start_on(Transport::Tcp, old.addr().port(), 1);
        stdout(&["attach", &group]);
        stdout(&["promote", &group, "--canary", "50%"]);
        let ended = tried.output();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(2), "{said}");
        assert!(said.contains("another command changed the trial"), "{said}");
        drop((new, fourth));
    });
}

#[test]
fn a_part_that_cannot_be_had_is_refused() {
    isolated(|| {
        let old = Forking::start_on(Transport::Tcp, free_port(), 1);
        let group = format!("tcp:{}", old.addr());
        stdout(&["attach", &group, "--policy", "cpu", "--hold-new"]);
        let _new = Forking::start_on(Transport::Tcp, old.addr().port(), 32);
        stdout(&["attach", &group]);
        let by_cpu = error(2, &["promote", &group, "--canary", "10%"]);
        assert!(by_cpu.contains("policy `cpu` deals by CPU"), "{by_cpu}");
        stdout(&["policy", &group, "round-robin"]);
        let small = error(2, &["promote", &group, "--canary", "1%"]);
        assert!(small.contains("cannot give the newest generation 1%"), "{small}");
        assert!(small.contains("the nearest part that it can have is 3%"), "{small}");
        assert_eq!(show(&group)["trial"], json!(null));
        stdout(&["promote", &group, "--canary", "3%"]);
    });
}

#[test]
fn what_is_drained_while_another_generation_serves_stays_so() {
    isolated(|| {
        let (_old, _new, group) = two();
        stdout(&["attach", &group]);
        let text = stdout(&["drain", &group, "slot:2"]);
        assert!(text.contains("on standby: it gets nothing, also after `promote`"), "{text}");
        stdout(&["promote", &group]);
        assert_eq!(each(&group, "state"), json!(["draining", "draining", "draining", "active"]));
        stdout(&["drain", &group, "slot:0"]);
        stdout(&["drain", &group, "gen:2"]);
        let doctor = String::from_utf8(run(&["doctor", &group]).stdout).unwrap();
        assert!(doctor.contains(&format!("`reuseport undrain {group} slot:2`")), "{doctor}");
        stdout(&["undrain", &group, "slot:2"]);
        stdout(&["rollback", &group]);
        assert_eq!(each(&group, "state"), json!(["draining", "active", "standby", "standby"]));
    });
}

#[test]
fn a_group_without_a_newer_generation_leaves_no_other_on_trial() {
    isolated(|| {
        let (_listeners, nothing) = crate::common::group(1);
        stdout(&["attach", &nothing]);
        let (old, new, group) = two();
        stdout(&["attach", &group]);
        let canary = ["promote", &nothing, &group, "--canary=10%"];
        let not_ready = ["--wait", "--when-ready", "exit 7", "--ready-timeout=300ms"];
        let told = error(2, &[&canary[..], &not_ready].concat());
        assert!(told.contains("only with --for"), "{told}");
        let ended = run(&[&canary[..], &["--for=100ms"]].concat());
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert_eq!(served(&old), BTreeSet::from([new.pid()]));
        assert_eq!(show(&group)["trial"], json!(null));
    });
}
