//! Attaching, listing, showing, watching, detaching and the demo, against the real kernel and
//! nginx.

use std::collections::HashMap;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::common::{
    Running, error, group, isolated, json, own_netns, pinned_groups, run, stdout,
    stdout_undisturbed,
};
use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use sk_reuseport::net::Bind;
use test_support::client::{http_get, try_http_get};
use test_support::process::output;
use test_support::server::Nginx;
use test_support::wait::{BOUND, until};

#[test]
fn connections_to_nginx_are_dealt_in_turn() {
    isolated(|| {
        let nginx = Nginx::start(2);
        let group = format!("tcp:{}", nginx.addr());
        let text = stdout(&["attach", &group, "--policy", "round-robin"]);
        assert!(text.contains("2 sockets") && text.contains("--watch"), "{text}");

        let mut served: HashMap<String, usize> = HashMap::new();
        for _ in 0..200 {
            *served.entry(http_get(nginx.addr())).or_default() += 1;
        }
        assert_eq!(served.values().copied().collect::<Vec<_>>(), [100, 100], "{served:?}");

        assert_eq!(pinned_groups(), 1);
        let shown = json(&["show", &group, "--json"]);
        assert_eq!(shown["policy"], "round-robin");
        assert_eq!(shown["program"]["kind"], "policy");
        assert_eq!(shown["skew"], 0.0);
        let members = shown["members"].as_array().unwrap();
        assert_eq!(members.len(), 2);
        for (slot, member) in members.iter().enumerate() {
            assert_eq!(member["slot"], slot);
            assert_eq!(member["picks"], 100, "counted by the program: {shown}");
            assert_eq!(member["holders"].as_array().unwrap().len(), 3, "master and workers");
            let owner = member["owner"].as_u64().unwrap() as u32;
            assert!(nginx.worker_pids().contains(&owner), "{shown}");
        }
        let text = stdout(&["show", &group]);
        assert!(text.contains("50.0%") && text.contains("nginx"), "{text}");

        let text = stdout(&["detach", &group]);
        assert!(text.contains(&group), "{text}");
        assert!(json(&["show", &group, "--json"])["program"].is_null());
        assert_eq!(pinned_groups(), 0);
        assert!(error(1, &["detach", &group]).contains(&group));
        http_get(nginx.addr());
    });
}

#[test]
fn ls_lists_a_group_with_and_without_a_program() {
    isolated(|| {
        let netns = own_netns();
        assert_eq!(json(&["ls", "--json", "--netns", &netns]), serde_json::json!([]));
        assert!(stdout(&["ls", "--netns", &netns]).starts_with("no groups"));

        let (listeners, group) = group(3);
        let ls = || {
            let listed = stdout_undisturbed(&["ls", "--json", "--netns", &netns]);
            serde_json::from_str::<Value>(&listed).unwrap()[0].clone()
        };
        let line = ls();
        assert_eq!(line["group"], group.as_str());
        assert_eq!(line["port"], listeners[0].local_addr().unwrap().port());
        assert_eq!(line["netns"].to_string(), netns);
        assert_eq!((&line["members"], &line["unsteered"]), (&3.into(), &0.into()));
        assert_eq!(line["pids"], serde_json::json!([std::process::id()]));
        assert!(line["program"].is_null() && line["skew"].is_null());
        assert!(stdout(&["ls", "--netns", &netns]).contains("kernel hash"));

        stdout(&["attach", &group, "--policy", "hash"]);
        let line = ls();
        assert_eq!(line["program"]["policy"], "hash");
        assert!(stdout(&["ls", "--netns", &netns]).contains("reuseport hash"));
    });
}

#[test]
fn new_members_are_shown_with_the_command_that_enrols_them() {
    isolated(|| {
        let (listeners, group) = group(2);
        stdout(&["attach", &group]);
        let address = listeners[0].local_addr().unwrap();
        let _newcomer = Bind::new(address).listeners(1).unwrap();

        let remedy = format!("reuseport attach {group}");
        for text in [stdout(&["show", &group]), stdout(&["ls", "--netns", &own_netns()])] {
            assert!(text.contains("1 socket of") && text.contains(&remedy), "{text}");
        }
        assert_eq!(json(&["show", &group, "--json"])["unsteered"], 1);
        let text = stdout(&["attach", &group]);
        assert!(
            text.contains(
                "least-loaded (queue,open; max share 2) decides among 3 sockets, 1 of them new"
            ),
            "{text}"
        );
        let shown = json(&["show", &group, "--json"]);
        assert_eq!(shown["unsteered"], 0);
        assert_eq!(shown["policy"], "least-loaded", "unchanged");
    });
}

