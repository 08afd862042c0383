//! The probes: each creates a map, loads a program or looks for a function of the kernel.

use std::error::Error;
use std::io;

use io_uring::IoUring;
use rustix::io::Errno;
use sk_reuseport::maps::MapError;
use sk_reuseport::programs::{Program, ProgramError};
use sk_reuseport::{Btf, BtfError, BtfKind, Ebpf, EbpfError, KernelBtf};

use crate::{netns, nft};

const PROGRAMS: &[u8] = include_bytes!("../../bpf/features.bpf.o");
const RING_BUFFER: &[u8] = include_bytes!("../../bpf/ring_buffer.bpf.o");

/// The result of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// The kernel has it.
    Yes,
    /// The kernel does not have it.
    No,
    /// The probe was inconclusive, and why: no right to try, no memory, ...
    Unknown(String),
}

/// Tries to load a program of `features.bpf.c`. `target` is the name of the iterator or tracepoint,
/// if it is for one.
pub(super) fn program(name: &str, target: &str) -> Probe {
    let mut ebpf = match Ebpf::load(PROGRAMS) {
        Ok(ebpf) => ebpf,
        Err(error) => return Probe::Unknown(chain(&error)),
    };
    let program = ebpf.program_mut(name);
    let program = program.unwrap_or_else(|| panic!("features.bpf.c has no program {name}"));
    match load(program, target) {
        Ok(()) => Probe::Yes,
        // For an unknown feature the verifier returns EACCES, the rest of the kernel EINVAL.
        Err(ProgramError::LoadError { io_error, .. }) => {
            of(&io_error, &[Errno::INVAL, Errno::ACCESS])
        }
        Err(ProgramError::Unsupported { .. }) => Probe::No,
        // The BTF of the kernel has neither the iterator nor the tracepoint.
        Err(ProgramError::Btf(BtfError::UnknownBtfTypeName { .. })) => Probe::No,
        Err(error) => Probe::Unknown(chain(&error)),
    }
}

fn load(program: &mut Program, target: &str) -> Result<(), ProgramError> {
    match program {
        Program::SkReuseport(program) => program.load(),
        Program::Iter(program) => program.load(target, &Btf::from_sys_fs()?),
        Program::BtfTracePoint(program) => program.load(target, &Btf::from_sys_fs()?),
        other => panic!("features.bpf.c has an unexpected program: {other:?}"),
    }
}

/// Looks for a function of the kernel that programs can call.
pub(super) fn function(name: &str) -> Probe {
    let btf = match KernelBtf::from_sys_fs() {
        Ok(btf) => btf,
        Err(error) => return Probe::Unknown(chain(&error)),
    };
    match btf.ids([(name, BtfKind::Func)]) {
        Ok(_) => Probe::Yes,
        Err(BtfError::UnknownBtfTypeName { .. }) => Probe::No,
        Err(error) => Probe::Unknown(chain(&error)),
    }
}

/// Tries to create a ring buffer.
pub(super) fn ring_buffer() -> Probe {
    match Ebpf::load(RING_BUFFER) {
        Ok(_) => Probe::Yes,
        Err(EbpfError::MapError(MapError::CreateError { io_error, .. })) => {
            of(&io_error, &[Errno::INVAL])
        }
        Err(EbpfError::MapError(MapError::Unsupported { .. })) => Probe::No,
        Err(error) => Probe::Unknown(chain(&error)),
    }
}

/// Tries to add rules of netfilter that look for a socket.
pub(super) fn socket_rules() -> Probe {
    let rules = |family| {
        format!(
            "table {family} probe {{ chain pre {{ type filter hook prerouting priority mangle;
             tcp dport 9 tproxy to :9 accept;
             tcp dport 9 socket transparent 0 accept;
             }}
             }}"
        )
    };
    match netns::isolated(|| nft::try_add(&(rules("ip") + "\n" + &rules("ip6")))) {
        Ok(()) => Probe::Yes,
        Err(error) => Probe::Unknown(error),
    }
}

/// Tries to create a ring.
pub(super) fn io_uring() -> Probe {
    match IoUring::new(1) {
        Ok(_) => Probe::Yes,
        Err(error) => Probe::Unknown(chain(&error)),
    }
}

/// `no` are the errors with which the kernel refuses an unknown feature.
fn of(error: &io::Error, no: &[Errno]) -> Probe {
    match Errno::from_io_error(error) {
        Some(errno) if no.contains(&errno) => Probe::No,
        _ => Probe::Unknown(chain(error)),
    }
}

/// An error and its sources, in one line.
fn chain(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Some errors already include their source.
        let more = error.to_string();
        if !said.contains(&more) {
            said += &format!(": {more}");
        }
        cause = error.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_that_no_kernel_has_is_not_found() {
        assert_eq!(program("task_file", "unicorn"), Probe::No);
        assert_eq!(program("tracepoint", "unicorn"), Probe::No);
        assert_eq!(function("unicorn"), Probe::No);
    }

    #[test]
    fn only_errors_for_unknown_features_mean_no() {
        let probe = |errno: Errno| of(&errno.into(), &[Errno::INVAL]);
        assert_eq!(probe(Errno::INVAL), Probe::No);
        assert!(matches!(probe(Errno::PERM), Probe::Unknown(_)));
        assert!(matches!(probe(Errno::NOMEM), Probe::Unknown(_)));
    }
}
