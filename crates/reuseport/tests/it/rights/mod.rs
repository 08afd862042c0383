//! The capabilities that each step needs. Threads of an ordinary user with exactly the capabilities
//! in [`rights::STEPS`] succeed, and threads that lack one of them fail. docs/rights.md has the same table.
//!
//! Each attempt runs on its own thread, because user and capabilities belong to a thread. (The C
//! library changes those of all threads of a process; the system calls do not.)

mod barriers;
mod handed;
mod owners;
mod steps;
mod verbs;

use std::error::Error;

use self::steps::*;
use crate::common::rights::user_capable_of;
use crate::common::world::alone;
use reuseport::status::Steering;
use reuseport::{Attach, Balancer, ErrorKind, Host, rights};
use rustix::thread::CapabilitySet;
use sk_reuseport::util::KernelVersion;

pub(crate) type Outcome = Result<(), Box<dyn Error + Send + Sync>>;
/// What an ordinary user attempts after root has prepared it.
pub(crate) type Attempt = Box<dyn FnOnce() -> Outcome + Send>;
/// With a process of another user that root must end.
pub(crate) type Prepared = (Attempt, Option<Server>);

/// One row of the table, and how it is tried.
pub(crate) struct Step {
    pub(crate) what: &'static str,
    pub(crate) needs: Vec<Capability>,
    /// Capabilities of earlier steps, without which this one is never reached.
    pub(crate) given: Vec<Capability>,
    /// Words of an error that cannot name the capability.
    says: Option<&'static str>,
    /// Runs as root, in its own network namespace and with its own bpffs.
    prepare: fn() -> Prepared,
}

