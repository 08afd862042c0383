//! Capabilities: those that an operation needs, and those that the caller lacks.

use std::error::Error as StdError;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};

use super::barrier;
use crate::error::{Error, ErrorKind};

pub(crate) use crate::error::os_error;

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
    let needed: Vec<_> = needed.iter().map(|(_, name)| *name).collect();
    let is_of_call = sk_reuseport::hint_of(source.as_ref()).is_some_and(|hint| !hint.is_right());
    let hint = barrier::unloadable(needed.clone(), missing).or_else(|| {
        let there = needed.join(" and ");
        (!is_of_call).then(|| {
            format!("{there} is there; a security module may be the reason: see the kernel's log")
                .into()
        })
    });
    let error = Error::new(ErrorKind::Denied, failed).because(source);
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// As [`failed`], for a program of this tool: the verifier's words about it help no user.
pub(crate) fn failed_own(
    failed: &str,
    source: impl Into<Box<dyn StdError + Send + Sync>>,
    needed: &[(CapabilitySet, &'static str)],
) -> Error {
    use sk_reuseport::Hint::{TooComplex, Types, Verifier};

    let source = source.into();
    let hint = sk_reuseport::hint_of(source.as_ref());
    let error = self::failed(failed, source, needed);
    match hint {
        Some(Verifier { .. } | TooComplex { .. } | Types { .. }) if error.hint().is_none() => error
            .with_hint(
                "the kernel refuses a program of reuseport, which is an error of reuseport or of the kernel: \
                 please report it, with what REUSEPORT_LOG=debug prints",
            ),
        _ => error,
    }
}

/// Whether the calling thread has all of these capabilities.
pub(crate) fn has(needed: &[(CapabilitySet, &'static str)]) -> bool {
    missing(needed).is_empty()
}

/// Those of these capabilities that the calling thread lacks.
pub(crate) fn lacking(names: &[&'static str]) -> Vec<&'static str> {
    let all = [
        (CapabilitySet::BPF, "CAP_BPF"),
        (CapabilitySet::PERFMON, "CAP_PERFMON"),
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
        (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
        (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
    ];
    let needed: Vec<_> = all.into_iter().filter(|(_, name)| names.contains(name)).collect();
    missing(&needed)
}

/// The capabilities that the calling thread lacks.
pub(crate) fn missing(needed: &[(CapabilitySet, &'static str)]) -> Vec<&'static str> {
    let has = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    needed
        .iter()
        // CAP_SYS_ADMIN includes these two (include/linux/capability.h).
        .filter(|(one, name)| {
            let is_included = matches!(*name, "CAP_BPF" | "CAP_PERFMON");
            let stands_in = if is_included { CapabilitySet::SYS_ADMIN } else { *one };
            !has.intersects(*one | stands_in)
        })
        .map(|(_, name)| *name)
        .collect()
}
