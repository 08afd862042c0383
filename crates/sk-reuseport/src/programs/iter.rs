//! Iterators: programs that run on each object of a kind when a file is read.

use std::fs::File;
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::path::Path;

use aya_obj::btf::BtfKind;
use aya_obj::generated::{bpf_attach_type::BPF_TRACE_ITER, bpf_prog_type::BPF_PROG_TYPE_TRACING};

use super::data::ProgramData;
use super::info::ProgramType;
use super::links::define_link;
use crate::btf::KernelTypes;
use crate::error::{LinkError, ProgramError};
use crate::sys::{self, Operation, Over, SyscallError};

/// A program that the kernel runs on each task, socket or map element when its file is read.
///
/// # Minimum kernel version
///
/// Linux 5.8, built with BTF (`/sys/kernel/btf/vmlinux`). Needs CAP_BPF and CAP_PERFMON.
///
/// # Examples
///
/// ```no_run
/// use std::io::Read as _;
/// use sk_reuseport::{Btf, Ebpf, programs::Iter};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut ebpf = Ebpf::load_file("list.o")?;
/// let program: &mut Iter = ebpf.program_mut("each_file").ok_or("no program")?.try_into()?;
/// program.load("task_file", &Btf::from_sys_fs()?)?;
/// let id = program.attach()?;
/// let mut listed = Vec::new();
/// program.take_link(id)?.into_file()?.read_to_end(&mut listed)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[doc(alias = "BPF_TRACE_ITER")]
#[doc(alias = "BPF_PROG_TYPE_TRACING")]
pub struct Iter {
    pub(crate) data: ProgramData,
}

impl Iter {
    /// The type of the program according to the kernel.
    pub const PROGRAM_TYPE: ProgramType = ProgramType::Tracing;

    pub(crate) fn new(data: ProgramData) -> Self {
        Self { data }
    }

    /// Loads the program as an iterator over objects of a kind: `task_file`, `tcp`, `udp`,
    /// `bpf_sk_storage_map` and so on.
    ///
    /// # Errors
    ///
    /// If the kernel has no such iterator, or refuses the program.
    pub fn load(&mut self, iter_type: &str, btf: &impl KernelTypes) -> Result<(), ProgramError> {
        let id = btf.id_by_type_name_kind(&format!("bpf_iter_{iter_type}"), BtfKind::Func)?;
        self.data.load(BPF_PROG_TYPE_TRACING, Some(BPF_TRACE_ITER), Some(id))
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

    /// Attaches the program. It runs when the file of [`IterLink::open`] is read.
    ///
    /// # Errors
    ///
    /// [`ProgramError::NotLoaded`], or an error of the kernel.
    pub fn attach(&mut self) -> Result<IterLinkId, ProgramError> {
        self.attach_to(Over::All)
    }

    /// Attaches an iterator over the elements of a map (`bpf_sk_storage_map`, `bpf_map_elem`).
    ///
    /// # Errors
    ///
    /// [`ProgramError::NotLoaded`], or an error of the kernel.
    pub fn attach_to_map(&mut self, map: impl AsFd) -> Result<IterLinkId, ProgramError> {
        self.attach_to(Over::Map(map.as_fd()))
    }

    /// Attaches an iterator over tasks, or what belongs to tasks (`task`, `task_file`, `task_vma`), for one process
    /// with its threads. aya has no such function.
    ///
    /// # Minimum kernel version
    ///
    /// Linux 6.1. Kernels before return an error.
    ///
    /// # Errors
    ///
    /// [`ProgramError::NotLoaded`], or an error of the kernel. If there is no such process, the output is empty.
    pub fn attach_to_process(&mut self, pid: NonZeroU32) -> Result<IterLinkId, ProgramError> {
        self.attach_to(Over::Process(pid))
    }

    fn attach_to(&mut self, over: Over<'_>) -> Result<IterLinkId, ProgramError> {
        let fd = sys::bpf_link_create_iter(self.fd()?.as_fd(), over)
            .map_err(SyscallError::of(Operation::AttachIterator))?;
        Ok(IterLinkId(self.data.links.insert(fd)))
    }
}

define_link!(
    /// The attachment of an [`Iter`].
    IterLink,
    IterLinkId,
    Iter
);

impl IterLink {
    /// Opens a file. Reading it to its end runs the program on every object. Each call opens a new
    /// file, so a link serves for any number of runs.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn open(&self) -> Result<File, LinkError> {
        let fd = sys::bpf_iter_create(self.0.as_fd())
            .map_err(SyscallError::of(Operation::OpenIterator))?;
        Ok(File::from(fd))
    }

    /// As [`open`](Self::open), for a single run.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn into_file(self) -> Result<File, LinkError> {
        self.open()
    }
}