#[test]
fn a_missing_group_exits_with_1_and_an_ambiguous_one_with_2() {
    isolated(|| {
        let netns = own_netns();
        for verb in ["show", "attach", "detach"] {
            let no = error(1, &[verb, "tcp:127.0.0.1:9", "--netns", &netns]);
            assert!(no.contains("127.0.0.1:9"), "{no}");
        }
        let (listeners, group) = group(1);
        let port = listeners[0].local_addr().unwrap().port();
        error(1, &["detach", &group]);

        let other: SocketAddr = format!("127.0.0.2:{port}").parse().unwrap();
        let _other = Bind::new(other).listeners(1).unwrap();
        let unclear = error(2, &["show", &format!(":{port}"), "--netns", &netns]);
        assert!(unclear.contains("127.0.0.1") && unclear.contains("127.0.0.2"), "{unclear}");
    });
}

#[test]
fn an_invalid_group_is_wrong_usage() {
    for group in ["tcp:nonsense:port", "8080", "sctp:127.0.0.1:80", ":65536"] {
        let output = run(&["show", group]);
        assert_eq!(output.status.code(), Some(2), "{group}: {output:?}");
    }
}

#[test]
fn a_file_that_is_not_an_object_is_refused_and_nothing_changes() {
    isolated(|| {
        let (_listeners, group) = group(2);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "no ELF").unwrap();
        let path = file.path().to_str().unwrap();
        let error = error(2, &["attach", &group, "--object", path]);
        assert!(error.contains(path), "{error}");
        assert!(json(&["show", &group, "--json"])["program"].is_null());
        assert_eq!(pinned_groups(), 0);
    });
}

#[test]
fn a_users_program_is_told_its_members_and_notes_are_printed_once() {
    const OBJECTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../reuseport/tests/bpf");

    isolated(|| {
        let (_listeners, group) = group(2);
        let others = format!("{OBJECTS}/own_others.bpf.o");
        let attach = ["attach", &group, "--object", &others, "--program", "second"];
        let text = stdout(&attach);
        let note = "section `sk_reuseport/selector` counts as `sk_reuseport`";
        assert_eq!(text.matches(note).count(), 1, "{text}");
        assert!(text.contains("call (syscall), classify (tc), drop (xdp)"), "{text}");
        let shown = stdout(&["show", &group]);
        assert!(shown.contains("picks     not counted; where it selects nothing"), "{shown}");
        let watcher = Running::start(&[&attach[..], &["--watch"]].concat());
        watcher.interrupted_after(note);

        let settings = format!("{OBJECTS}/own_settings.bpf.o");
        let attach = ["attach", &group, "--object", &settings, "--program", "among_workers"];
        let set = |setting| error(2, &[&attach[..], &["--set", setting]].concat());
        let output = run(&[&attach[..], &["--set", "workers"]].concat());
        let refused = String::from_utf8(output.stderr).unwrap();
        assert!(refused.contains("give NAME=VALUE or NAME[INDEX]=VALUE"), "{refused}");
        let refused = set("worker=members");
        assert!(
            refused.contains("cannot set `worker`") && refused.contains("its variables: "),
            "{refused}"
        );
        stdout(&[&attach[..], &["--set", "workers=members"]].concat());
        let output = run(&["attach", &group, "--set", "workers=2"]);
        assert!(String::from_utf8(output.stderr).unwrap().contains("--object"));
    });
}

/// The kernel program of the library, used as an object of the user: it has a program that selects
/// sockets and an array for them.
const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../reuseport/bpf/select.bpf.o");

#[test]
fn a_program_of_the_user_is_attached_and_detached() {
    isolated(|| {
        let (_listeners, group) = group(1);
        let error = error(2, &["attach", &group, "--object", OBJECT, "--program", "other"]);
        assert!(error.contains("other"), "{error}");
        let text = stdout(&["attach", &group, "--object", OBJECT, "--map", "sockets"]);
        assert!(text.contains("your program decides among 1 socket"), "{text}");

        let shown = json(&["show", &group, "--json"]);
        assert_eq!(shown["program"]["kind"], "object");
        assert!(shown["policy"].is_null() && shown["members"][0]["picks"].is_null());
        assert_eq!(shown["members"][0]["slot"], 0);
        assert!(!stdout(&["show", &group]).contains("PICKS"));
        stdout(&["detach", &group]);
        assert!(json(&["show", &group, "--json"])["program"].is_null());
    });
}

