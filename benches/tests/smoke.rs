//! Runs every bench once at minimal size, so that it keeps working. The results mean nothing.

#![allow(clippy::unwrap_used, reason = "in a test, that is the assertion")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Of the next file with results.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Runs a bench, and returns its results from `--json`.
fn bench(name: &str, options: &[&str]) -> serde_json::Value {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let json = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{name}-{number}.json"));
    let _ = std::fs::remove_file(&json);
    let mut command = Command::new(env!("CARGO_BIN_EXE_benches"));
    let output = command.arg(name).args(options).arg("--json").arg(&json).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}");
    let found: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(found["bench"], name);
    let figures = found["figures"].as_array().unwrap();
    let is_measured = |figure: &serde_json::Value| {
        let value = figure["value"].as_f64().unwrap();
        let name = figure["name"].as_str().unwrap();
        // Connections that are dealt exactly deviate by 0, and a watcher that is told of newcomers may sleep all the time.
        let may_be_0 = name.starts_with("lasting, burst") || name.contains(" TCP group");
        value > 0.0 || value == 0.0 && may_be_0
    };
    assert!(figures.iter().all(is_measured), "{figures:?}");
    let printed = String::from_utf8_lossy(&output.stdout);
    for figure in figures {
        let name = figure["name"].as_str().unwrap();
        assert!(printed.contains(name), "{name} is not in\n{printed}");
    }
    found
}

/// The command, built if only this package is being tested.
fn reuseport() -> String {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_benches")).with_file_name("reuseport");
    if !path.exists() {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "reuseport-cli"]);
        assert!(cargo.status().unwrap().success(), "cannot build the command");
    }
    path.into_os_string().into_string().unwrap()
}

fn figure<'a>(found: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let figures = found["figures"].as_array().unwrap();
    figures.iter().find(|figure| figure["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn load_compares_with_aya() {
    let found = bench("load", &["--rounds", "1"]);
    assert_eq!(figure(&found, "select, plain: ours to aya")["aim"], 1.0);
}

#[test]
fn select_measures_every_policy() {
    let found = bench("select", &["--rounds", "1", "--tcp-rounds", "1", "--members", "2,16"]);
    for policy in ["hash", "round-robin", "random"] {
        figure(&found, &format!("UDP, 2 members, few flows: {policy} to no program"));
        figure(&found, &format!("UDP, {policy}: 16 members to 2"));
        figure(&found, &format!("TCP: {policy}, the program alone, to no program"));
    }
}

#[test]
fn slow_latency_measures_every_contender_in_every_scenario() {
    let plots = env!("CARGO_TARGET_TMPDIR");
    let options = ["--rounds", "1", "--millis", "100", "--workers", "3", "--plots", plots];
    let found = bench("latency", &options);
    let plot = std::fs::read_to_string(Path::new(plots).join("latency-hang.svg")).unwrap();
    assert!(["99.99 %", "shared socket"].iter().all(|text| plot.contains(text)), "{plot}");
    // The bench itself fails unless the programs dealt every connection.
    let scenarios = ["uniform", "blocking, 25 %", "bimodal", "hang", "drop-hang", "one-source"];
    for scenario in scenarios.into_iter().chain(["reconnect", "bursts"]) {
        for contender in ["kernel hash", "SO_INCOMING_CPU", "source", "shared socket"] {
            let outcome = &found["raw"][format!("{scenario}, {contender}")][0];
            assert!(outcome["connections"].as_f64().unwrap() > 0.0, "{scenario}, {contender}");
        }
    }
    figure(&found, "blocking, 90 %: p99, least-loaded to shared socket");
    figure(&found, "reconnect: deviation of open connections, least-loaded to round-robin");
    let most = &found["raw"]["bursts, kernel hash"][0]["burst_share"];
    assert!((1.0..=3.0).contains(&most.as_f64().unwrap()), "of three workers: {most}");
    let refused = |contender| found["raw"][format!("fail-fast, {contender}")][0]["reset"].clone();
    assert!(refused("round-robin").as_f64().unwrap() > 0.0);
    let reached = &found["raw"]["stops accepting, round-robin"][0]["first"];
    assert!(reached.as_f64().unwrap() > 100.0, "{reached}");
}

#[test]
fn latency_compares_with_another_build() {
    let checkout = Path::new(env!("CARGO_TARGET_TMPDIR")).join("checkout");
    let release = checkout.join("target/release");
    let _ = std::fs::remove_dir_all(&checkout);
    std::fs::create_dir_all(&release).unwrap();
    std::os::unix::fs::symlink(reuseport(), release.join("reuseport")).unwrap();
    let scenarios = ["--scenario", "bursts", "--scenario", "reconnect"];
    let size = ["--rounds", "1", "--millis", "100", "--workers", "3"];
    let against = ["--against", checkout.to_str().unwrap()];
    let found = bench("latency", &[&scenarios[..], &size, &against].concat());
    for policy in ["round-robin", "least-loaded"] {
        figure(&found, &format!("bursts: p99, {policy} to other {policy}"));
        let deviation = "reconnect: deviation of open connections";
        figure(&found, &format!("{deviation}, {policy} to other {policy}"));
    }
}

#[test]
fn ls_finds_members_among_other_sockets() {
    let command = reuseport();
    let options = ["--rounds", "1", "--processes", "20", "--sockets", "6000", "--command"];
    let found = bench("ls", &[&options[..], &[&command]].concat());
    assert_eq!(figure(&found, "ls: 100 in 10 groups, among 6000 sockets")["aim"], 50.0);
}

#[test]
fn memory_adds_up_maps_and_programs() {
    let command = reuseport();
    let found = bench("memory", &["--rounds", "1", "--members", "8", "--command", &command]);
    assert_eq!(figure(&found, "kernel, 8 members, the group's")["met"], true);
    assert!(figure(&found, "resident, 8 members: show, the most")["value"].as_f64().unwrap() > 1.0);
}

#[test]
fn simulate_has_every_section() {
    let found = bench("simulate", &["--connections", "500"]);
    let sections: Vec<_> = found["raw"].as_object().unwrap().keys().collect();
    assert_eq!(sections.len(), 6 + 4 + 2, "{sections:?}");
}

#[test]
fn idle_measures_watchers_of_one_group_and_of_many() {
    let command = reuseport();
    let options = ["--rounds", "1", "--seconds", "1", "--groups", "2", "--sockets", "10"];
    let found = bench("idle", &[&options[..], &["--command", &command]].concat());
    for name in ["1 TCP group", "2 TCP groups"] {
        assert_eq!(figure(&found, &format!("{name}, alone, this build"))["aim"], 0.1);
    }
    assert_eq!(figure(&found, "1 UDP group, among 10 sockets, this build")["aim"], 1.0);
}
