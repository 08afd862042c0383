//! Errors of the kernel's, and the capability that is missing where it refused.

use std::error::Error as StdError;
use std::fs;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};

use crate::error::{Error, ErrorKind};

/// To list sockets, and to count connections.
pub(crate) const TRACING: &[(CapabilitySet, &str)] =
    &[(CapabilitySet::BPF, "CAP_BPF"), (CapabilitySet::PERFMON, "CAP_PERFMON")];

/// To make maps and load select programs.
pub(crate) const LOADING: &[(CapabilitySet, &str)] = &[(CapabilitySet::BPF, "CAP_BPF")];

/// To steer sockets that another program holds, by a socket map.
pub(crate) const SOCKET_MAPS: &[(CapabilitySet, &str)] =
    &[(CapabilitySet::BPF, "CAP_BPF"), (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN")];

/// What failed, and what to do where the kernel refused for want of one of these capabilities.
pub(crate) fn failed(
    tried: &str,
    source: impl Into<Box<dyn StdError + Send + Sync>>,
    needed: &[(CapabilitySet, &'static str)],
) -> Error {
    let source = source.into();
    let missing = missing(needed);
    let denied = match os_error(source.as_ref()) {
        Some(Errno::PERM) => true,
        // The verifier says EACCES too, of a program that it does not take from anybody.
        Some(Errno::ACCESS) => !missing.is_empty(),
        _ => false,
    };
    if !denied {
        return Error::new(ErrorKind::System, tried).because(source);
    }
    let names: Vec<&str> = needed.iter().map(|(_, name)| *name).collect();
    let remedy = if missing.is_empty() {
        format!(
            "{} do not count here although they are there: run it outside of the container (in \
             the initial user namespace), and without kernel lockdown in confidentiality mode",
            names.join(" and ")
        )
    } else {
        format!(
            "missing here: {}; run it as root, or grant {}",
            missing.join(" and "),
            names.join(" and ")
        )
    };
    Error::new(ErrorKind::Denied, tried).because(source).remedy(remedy)
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

/// Whether the kernel is locked down so that nobody may read its memory. Where that cannot be known
/// (no securityfs), it is not said to be.
pub(crate) fn confidential() -> bool {
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown");
    lockdown.is_ok_and(|modes| modes.contains("[confidentiality]"))
}

/// Whether the calling thread has all of these capabilities.
pub(crate) fn has(needed: &[(CapabilitySet, &'static str)]) -> bool {
    missing(needed).is_empty()
}

/// Those of the capabilities that the calling thread does not have.
fn missing(needed: &[(CapabilitySet, &'static str)]) -> Vec<&'static str> {
    let has = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    needed
        .iter()
        // CAP_SYS_ADMIN stands for all of them (include/linux/capability.h), but for CAP_NET_ADMIN.
        .filter(|(one, name)| {
            let stands_in = if *name == "CAP_NET_ADMIN" { *one } else { CapabilitySet::SYS_ADMIN };
            !has.intersects(*one | stands_in)
        })
        .map(|(_, name)| *name)
        .collect()
}