#[test]
fn a_foreign_program_is_replaced_only_by_force() {
    isolated(|| {
        let (listeners, group) = group(2);
        let mut object = sk_reuseport::Ebpf::load_file(OBJECT).unwrap();
        let program = object.program_mut("reuseport").unwrap();
        let program: &mut sk_reuseport::programs::SkReuseport = program.try_into().unwrap();
        program.load().unwrap();
        program.attach(&listeners[0]).unwrap();

        assert_eq!(json(&["show", &group, "--json"])["program"]["kind"], "foreign");
        assert!(stdout(&["ls", "--netns", &own_netns()]).contains("foreign reuseport#"));
        let refused = error(2, &["attach", &group]);
        assert!(refused.contains("--force"), "{refused}");
        assert_eq!(json(&["show", &group, "--json"])["program"]["kind"], "foreign");
        error(2, &["detach", &group]);

        let text = stdout(&["attach", &group, "--force"]);
        assert!(text.contains("replaced reuseport#"), "{text}");
        assert_eq!(json(&["show", &group, "--json"])["program"]["policy"], "least-loaded");
    });
}

#[test]
fn an_ordinary_user_is_told_which_capabilities_are_missing() {
    isolated(|| {
        // Copied to where every user may execute it; the build directory may be private.
        let directory =
            tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
        let copy = directory.path().join("reuseport");
        std::fs::copy(cargo_bin!("reuseport"), &copy).unwrap();
        for verb in ["ls", "demo"] {
            let output = output(Command::new(&copy).arg(verb).uid(65_534).gid(65_534)).unwrap();
            assert_eq!(output.status.code(), Some(2), "{output:?}");
            let text = String::from_utf8(output.stderr).unwrap();
            assert!(text.contains("CAP_BPF") && text.lines().count() == 2, "{text}");
        }
    });
}

#[test]
fn watch_enrols_new_workers_and_stays_attached_on_interrupt() {
    isolated(|| {
        let mut nginx = Nginx::start(2);
        let group = format!("tcp:{}", nginx.addr());
        let watch = Running::start(&["attach", &group, "--policy", "round-robin", "--watch"]);
        let steered = |n: usize| {
            let output = run(&["show", &group, "--json"]);
            let Ok(shown) = serde_json::from_slice::<Value>(&output.stdout) else { return false };
            let members = shown["members"].as_array().unwrap();
            shown["policy"] == "round-robin"
                && members.len() == n
                && members.iter().all(|m| m["state"] == "active")
        };
        until("two workers are steered", BOUND, || steered(2));
        nginx.reload(3);
        until("the third worker is steered", BOUND, || steered(3));
        nginx.restart();
        until("the new group is steered", BOUND, || steered(3));
        assert!(try_http_get(nginx.addr()).is_ok());

        let output = watch.interrupt();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(steered(3), "the policy stays attached");
    });
}

#[test]
fn watch_goes_on_when_the_reader_of_its_output_has_exited() {
    isolated(|| {
        let (listeners, group) = group(2);
        let mut watch = Running::start(&["attach", &group, "--watch"]);
        watch.read_until("Watching");
        drop(watch.0.stdout.take());
        let address = listeners[0].local_addr().unwrap();
        // Each is reported, in vain.
        for _ in 0..2 {
            let new = Bind::new(address).listeners(1).unwrap();
            let active = || {
                let shown = json(&["show", &group, "--json"]);
                let members = shown["members"].as_array().unwrap().clone();
                members.iter().filter(|member| member["state"] == "active").count()
            };
            until("the new member is steered", BOUND, || active() == 3);
            drop(new);
            until("it has left", BOUND, || active() == 2);
        }
        let output = watch.interrupt();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.matches("go on without: Broken pipe").count(), 1, "{said}");
    });
}

#[test]
fn demo_proves_that_the_program_decided_and_leaves_nothing() {
    isolated(|| {
        let text = stdout(&["demo", "--seconds", "1"]);
        let proof = "the program picked 300 times by its own counters; the workers accepted 300";
        assert_eq!(text.matches(proof).count(), 2, "{text}");
        assert_eq!(json(&["ls", "--json", "--netns", &own_netns()]), serde_json::json!([]));
        assert_eq!(pinned_groups(), 0);
    });
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    isolated(|| {
        let mut demo = Running::start(&["demo", "--seconds", "600"]);
        demo.read_until("1 of 3");
        let output = demo.interrupt();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.starts_with("reuseport: the demo was interrupted"), "{text}");
        assert_eq!(pinned_groups(), 0);
    });
}
