//! Tracepoints with typed arguments.

use std::os::fd::AsFd as _;
use std::path::Path;

use aya_obj::btf::BtfKind;
use aya_obj::generated::{bpf_attach_type::BPF_TRACE_RAW_TP, bpf_prog_type::BPF_PROG_TYPE_TRACING};

use super::data::ProgramData;
use super::info::ProgramType;
use super::links::define_link;
use crate::btf::KernelTypes;
use crate::error::ProgramError;
use crate::sys::{self, Operation, SyscallError};

/// A program that runs at a tracepoint of the kernel, with typed arguments.
///
/// Unlike the attachment of a [`SkReuseport`](super::SkReuseport), this one ends when its link is
/// dropped, or with this value if the link was not taken out. Pin the link to keep it.
///
/// # Minimum kernel version
///
/// Linux 5.5, built with BTF (`/sys/kernel/btf/vmlinux`). Needs CAP_BPF and CAP_PERFMON.
///
/// # Examples
///
/// ```no_run
/// use sk_reuseport::{Btf, Ebpf, programs::BtfTracePoint};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut ebpf = Ebpf::load_file("count.o")?;
/// let program: &mut BtfTracePoint = ebpf.program_mut("on_state").ok_or("no program")?.try_into()?;
/// program.load("inet_sock_set_state", &Btf::from_sys_fs()?)?;
/// program.attach()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[doc(alias = "BPF_TRACE_RAW_TP")]
#[doc(alias = "BPF_PROG_TYPE_TRACING")]
pub struct BtfTracePoint {
    pub(crate) data: ProgramData,
}

impl BtfTracePoint {
    /// The type of the program according to the kernel.
    pub const PROGRAM_TYPE: ProgramType = ProgramType::Tracing;

    pub(crate) fn new(data: ProgramData) -> Self {
        Self { data }
    }

    /// Loads the program for a tracepoint, such as `inet_sock_set_state`.
    ///
    /// # Errors
    ///
    /// If the kernel has no such tracepoint, or refuses the program.
    pub fn load(&mut self, tracepoint: &str, btf: &impl KernelTypes) -> Result<(), ProgramError> {
        let id = btf.id_by_type_name_kind(&format!("btf_trace_{tracepoint}"), BtfKind::Typedef)?;
        self.data.load(BPF_PROG_TYPE_TRACING, Some(BPF_TRACE_RAW_TP), Some(id))
    }

    /// Opens a pinned program, ready to be attached. Its existing links are not affected:
    /// [`PinnedLink`](super::PinnedLink) opens pinned ones.
    ///
    /// # Errors
    ///
    /// If nothing is pinned there, or not a program of this type.
    pub fn from_pin<P: AsRef<Path>>(path: P) -> Result<Self, ProgramError> {
        Ok(Self { data: ProgramData::from_pin(path.as_ref(), Self::PROGRAM_TYPE)? })
    }

    /// Attaches the program to the tracepoint that it was loaded for.
    ///
    /// # Errors
    ///
    /// [`ProgramError::NotLoaded`], or an error of the kernel.
    pub fn attach(&mut self) -> Result<BtfTracePointLinkId, ProgramError> {
        let fd = sys::bpf_raw_tracepoint_open(self.fd()?.as_fd())
            .map_err(SyscallError::of(Operation::AttachTracepoint))?;
        Ok(BtfTracePointLinkId(self.data.links.insert(fd)))
    }
}

define_link!(
    /// The attachment of a [`BtfTracePoint`].
    BtfTracePointLink,
    BtfTracePointLinkId,
    BtfTracePoint
);
