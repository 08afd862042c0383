//! `doctor` for people, and the JSON contract.

use super::{BLUE, OWN, identity, plain, reader};
use crate::output::doctor::{DiagnosisView, DoctorView, GroupFindings, UnseenView, text};
use reuseport::group::Protocol;

fn finding(name: &'static str, severity: &'static str, text: &str, mend: &str) -> DiagnosisView {
    DiagnosisView {
        finding: name,
        severity,
        members: vec!["cookie:12".to_owned()],
        text: text.to_owned(),
        mend: mend.to_owned(),
        page: format!("docs/findings.md#{name}"),
    }
}

fn found() -> DoctorView {
    let fine = GroupFindings {
        identity: identity(Protocol::Tcp, "0.0.0.0:80", OWN),
        members: 4,
        findings: Vec::new(),
        silenced: vec!["no-watcher"],
        unseen: Vec::new(),
    };
    let advised = GroupFindings {
        identity: identity(Protocol::Udp, "0.0.0.0:53", BLUE),
        findings: vec![finding(
            "multicast",
            "advice",
            "cookie:12 takes multicast: the kernel copies each datagram to every socket that takes it, and asks no \
             program",
            "none if each member is to get every datagram; otherwise let one member join",
        )],
        silenced: Vec::new(),
        unseen: vec![UnseenView {
            what: "the settings of its network namespace".to_owned(),
            why: "Operation not permitted (os error 1)".to_owned(),
        }],
        ..fine.clone()
    };
    let wrong = GroupFindings {
        identity: identity(Protocol::Tcp, "127.0.0.1:8080", OWN),
        findings: vec![
            finding(
                "queue-full",
                "problem",
                "the queue of cookie:12 is full: the kernel drops what comes there",
                "`reuseport attach tcp:127.0.0.1:8080` deals by what waits, and passes over full members; let more \
                 workers accept, or listen with a larger backlog",
            ),
            finding("several-wait", "advice", "several\u{1b}[2J wait", "let each worker bind one"),
        ],
        silenced: Vec::new(),
        ..fine.clone()
    };
    DoctorView::new(vec![fine, advised, wrong])
}

#[test]
fn doctor_80_columns() {
    let text = plain(&text(&found(), &reader(80)));
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn doctor_json() {
    insta::assert_json_snapshot!(found());
}

#[test]
fn nothing_found_is_one_line() {
    assert_eq!(text(&DoctorView::new(Vec::new()), &reader(80)), "0 groups, 0 findings\n");
    assert!(DoctorView::new(Vec::new()).is_fine() && !found().is_fine());
}
