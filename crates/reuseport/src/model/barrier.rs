//! What keeps a process from bpf(2), or from another process's sockets, when the kernel says EPERM: it gives one
//! number for many reasons. Values and computation, no I/O.

use crate::error::Hint;

/// The rights and limits of a process or thread.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Credentials {
    /// Real, effective and saved ids.
    pub(crate) uids: [u32; 3],
    pub(crate) gids: [u32; 3],
    /// Permitted capabilities, a bit for each.
    pub(crate) permitted: u64,
    /// Whether a seccomp filter watches its system calls.
    pub(crate) filtered: bool,
}

impl Credentials {
    /// Reads `/proc/PID/status`; `None` if lines are missing.
    pub(crate) fn parse(status: &str) -> Option<Self> {
        let line = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        let ids = |name| {
            let mut ids = line(name)?.split_whitespace().map(|id| id.parse().ok());
            Some([ids.next()??, ids.next()??, ids.next()??])
        };
        Some(Self {
            uids: ids("Uid")?,
            gids: ids("Gid")?,
            permitted: u64::from_str_radix(line("CapPrm")?, 16).ok()?,
            // Kernels without seccomp have no such line.
            filtered: line("Seccomp") == Some("2"),
        })
    }
}

/// A process whose socket is to be borrowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) credentials: Credentials,
    /// `PR_SET_DUMPABLE`; `None`: not known.
    pub(crate) dumpable: Option<bool>,
    /// Whether it is in the user namespace of the caller.
    pub(crate) same_user_namespace: bool,
}

/// A caller that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) credentials: Credentials,
    /// Whether it has CAP_SYS_PTRACE in effect.
    pub(crate) traces: bool,
    /// Whether it is in the initial user namespace.
    pub(crate) initial_user_namespace: bool,
    /// Whether it may copy a descriptor of its own process (`pidfd_getfd`), which takes no right at all.
    pub(crate) copies_its_own: bool,
    /// `kernel.yama.ptrace_scope`; `None`: the kernel has no Yama.
    pub(crate) yama: Option<u8>,
}

/// Why something was refused, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Barrier {
    /// A clause: "it runs as uid 0, and this process as uid 1000".
    pub(crate) why: String,
    pub(crate) hint: Hint,
}

const OUTSIDE: &str = "run it on the host, in the initial user namespace";
const ALLOW: &str = "let the container's seccomp profile allow bpf, pidfd_open and pidfd_getfd, or run it on the host";

/// Why the caller may not trace the target, in the order in which the kernel looks (`__ptrace_may_access`, then the
/// security modules).
pub(crate) fn untraceable(caller: &Caller, target: Option<&Target>) -> Barrier {
    let barrier = |why: String, hint: Hint| Barrier { why, hint };
    if !caller.copies_its_own {
        let by = refused_by(caller.credentials.filtered);
        return barrier(
            format!("{by} pidfd_getfd(2) to this process, for its own descriptors too"),
            ALLOW.into(),
        );
    }
    if caller.yama == Some(3) {
        return barrier(
            "kernel.yama.ptrace_scope is 3: no process may trace another one".to_owned(),
            "it stays so until the next boot: let that set 2 or less".into(),
        );
    }
    if !caller.initial_user_namespace && target.is_some_and(|target| !target.same_user_namespace) {
        let why =
            "it runs in another user namespace, where the capabilities of this one do not count";
        return barrier(why.to_owned(), OUTSIDE.into());
    }
    let seen = looked_at(caller, target);
    if caller.traces {
        return barrier(
            format!("CAP_SYS_PTRACE is there, and what refuses is not known ({seen})"),
            "a security module (SELinux, AppArmor) may be the reason: see the kernel's log".into(),
        );
    }
    let grant = Hint::Grant { needed: vec!["CAP_SYS_PTRACE"], missing: vec!["CAP_SYS_PTRACE"] };
    let why = target.and_then(|target| takes_ptrace(&caller.credentials, target));
    let why = why.or_else(|| match caller.yama {
        Some(1) => Some(
            "kernel.yama.ptrace_scope is 1: without CAP_SYS_PTRACE, a process traces its descendants only".to_owned(),
        ),
        Some(2) => Some("kernel.yama.ptrace_scope is 2: that takes CAP_SYS_PTRACE".to_owned()),
        _ => None,
    });
    match why {
        Some(why) => barrier(why, grant),
        None => barrier(format!("what refuses is not known ({seen})"), grant),
    }
}

