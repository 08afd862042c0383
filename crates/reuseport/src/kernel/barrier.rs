//! Looks at what may have kept the caller from bpf(2) or from another process, after the kernel refused
//! ([`model::barrier`](crate::model::barrier)).

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;

use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use rustix::thread::{CapabilitySet, capabilities};
use sk_reuseport::maps::MapData;

use crate::error::{Hint, os_error};
use crate::model::barrier::{self, Barrier, Caller, Credentials, Loader, Target};

/// The inode of the initial user namespace (`PROC_USER_INIT_INO`, include/linux/proc_ns.h).
const INITIAL_USER_NAMESPACE: u64 = 0xeffffffd;

/// Why the caller may not trace this process.
pub(crate) fn untraceable(pid: u32) -> Barrier {
    let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let caller = Caller {
        credentials: own_credentials(),
        traces: effective.contains(CapabilitySet::SYS_PTRACE),
        initial_user_namespace: in_initial_user_namespace(),
        copies_its_own: copies_its_own(),
        yama: yama(),
    };
    barrier::untraceable(&caller, target(pid).as_ref())
}

/// What to do where the kernel refuses bpf(2) for what takes these capabilities. `None`: the reason is not known.
pub(crate) fn unloadable(needed: Vec<&'static str>, missing: Vec<&'static str>) -> Option<Hint> {
    barrier::unloadable(Loader {
        needed,
        missing,
        initial_user_namespace: in_initial_user_namespace(),
        calls_bpf: calls_bpf(),
        filtered: own_credentials().filtered,
        locked_down: confidential(),
    })
}

fn own_credentials() -> Credentials {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    Credentials::parse(&status).unwrap_or_default()
}

/// True also if that cannot be read.
pub(crate) fn in_initial_user_namespace() -> bool {
    fs::metadata("/proc/self/ns/user").map_or(true, |ns| ns.ino() == INITIAL_USER_NAMESPACE)
}

/// A process may always trace itself (`__ptrace_may_access`): if it cannot copy its own descriptor, the call is
/// refused as such.
pub(crate) fn copies_its_own() -> bool {
    let copy = || {
        let own = pidfd_open(getpid(), PidfdFlags::empty())?;
        pidfd_getfd(&own, own.as_raw_fd(), PidfdGetfdFlags::empty())
    };
    !matches!(copy().map(drop), Err(Errno::PERM | Errno::ACCESS | Errno::NOSYS))
}

/// A call that takes no capability, and finds nothing.
fn calls_bpf() -> bool {
    let found = MapData::from_pin("/there is no such pin");
    let refused =
        |error| matches!(os_error(&error), Some(Errno::PERM | Errno::ACCESS | Errno::NOSYS));
    !found.is_err_and(refused)
}

/// Whether the kernel is locked down for confidentiality, so that no program may read its memory. False if
/// securityfs is not readable.
pub(crate) fn confidential() -> bool {
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown");
    lockdown.is_ok_and(|modes| modes.contains("[confidentiality]"))
}

fn yama() -> Option<u8> {
    fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok()?.trim().parse().ok()
}

/// What anyone may see of a process; `None` if it is gone or hidden.
fn target(pid: u32) -> Option<Target> {
    let status = format!("/proc/{pid}/status");
    let credentials = Credentials::parse(&fs::read_to_string(&status).ok()?)?;
    // The files of a process that is not dumpable belong to root (`task_dump_owner`).
    let owner = fs::metadata(&status).ok().map(|metadata| metadata.uid());
    let dumpable = match (owner, credentials.uids[1]) {
        (_, 0) | (None, _) => None,
        (Some(owner), uid) => Some(owner == uid),
    };
    let map = |pid: &str| fs::read_to_string(format!("/proc/{pid}/uid_map")).ok();
    let same_user_namespace = map(&pid.to_string()) == map("self");
    Some(Target { credentials, dumpable, same_user_namespace })
}
