//! `doctor` for people, and the JSON contract.

use super::{BLUE, OWN, identity, plain, reader};
use crate::output::doctor::{DiagnosisView, DoctorView, GroupFindings, UnseenView, text};
use crate::output::host::{CheckView, HostView, RightView};
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
        settings: [("net.core.somaxconn", Some(4096)), ("net.core.rmem_max", None)].into(),
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
    DoctorView::new(Ok(vec![fine, advised, wrong]), Some(host()))
}

fn host() -> HostView {
    let check = |check, outcome, text: &str, mend: &str| CheckView {
        check,
        outcome,
        text: text.to_owned(),
        about: "what it is for: without, something is lost",
        mend: mend.to_owned(),
        page: format!("docs/findings.md#{check}"),
    };
    let right = |what: &str, missing: Vec<&'static str>| RightView {
        what: what.to_owned(),
        needs: vec!["CAP_BPF", "CAP_SYS_PTRACE"],
        missing,
    };
    HostView {
        checks: vec![
            check("kernel-types", "fine", "read", ""),
            check("list-tables", "advice", "they cannot be read", "Linux 5.19"),
            check("select-programs", "problem", "the kernel refuses it", "Linux 5.14"),
            check("leftovers", "unseen", "cannot read /sys/fs/bpf/reuseport", ""),
            check("directory", "fine", "/sys/fs/bpf/reuseport belongs to uid 0, with mode 750", ""),
        ],
        rights: vec![
            right("ls, show, doctor: finding groups", Vec::new()),
            right("the same for other users' servers", vec!["CAP_SYS_PTRACE"]),
        ],
        settings: [("lockdown", Some("none".to_owned())), ("kernel.yama.ptrace_scope", None)]
            .into(),
        silenced: vec!["unprivileged-bpf"],
    }
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
    let nothing = || DoctorView::new(Ok(Vec::new()), None);
    assert_eq!(text(&nothing(), &reader(80)), "0 groups, 0 findings\n");
    assert!(nothing().is_fine() && !found().is_fine());
}

#[test]
fn groups_that_cannot_be_seen_are_not_fine() {
    let unseen = DoctorView::new(Err("cannot list sockets".to_owned()), None);
    assert!(!unseen.is_fine());
    let expected =
        "not seen: the groups: cannot list sockets\n\n0 groups, 0 findings, 1 thing not seen\n";
    assert_eq!(text(&unseen, &reader(80)), expected);
}
