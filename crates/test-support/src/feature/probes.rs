//! Trying: a map is created or a program loaded, and gone again when this returns.

use std::error::Error;
use std::io;

use rustix::io::Errno;
use sk_reuseport::maps::MapError;
use sk_reuseport::programs::{Program, ProgramError};
use sk_reuseport::{Btf, BtfError, Ebpf, EbpfError};

use super::Probe;

const PROGRAMS: &[u8] = include_bytes!("../../bpf/features.bpf.o");
const RING_BUFFER: &[u8] = include_bytes!("../../bpf/ring_buffer.bpf.o");

/// Tries to load one of the programs of `features.bpf.c`, at what the kernel calls `target` if it is
/// an iterator or at a tracepoint.
pub(super) fn program(name: &str, target: &str) -> Probe {
    let mut ebpf = match Ebpf::load(PROGRAMS) {
        Ok(ebpf) => ebpf,
        Err(error) => return Probe::Unknown(chain(&error)),
    };
    let program = ebpf.program_mut(name);
    let program = program.unwrap_or_else(|| panic!("features.bpf.c has no program {name}"));
    match load(program, target) {
        Ok(()) => Probe::Yes,
        // The verifier says EACCES to what it does not know, the rest of the kernel EINVAL.
        Err(ProgramError::LoadError { io_error, .. }) => {
            of(&io_error, &[Errno::INVAL, Errno::ACCESS])
        }
        Err(ProgramError::Unsupported { .. }) => Probe::No,
        // The kernel has types, and neither the iterator nor the tracepoint is among them.
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

/// `no` are the errors by which the kernel says that it does not know what it was asked for.
fn of(error: &io::Error, no: &[Errno]) -> Probe {
    match Errno::from_io_error(error) {
        Some(errno) if no.contains(&errno) => Probe::No,
        _ => Probe::Unknown(chain(error)),
    }
}

/// An error and what caused it, in one line.
fn chain(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Some errors quote their cause already.
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
    fn what_no_kernel_has_is_not_there() {
        assert_eq!(program("task_file", "unicorn"), Probe::No);
        assert_eq!(program("tracepoint", "unicorn"), Probe::No);
    }

    #[test]
    fn only_the_errors_that_say_so_mean_no() {
        let probe = |errno: Errno| of(&errno.into(), &[Errno::INVAL]);
        assert_eq!(probe(Errno::INVAL), Probe::No);
        assert!(matches!(probe(Errno::PERM), Probe::Unknown(_)));
        assert!(matches!(probe(Errno::NOMEM), Probe::Unknown(_)));
    }
}
