//! Capabilities: those that an operation needs, and those that the caller lacks.

use std::error::Error as StdError;
use std::fs;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};

use crate::error::{Error, ErrorKind, Hint};

/// To list sockets, and to count connections.
pub(crate) const TRACING: &[(CapabilitySet, &str)] =
    &[(CapabilitySet::BPF, "CAP_BPF"), (CapabilitySet::PERFMON, "CAP_PERFMON")];

/// To make maps and load select programs.
pub(crate) const LOADING: &[(CapabilitySet, &str)] = &[(CapabilitySet::BPF, "CAP_BPF")];

/// To steer sockets that are in another program's socket map.
pub(crate) const SOCKET_MAPS: &[(CapabilitySet, &str)] =
    &[(CapabilitySet::BPF, "CAP_BPF"), (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN")];

/// To run programs for a cgroup.
pub(crate) const CGROUPS: &[(CapabilitySet, &str)] = SOCKET_MAPS;

/// To open another owner's program and its maps by their ids.
pub(crate) const TAKING_OVER: &[(CapabilitySet, &str)] =
    &[(CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN")];

/// An error with its cause. If the kernel refused for lack of a capability, the hint names it.
pub(crate) fn failed(
    failed: &str,
    source: impl Into<Box<dyn StdError + Send + Sync>>,
    needed: &[(CapabilitySet, &'static str)],
) -> Error {
    let source = source.into();
    let missing = missing(needed);
    let denied = match os_error(source.as_ref()) {
        Some(Errno::PERM) => true,
        // The verifier also returns EACCES for a program that it refuses to every caller.
        Some(Errno::ACCESS) => !missing.is_empty(),
        _ => false,
    };
    if !denied {
        return Error::new(ErrorKind::System, failed).because(source);
    }
    let needed = needed.iter().map(|(_, name)| *name).collect();
    let hint = match missing.is_empty() {
        true => Hint::NotInEffect { needed },
        false => Hint::Grant { needed, missing },
    };
    Error::new(ErrorKind::Denied, failed).because(source).with_hint(hint)
}

/// The first OS error in the chain of causes.
pub(crate) fn os_error(error: &(dyn StdError + 'static)) -> Option<Errno> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let errno = error.downcast_ref().and_then(Errno::from_io_error);
        if let Some(errno) = errno.or_else(|| error.downcast_ref::<Errno>().copied()) {
            return Some(errno);
        }
        cause = error.source();
    }
    None
}

/// Whether the kernel is locked down for confidentiality, so that no program may read its memory. False if
/// securityfs is not readable.
pub(crate) fn confidential() -> bool {
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown");
    lockdown.is_ok_and(|modes| modes.contains("[confidentiality]"))
}

/// Whether the calling thread has all of these capabilities.
pub(crate) fn has(needed: &[(CapabilitySet, &'static str)]) -> bool {
    missing(needed).is_empty()
}

/// The capabilities that the calling thread lacks.
fn missing(needed: &[(CapabilitySet, &'static str)]) -> Vec<&'static str> {
    let has = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    needed
        .iter()
        // CAP_SYS_ADMIN includes all of them but CAP_NET_ADMIN (include/linux/capability.h).
        .filter(|(one, name)| {
            let stands_in = if *name == "CAP_NET_ADMIN" { *one } else { CapabilitySet::SYS_ADMIN };
            !has.intersects(*one | stands_in)
        })
        .map(|(_, name)| *name)
        .collect()
}