/// Why it takes CAP_SYS_PTRACE to trace this process, whatever Yama says.
fn takes_ptrace(caller: &Credentials, target: &Target) -> Option<String> {
    let Target { credentials: theirs, dumpable, same_user_namespace } = target;
    let all = |ids: [u32; 3], own: u32| ids.iter().all(|id| *id == own);
    let (uid, gid) = (caller.uids[0], caller.gids[0]);
    if !all(theirs.uids, uid) {
        let other = theirs.uids.iter().find(|id| **id != uid)?;
        return Some(format!("it runs as uid {other}, and this process as uid {uid}"));
    }
    if !all(theirs.gids, gid) {
        let other = theirs.gids.iter().find(|id| **id != gid)?;
        return Some(format!("it runs with gid {other}, and this process with gid {gid}"));
    }
    if *dumpable == Some(false) {
        return Some(
            "it is not dumpable (PR_SET_DUMPABLE 0, or it has changed its user or its capabilities)".to_owned(),
        );
    }
    if !same_user_namespace {
        return Some("it runs in another user namespace".to_owned());
    }
    (theirs.permitted & !caller.permitted != 0)
        .then(|| "it has capabilities that this process lacks".to_owned())
}

/// What does not explain a refusal.
fn looked_at(caller: &Caller, target: Option<&Target>) -> String {
    let yama = match caller.yama {
        Some(scope) => format!("Yama's ptrace_scope is {scope}"),
        None => "this kernel has no Yama".to_owned(),
    };
    let dumpable = match target.map(|target| target.dumpable) {
        Some(Some(true)) => "the process is dumpable",
        Some(Some(false)) => "the process is not dumpable",
        Some(None) => "whether the process is dumpable is not known",
        None => "nothing is known of the process",
    };
    format!("{yama}; {dumpable}")
}

fn refused_by(filtered: bool) -> &'static str {
    match filtered {
        true => "a seccomp filter refuses",
        false => "a security module refuses",
    }
}

/// What the caller of bpf(2) that was refused has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loader {
    /// What the operation takes, and what of it the caller lacks.
    pub(crate) needed: Vec<&'static str>,
    pub(crate) missing: Vec<&'static str>,
    pub(crate) initial_user_namespace: bool,
    /// Whether it may call bpf(2) at all: a harmless call.
    pub(crate) calls_bpf: bool,
    /// Whether a seccomp filter watches it.
    pub(crate) filtered: bool,
    pub(crate) locked_down: bool,
}

