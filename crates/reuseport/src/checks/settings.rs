//! Settings of the kernel that do not depend on a network namespace.

use std::fs;

use crate::kernel::caps;
use crate::kernel::namespace::number;
use crate::model::check::Check;
use crate::model::finding::Severity::{Advice, Problem};

const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
const UNPRIVILEGED: &str = "/proc/sys/kernel/unprivileged_bpf_disabled";
const YAMA: &str = "/proc/sys/kernel/yama/ptrace_scope";
const SYN_COOKIES: &str = "/proc/sys/net/ipv4/tcp_syncookies";

/// Each with its name and its value; `None` if the kernel does not have it, or it cannot be read.
pub(super) fn named() -> Vec<(&'static str, Option<String>)> {
    let value = |path| number(path).map(|value| value.to_string());
    vec![
        ("lockdown", lockdown()),
        ("kernel.unprivileged_bpf_disabled", value(UNPRIVILEGED)),
        ("kernel.yama.ptrace_scope", value(YAMA)),
    ]
}

/// The mode that is in force.
fn lockdown() -> Option<String> {
    let text = fs::read_to_string(LOCKDOWN).ok()?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

pub(super) fn checks() -> [Check; 4] {
    [of_lockdown(), of_unprivileged_bpf(), of_ptrace_scope(), of_syn_cookies()]
}

fn of_lockdown() -> Check {
    let one = Check::fine(
        "lockdown",
        "the kernel's lockdown: in confidentiality mode no program may read its memory, and no group can be listed",
        "",
    );
    match lockdown().as_deref() {
        Some("confidentiality") => {
            one.found(Problem, "confidentiality", "boot without lockdown=confidentiality")
        }
        Some(mode) => Check { seen: mode.to_owned(), ..one },
        None => Check { seen: "not there, or securityfs is not mounted".to_owned(), ..one },
    }
}

fn of_unprivileged_bpf() -> Check {
    let one = Check::fine(
        "unprivileged-bpf",
        "kernel.unprivileged_bpf_disabled: whether ordinary users may call bpf(2); this tool does not need it",
        "",
    );
    match number(UNPRIVILEGED) {
        Some(0) => one.found(
            Advice,
            "0: ordinary users may make maps and load programs of some types",
            "`sysctl kernel.unprivileged_bpf_disabled=2`, as most distributions have it",
        ),
        Some(value) => Check { seen: value.to_string(), ..one },
        None => Check { seen: "the kernel has no such setting".to_owned(), ..one },
    }
}

fn of_ptrace_scope() -> Check {
    let one = Check::fine(
        "ptrace-scope",
        "kernel.yama.ptrace_scope: taking a socket from another process takes the right to trace it",
        "",
    );
    let lacks = !caps::lacking(&["CAP_SYS_PTRACE"]).is_empty();
    match number(YAMA) {
        Some(3) => one.found(
            Problem,
            "3: no process may trace another one until the next boot, not even root",
            "let the next boot set 2 or less",
        ),
        Some(value @ 1..) if lacks => one.found(
            Advice,
            format!("{value}: your own servers, too, take CAP_SYS_PTRACE, which is not there"),
            "grant CAP_SYS_PTRACE, or `sysctl kernel.yama.ptrace_scope=0`",
        ),
        Some(value) => Check { seen: value.to_string(), ..one },
        None => Check { seen: "the kernel has no Yama".to_owned(), ..one },
    }
}

fn of_syn_cookies() -> Check {
    let one = Check::fine(
        "syn-cookies",
        "net.ipv4.tcp_syncookies: with SYN cookies, a connection is dealt by hash when its handshake ends, not by the \
         policy",
        "",
    );
    match number(SYN_COOKIES) {
        Some(2) => one.found(
            Advice,
            "2: always, also while no queue overflows",
            "`sysctl net.ipv4.tcp_syncookies=1`",
        ),
        Some(value) => Check { seen: value.to_string(), ..one },
        None => Check { seen: "the kernel has none".to_owned(), ..one },
    }
}
