//! Programs of a cgroup that run when its sockets are made, bound or closed.

use std::os::fd::AsFd;
use std::path::Path;

use aya_obj::generated::bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK;
pub use aya_obj::programs::CgroupSockAttachType;

use super::data::ProgramData;
use super::info::ProgramType;
use super::links::define_link;
use crate::error::ProgramError;
use crate::sys::{self, Operation, SyscallError};

/// A program that runs when a process of a cgroup, or of one below it, makes, binds or closes a socket.
///
/// It runs in the process that does so, which the kernel refuses if the program returns 0. After bind
/// (`cgroup/post_bind4`, `cgroup/post_bind6`), the socket has its port, and a UDP socket is in its group. The
/// program ends with its link, as a [`BtfTracePoint`](super::BtfTracePoint) does.
///
/// # Minimum kernel version
///
/// Linux 5.7, for the link. Needs CAP_BPF and CAP_NET_ADMIN.
///
/// # Examples
///
/// ```no_run
/// use sk_reuseport::{Ebpf, programs::CgroupSock};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut ebpf = Ebpf::load_file("bound.o")?;
/// let program: &mut CgroupSock = ebpf.program_mut("bound").ok_or("no program")?.try_into()?;
/// program.load()?;
/// program.attach(std::fs::File::open("/sys/fs/cgroup")?)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[doc(alias = "BPF_PROG_TYPE_CGROUP_SOCK")]
pub struct CgroupSock {
    pub(crate) data: ProgramData,
    attach_type: CgroupSockAttachType,
}

impl CgroupSock {
    /// The type of the program according to the kernel.
    pub const PROGRAM_TYPE: ProgramType = ProgramType::CgroupSock;

    pub(crate) fn new(data: ProgramData, attach_type: CgroupSockAttachType) -> Self {
        Self { data, attach_type }
    }

    /// Loads the program.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub fn load(&mut self) -> Result<(), ProgramError> {
        self.data.load(BPF_PROG_TYPE_CGROUP_SOCK, Some(self.attach_type.into()), None)
    }

    /// Opens a pinned program, ready to be attached. Its existing links are not affected:
    /// [`PinnedLink`](super::PinnedLink) opens pinned ones.
    ///
    /// # Errors
    ///
    /// If nothing is pinned there, or not a program of this type.
    pub fn from_pin<P: AsRef<Path>>(
        path: P,
        attach_type: CgroupSockAttachType,
    ) -> Result<Self, ProgramError> {
        let data = ProgramData::from_pin(path.as_ref(), Self::PROGRAM_TYPE)?;
        Ok(Self { data, attach_type })
    }

    /// Attaches the program to a cgroup: a directory of the cgroup2 filesystem. Other programs there run, too;
    /// this is what aya's function does with `CgroupAttachMode::AllowMultiple`.
    ///
    /// # Errors
    ///
    /// [`ProgramError::NotLoaded`], or an error of the kernel: EPERM also where a program is attached to the cgroup
    /// or to one above it that allows no other.
    pub fn attach<T: AsFd>(&mut self, cgroup: T) -> Result<CgroupSockLinkId, ProgramError> {
        let attach_type = self.attach_type.into();
        let fd = sys::bpf_link_create_cgroup(self.fd()?.as_fd(), cgroup.as_fd(), attach_type)
            .map_err(SyscallError::of(Operation::AttachCgroup))?;
        Ok(CgroupSockLinkId(self.data.links.insert(fd)))
    }
}

define_link!(
    /// The attachment of a [`CgroupSock`].
    CgroupSockLink,
    CgroupSockLinkId,
    CgroupSock
);