/// What to do where the kernel refuses bpf(2). `None`: these are not the reason.
pub(crate) fn unloadable(loader: Loader) -> Option<Hint> {
    let Loader { needed, missing, initial_user_namespace, calls_bpf, filtered, locked_down } =
        loader;
    if !initial_user_namespace {
        return Some(Hint::NotInEffect { needed });
    }
    // Before Linux 5.19, kernel.unprivileged_bpf_disabled refuses every call of a process without CAP_BPF.
    if !calls_bpf && !missing.contains(&"CAP_BPF") {
        let lacks = match missing.is_empty() {
            true => String::new(),
            false => format!("; also grant {}, which it lacks", missing.join(" and ")),
        };
        return Some(
            format!("{} bpf(2) to this process: {ALLOW}{lacks}", refused_by(filtered)).into(),
        );
    }
    if !missing.is_empty() {
        return Some(Hint::Grant { needed, missing });
    }
    locked_down.then(|| {
        "the kernel is locked down for confidentiality, and lets no program read its memory: boot without that".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTRACE: u64 = 1 << 19;

    fn user(uid: u32) -> Credentials {
        Credentials { uids: [uid; 3], gids: [uid; 3], ..Credentials::default() }
    }

    fn caller(uid: u32) -> Caller {
        Caller {
            credentials: user(uid),
            traces: false,
            initial_user_namespace: true,
            copies_its_own: true,
            yama: None,
        }
    }

    fn target(uid: u32) -> Target {
        Target { credentials: user(uid), dumpable: Some(true), same_user_namespace: true }
    }

    #[track_caller]
    fn because(caller: &Caller, target: &Target, why: &str, hint: &str) {
        let barrier = untraceable(caller, Some(target));
        assert!(barrier.why.contains(why), "{barrier:?}");
        assert!(barrier.hint.to_string().contains(hint), "{barrier:?}");
    }

    const GRANT: &str = "missing here: CAP_SYS_PTRACE";

    #[test]
    fn the_barrier_of_another_process_is_named() {
        let (own, root) = (caller(7), Caller { traces: true, ..caller(0) });
        because(&own, &target(0), "it runs as uid 0, and this process as uid 7", GRANT);
        let group = Target { credentials: Credentials { gids: [7, 8, 7], ..user(7) }, ..target(7) };
        because(&own, &group, "gid 8", GRANT);
        let set_user =
            Target { credentials: Credentials { uids: [7, 0, 0], ..user(7) }, ..target(7) };
        because(&own, &set_user, "uid 0", GRANT);
        because(&own, &Target { dumpable: Some(false), ..target(7) }, "not dumpable", GRANT);
        let stronger =
            Target { credentials: Credentials { permitted: PTRACE, ..user(7) }, ..target(7) };
        because(&own, &stronger, "capabilities that this process lacks", GRANT);
        for (scope, why) in [(1, "its descendants only"), (2, "ptrace_scope is 2")] {
            because(&Caller { yama: Some(scope), ..own.clone() }, &target(7), why, GRANT);
        }
        // No capability helps.
        let strict = Caller { yama: Some(3), ..root.clone() };
        because(&strict, &target(7), "ptrace_scope is 3", "next boot");
        let filtered = Credentials { filtered: true, ..user(0) };
        let filtered = Caller { copies_its_own: false, credentials: filtered, ..root.clone() };
        because(&filtered, &target(7), "a seccomp filter refuses pidfd_getfd", "seccomp profile");
        let container = Caller { initial_user_namespace: false, ..root.clone() };
        let outside = Target { same_user_namespace: false, ..target(7) };
        because(&container, &outside, "another user namespace", "on the host");
        // It is not known.
        because(
            &Caller { yama: Some(2), ..root },
            &target(7),
            "Yama's ptrace_scope is 2",
            "SELinux",
        );
        because(&own, &target(7), "no Yama; the process is dumpable", GRANT);
    }

    #[test]
    fn the_barrier_of_bpf_is_named() {
        let loader = Loader {
            needed: vec!["CAP_BPF", "CAP_PERFMON"],
            missing: vec![],
            initial_user_namespace: true,
            calls_bpf: true,
            filtered: false,
            locked_down: false,
        };
        let hint =
            |loader: Loader| unloadable(loader).map_or(String::new(), |hint| hint.to_string());
        assert_eq!(hint(loader.clone()), "");
        let missing = Loader { missing: vec!["CAP_BPF"], ..loader.clone() };
        assert!(hint(missing.clone()).contains("missing here: CAP_BPF"));
        // A capability that was granted would not count there.
        let container = Loader { initial_user_namespace: false, ..missing.clone() };
        assert!(hint(container).contains("initial user namespace"));
        // An ordinary user before Linux 5.19.
        let user = hint(Loader { calls_bpf: false, filtered: true, ..missing });
        assert!(
            user.contains("missing here: CAP_BPF") && !user.contains("refuses bpf(2)"),
            "{user}"
        );
        let partly = Loader { missing: vec!["CAP_PERFMON"], ..loader.clone() };
        let filtered = hint(Loader { calls_bpf: false, filtered: true, ..partly });
        assert!(filtered.contains("seccomp filter") && filtered.contains("also grant CAP_PERFMON"));
        let module = hint(Loader { calls_bpf: false, ..loader.clone() });
        assert!(module.starts_with("a security module refuses bpf(2)"), "{module}");
        assert!(hint(Loader { locked_down: true, ..loader }).contains("locked down"));
    }

    #[test]
    fn credentials_are_read_from_the_status() {
        let status = "Name:\tnginx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nCapPrm:\t00000000000c0000\n\
                      CapEff:\t0000000000000000\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        let expected =
            Credentials { uids: [1, 2, 3], gids: [5, 6, 7], permitted: 0xc_0000, filtered: true };
        assert_eq!(Credentials::parse(status), Some(expected));
        assert_eq!(Credentials::parse("Uid:\t1\t2\t3\n"), None);
    }
}
