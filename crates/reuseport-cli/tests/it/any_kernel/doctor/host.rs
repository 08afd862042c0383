//! What `doctor` says about the host, and about what it cannot look at.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use test_support::process::{close, output};
use test_support::{bpffs, program};

use super::{attach, watched};
use crate::common::{group, isolated, own_netns, run};

/// As an ordinary user with these capabilities.
fn as_user(capabilities: &str, arguments: &[&str]) -> Output {
    let mut setpriv = Command::new(program("setpriv"));
    let capabilities = format!("-all{capabilities}");
    setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    setpriv.arg(format!("--inh-caps={capabilities}"));
    setpriv.arg(format!("--ambient-caps={capabilities}"));
    setpriv.arg(cargo_bin!("reuseport")).args(arguments);
    output(&mut setpriv).unwrap()
}

#[test]
fn what_cannot_be_seen_is_said_and_not_taken_for_fine() {
    isolated(|| {
        let (listeners, group) = group(2);
        let _watched: Vec<_> = listeners.iter().map(watched).collect();
        attach(&group);
        // The mount of the test's bpffs is closed to others.
        let output = as_user(",+bpf,+perfmon", &["doctor", &group, "--json"]);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let unseen = found["groups"][0]["unseen"].as_array().unwrap();
        let state = unseen.iter().find(|one| one["what"] == "its state and its watcher");
        assert!(state.unwrap()["why"].as_str().unwrap().contains("belongs to uid 0"), "{found}");
        assert_eq!(found["groups"][0]["findings"].as_array().unwrap().len(), 0, "{found}");
    });
}

/// What `doctor` says about the host: its exit status, and what it prints for programs.
fn host(output: &Output) -> (Option<i32>, Value) {
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.code(), found)
}

fn check<'a>(found: &'a Value, name: &str) -> &'a Value {
    let checks = found["host"]["checks"].as_array().unwrap();
    checks.iter().find(|check| check["check"] == name).unwrap()
}

#[test]
fn the_host_is_asked_for_its_features_and_nothing_is_left_behind() {
    isolated(|| {
        let netns = own_netns();
        let arguments = ["doctor", "--json", "--netns", &*netns];
        let pinned = || fs::read_dir(bpffs::PATH).unwrap().count();
        let before = pinned();
        let (_, found) = host(&run(&arguments));
        let checks = found["host"]["checks"].as_array().unwrap();
        let names: Vec<&str> = checks.iter().map(|one| one["check"].as_str().unwrap()).collect();
        assert_eq!(names, reuseport::finding::CHECKS);
        for check in checks {
            let fine = check["outcome"] == "fine";
            assert!(fine || !check["mend"].as_str().unwrap().is_empty(), "{check}");
            assert!(!check["text"].as_str().unwrap().is_empty(), "{check}");
        }
        for name in ["kernel-types", "list-descriptors", "select-programs", "ring-buffer"] {
            assert_eq!(check(&found, name)["outcome"], "fine", "{found}");
        }
        let rights = found["host"]["rights"].as_array().unwrap();
        assert!(rights.iter().all(|right| right["missing"] == serde_json::json!([])), "{rights:?}");
        assert_eq!(pinned(), before, "it pins nothing");
        // Named groups are answered by themselves.
        let (_listeners, group) = group(2);
        let (_, found) = host(&run(&["doctor", &group, "--json"]));
        assert_eq!(found["host"], Value::Null);
        let settings = &found["groups"][0]["settings"];
        assert!(settings["net.core.somaxconn"].is_u64(), "{settings}");
    });
}

#[test]
fn an_ordinary_user_is_told_what_is_missing_and_all_the_rest() {
    isolated(|| {
        let (_listeners, group) = group(2);
        let output = as_user("", &["doctor", "--json"]);
        let (code, found) = host(&output);
        assert_eq!(code, Some(3), "{output:?}");
        assert_eq!(found["unseen"][0]["what"], "the groups");
        assert!(found["unseen"][0]["why"].as_str().unwrap().contains("CAP_BPF"), "{found}");
        for (name, outcome) in [("select-programs", "unseen"), ("kernel-types", "fine")] {
            assert_eq!(check(&found, name)["outcome"], outcome, "{found}");
        }
        let rights = found["host"]["rights"].as_array().unwrap();
        let of = |what: &str| {
            let right = rights.iter().find(|one| one["what"].as_str().unwrap().starts_with(what));
            right.unwrap()["missing"].clone()
        };
        assert_eq!(
            of("ls, show, doctor, metrics: finding"),
            serde_json::json!(["CAP_BPF", "CAP_PERFMON"])
        );
        assert_eq!(of("mounting"), serde_json::json!([]), "it is mounted");
        // A group that is asked for cannot be found: a failure, and the rest is said all the same.
        let output = as_user("", &["doctor", &group]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("not allowed: ") && said.contains("not seen: the groups"), "{said}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("hint: run it as root"));
    });
}

#[test]
fn leftovers_and_a_directory_that_all_may_write_are_told() {
    isolated(|| {
        let (listeners, group) = group(2);
        attach(&group);
        let netns = own_netns();
        let doctor = || host(&run(&["doctor", "--json", "--netns", &*netns])).1;
        let found = doctor();
        for name in ["leftovers", "directory", "other-versions"] {
            assert_eq!(check(&found, name)["outcome"], "fine", "{found}");
        }
        close(listeners);
        let found = doctor();
        let left = check(&found, "leftovers");
        assert_eq!(left["outcome"], "advice");
        assert!(left["text"].as_str().unwrap().contains("/groups/tcp-7f000001-"), "{left}");
        let silenced = ["doctor", "--json", "--netns", &*netns, "--silence", "leftovers"];
        let (_, found) = host(&run(&silenced));
        assert_eq!(found["host"]["silenced"], serde_json::json!(["leftovers"]));

        let root = Path::new(bpffs::PATH).join("reuseport");
        fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let found = doctor();
        let directory = check(&found, "directory");
        assert_eq!(directory["outcome"], "problem");
        assert!(directory["mend"].as_str().unwrap().starts_with("`chmod o-w /"), "{directory}");
    });
}