pub(crate) type Capability = (CapabilitySet, &'static str);
const BPF: Capability = (CapabilitySet::BPF, "CAP_BPF");
const PERFMON: Capability = (CapabilitySet::PERFMON, "CAP_PERFMON");
const NET_ADMIN: Capability = (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN");
const SYS_PTRACE: Capability = (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE");
const SYS_ADMIN: Capability = (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN");
const DAC_OVERRIDE: Capability = (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE");

/// How a step is tried: what it is, words of an error that cannot name the capability, and what root prepares.
type Trial = (&'static str, Option<&'static str>, fn() -> Prepared);

const ATTEMPTS: &[Trial] = &[
    ("make maps and socket arrays", None, make_maps),
    ("load a program that selects or migrates", None, load_select),
    ("attach a loaded program to your own sockets, detach it", None, attach_own),
    ("put your own sockets into a socket array", None, fill_own),
    ("open what is pinned", None, open_pinned),
    ("open what another user pinned", Some("owner and the mode"), open_pinned_by_root),
    ("make a socket map and put sockets into it", None, make_socket_map),
    ("list the groups of the host (`ls`, `show`)", None, list_groups),
    ("count open connections", None, count_open),
    ("be told of UDP sockets that are bound (`--watch`)", None, be_told_of_binds),
    ("borrow a socket from a process of the same user", None, borrow_from_same_user),
    ("borrow a socket from another user's process", None, borrow_from_root),
    ("attach a policy to your own servers, change it, detach it", None, steer_own),
    (
        "the same where another user owns /sys/fs/bpf/reuseport",
        Some("as the user who owns that directory"),
        steer_own_in_roots_directory,
    ),
    (NO_BPFFS, Some("mount -t bpf bpf /sys/fs/bpf"), mount_bpffs),
    ("attach a policy to another user's servers", None, steer_roots_server),
    ("open programs and maps by their ids", None, open_by_id),
];

const NO_BPFFS: &str = "the same where no bpffs is mounted yet";

/// The steps of the library's table, each with its attempt.
pub(crate) fn steps() -> Vec<Step> {
    let step = |(row, (what, says, prepare)): (&rights::Step, &Trial)| {
        assert_eq!(row.what, *what, "each step is tried");
        let capabilities = |names: &[&str]| names.iter().map(|name| capability(name)).collect();
        let (needs, given) = (capabilities(row.needs), capabilities(row.given));
        Step { what: row.what, needs, given, says: *says, prepare: *prepare }
    };
    assert_eq!(rights::STEPS.len(), ATTEMPTS.len(), "each step is tried");
    rights::STEPS.iter().zip(ATTEMPTS).map(step).collect()
}

fn capability(name: &str) -> Capability {
    let all = [BPF, PERFMON, NET_ADMIN, SYS_PTRACE, SYS_ADMIN, DAC_OVERRIDE];
    all.into_iter().find(|(_, known)| *known == name).unwrap()
}

/// The capabilities of earlier steps on this kernel. Before Linux 6.8 every bpffs belongs to root
/// (`bpf_fill_super` in kernel/bpf/inode.c sets no owner), and the library mounts it with mode
/// 0700.
fn given(step: &Step) -> CapabilitySet {
    let of_root =
        step.what == NO_BPFFS && KernelVersion::current().unwrap() < KernelVersion::new(6, 8, 0);
    union(&step.given) | if of_root { DAC_OVERRIDE.0 } else { CapabilitySet::empty() }
}

/// Whether CAP_SYS_ADMIN includes it (`bpf_capable()` and `perfmon_capable()` in
/// include/linux/capability.h).
pub(crate) fn stands_in(capability: &Capability) -> bool {
    [BPF.0, PERFMON.0].contains(&capability.0)
}

#[test]
fn each_step_works_with_exactly_the_capabilities_that_it_needs() {
    for step in &steps() {
        let result = attempt(step, union(&step.needs) | given(step));
        assert!(result.is_ok(), "{}: {}", step.what, result.unwrap_err());
    }
}

#[test]
fn each_step_fails_without_one_of_them_and_names_it() {
    let mut refused = 0;
    for step in &steps() {
        for (missing, name) in &step.needs {
            let rest = (union(&step.needs) | given(step)) - *missing;
            let error = attempt(step, rest).expect_err(step.what);
            let error = reuseport::Report::new(error.as_ref()).to_string();
            let said = step.says.unwrap_or(name);
            assert!(error.contains(said), "{} without {name}: {error}", step.what);
            refused += 1;
        }
    }
    println!("{} steps, {refused} refusals", ATTEMPTS.len());
    assert!(refused >= ATTEMPTS.len());
}

#[test]
fn cap_sys_admin_includes_cap_bpf_and_cap_perfmon() {
    for step in steps().iter().filter(|step| step.needs.iter().any(stands_in)) {
        let rest: Vec<_> = step.needs.iter().filter(|one| !stands_in(one)).copied().collect();
        let result = attempt(step, union(&rest) | CapabilitySet::SYS_ADMIN);
        assert!(result.is_ok(), "{}: {}", step.what, result.unwrap_err());
    }
}

#[test]
fn groups_are_listed_without_the_right_to_read_their_state() {
    alone(|| {
        let sockets = sockets();
        let host = Host::open().unwrap();
        let spec = format!("udp:{}", sockets[0].local_addr().unwrap()).parse().unwrap();
        let key = host.find(&spec).unwrap().key;
        Balancer::attach(&host, &key, &Attach::default()).unwrap();
        let steered = host.status(&key).unwrap().steering;
        assert!(steered.selection().is_some(), "{steered:?}");
        let seen =
            user_capable_of(union(&[BPF, PERFMON]), || Host::open().unwrap().status(&key).unwrap());
        assert_eq!(seen.group.members.len(), 2);
        assert_eq!(seen.steering, Steering::Foreign);
        // It is not called another owner's, which `--force` would replace.
        let refused = user_capable_of(union(&[BPF, PERFMON]), || {
            Balancer::open(&Host::open().unwrap(), &key).unwrap_err()
        });
        assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
        assert!(!refused.report().to_string().contains("--force"), "{refused}");
    });
}

fn union(capabilities: &[Capability]) -> CapabilitySet {
    capabilities.iter().fold(CapabilitySet::empty(), |all, (one, _)| all | *one)
}

/// Prepares a step as root and attempts it with exactly these capabilities.
fn attempt(step: &Step, capabilities: CapabilitySet) -> Outcome {
    alone(|| {
        let (attempt, _server) = (step.prepare)();
        user_capable_of(capabilities, attempt)
    })
}
