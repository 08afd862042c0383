//! The kernel's description of a loaded program.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use aya_obj::generated::{bpf_prog_info, bpf_prog_type};

use super::fd::ProgramFd;
use crate::error::ProgramError;
use crate::pin;
use crate::sys::{self, Operation, SyscallError};

/// The types of programs that this crate loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[doc(alias = "bpf_prog_type")]
pub enum ProgramType {
    /// A type that this crate does not load.
    Unspecified,
    /// Selects a socket of a group. Linux 4.19.
    #[doc(alias = "BPF_PROG_TYPE_SK_REUSEPORT")]
    SkReuseport,
    /// Typed tracepoints (Linux 5.5) and iterators (5.8).
    #[doc(alias = "BPF_PROG_TYPE_TRACING")]
    Tracing,
    /// Runs when a cgroup's sockets are made, bound or closed. Linux 4.17.
    #[doc(alias = "BPF_PROG_TYPE_CGROUP_SOCK")]
    CgroupSock,
}

/// The kernel's description of a loaded program.
#[derive(Debug)]
#[doc(alias = "bpf_prog_info")]
pub struct ProgramInfo(bpf_prog_info);

impl ProgramInfo {
    pub(crate) fn new_from_fd(fd: BorrowedFd<'_>) -> Result<Self, ProgramError> {
        let info = sys::bpf_prog_info_by_fd(fd).map_err(SyscallError::of(Operation::GetInfo))?;
        Ok(Self(info))
    }

    /// The program's type.
    pub fn program_type(&self) -> ProgramType {
        match self.0.type_ {
            t if t == bpf_prog_type::BPF_PROG_TYPE_SK_REUSEPORT as u32 => ProgramType::SkReuseport,
            t if t == bpf_prog_type::BPF_PROG_TYPE_TRACING as u32 => ProgramType::Tracing,
            t if t == bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK as u32 => ProgramType::CgroupSock,
            _ => ProgramType::Unspecified,
        }
    }

    /// The id: unique among loaded programs, and not reused for a long time.
    pub fn id(&self) -> u32 {
        self.0.id
    }

    /// The hash of the instructions.
    pub fn tag(&self) -> u64 {
        u64::from_be_bytes(self.0.tag)
    }

    /// The id of the user that loaded it.
    pub fn created_by_uid(&self) -> u32 {
        self.0.created_by_uid
    }

    /// The number of runs, counted only while the sysctl `kernel.bpf_stats_enabled` is on.
    pub fn run_count(&self) -> u64 {
        self.0.run_cnt
    }

    /// The total run time in nanoseconds, measured only while the sysctl `kernel.bpf_stats_enabled`
    /// is on.
    pub fn run_time_ns(&self) -> u64 {
        self.0.run_time_ns
    }

    /// The first 15 bytes of the name.
    pub fn name(&self) -> &[u8] {
        let length = self.0.name.iter().position(|byte| *byte == 0).unwrap_or(self.0.name.len());
        bytes_of_name(&self.0.name[..length])
    }

    /// The name, if it is UTF-8.
    pub fn name_as_str(&self) -> Option<&str> {
        std::str::from_utf8(self.name()).ok()
    }

    /// Opens the program by its id.
    ///
    /// # Errors
    ///
    /// If the program is unloaded, or CAP_SYS_ADMIN is missing.
    pub fn fd(&self) -> Result<ProgramFd, ProgramError> {
        let fd = sys::bpf_prog_get_fd_by_id(self.0.id)
            .map_err(SyscallError::of(Operation::OpenProgram))?;
        Ok(ProgramFd(fd))
    }

    /// The kernel's description of the program with this id.
    ///
    /// # Errors
    ///
    /// If no program has the id, or CAP_SYS_ADMIN is missing.
    pub fn from_id(id: u32) -> Result<Self, ProgramError> {
        let fd =
            sys::bpf_prog_get_fd_by_id(id).map_err(SyscallError::of(Operation::OpenProgram))?;
        Self::new_from_fd(fd.as_fd())
    }

    /// The ids of the maps that the program uses or is [bound](super::SkReuseport::bind_map) to. `None` on
    /// kernels that do not tell (before Linux 4.15).
    ///
    /// # Errors
    ///
    /// If the program is unloaded, or CAP_SYS_ADMIN is missing.
    pub fn map_ids(&self) -> Result<Option<Vec<u32>>, ProgramError> {
        let fd = self.fd()?;
        let mut most = self.0.nr_map_ids;
        loop {
            let (ids, all) = sys::bpf_prog_map_ids(fd.as_fd(), most)
                .map_err(SyscallError::of(Operation::GetInfo))?;
            if all <= most {
                return Ok((all > 0).then_some(ids));
            }
            // Another map was bound meanwhile.
            most = all;
        }
    }

    /// The kernel's description of a pinned program.
    ///
    /// # Errors
    ///
    /// If nothing is pinned there, or no program.
    pub fn from_pin<P: AsRef<Path>>(path: P) -> Result<Self, ProgramError> {
        let fd = pin::open(path.as_ref())?;
        if pin::kind_of(fd.as_fd()) != pin::ObjectKind::Program {
            return Err(ProgramError::UnexpectedProgramType);
        }
        Self::new_from_fd(fd.as_fd())
    }
}

/// `c_char` is `i8` on some architectures and `u8` on others.
fn bytes_of_name(name: &[std::ffi::c_char]) -> &[u8] {
    sys::bytes_of(name).get(..name.len()).unwrap_or_default()
}
