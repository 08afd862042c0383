//! Programs that select a socket.

use std::os::fd::AsFd;
use std::path::Path;

use aya_obj::generated::bpf_prog_type::BPF_PROG_TYPE_SK_REUSEPORT;
pub use aya_obj::programs::SkReuseportAttachType;

use super::data::ProgramData;
use super::info::ProgramType;
use crate::error::{ProgramError, SkReuseportError};
use crate::maps::MapData;
use crate::sys::{self, Operation, SyscallError};

/// A program that selects the socket of a `SO_REUSEPORT` group that receives a connection or a
/// datagram.
///
/// A group consists of the sockets that are bound to one address and port with `SO_REUSEPORT`, in
/// one network namespace, by one user. A socket joins when it is bound (UDP) or starts to listen
/// (TCP), and leaves when it is closed. `SO_REUSEPORT` must be set *before* bind(2): a socket that
/// sets it later joins no group (until another socket binds to its address), and binding without it
/// to the address of a group fails with `EADDRINUSE`. [`net::Bind`](crate::net::Bind) does this in
/// the right order.
///
/// # What dropping does not do
///
/// The attachment belongs to the group: there is no link. Dropping this value or the
/// [`Ebpf`](crate::Ebpf) that it came from detaches nothing. The program stays attached until it is
/// [detached](Self::detach) or replaced through any socket of the group, or the last socket of the
/// group is closed.
///
/// # Minimum kernel version
///
/// Linux 4.19; detaching 5.3; section `sk_reuseport/migrate` 5.14. Loading needs CAP_BPF (before
/// 5.8: CAP_SYS_ADMIN). Attaching needs no capability.
///
/// # Examples
///
/// ```no_run
/// use sk_reuseport::{Ebpf, net, programs::SkReuseport};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listeners = net::Bind::new("127.0.0.1:0".parse()?).listeners(2)?;
/// let mut ebpf = Ebpf::load_file("select.o")?;
/// let program: &mut SkReuseport = ebpf.program_mut("select").ok_or("no program")?.try_into()?;
/// program.load()?;
/// program.attach(&listeners[0])?;
/// // ...
/// SkReuseport::detach(&listeners[1])?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[doc(alias = "BPF_PROG_TYPE_SK_REUSEPORT")]
pub struct SkReuseport {
    pub(crate) data: ProgramData,
    attach_type: SkReuseportAttachType,
}

impl SkReuseport {
    /// The type of the program according to the kernel.
    pub const PROGRAM_TYPE: ProgramType = ProgramType::SkReuseport;

    pub(crate) fn new(data: ProgramData, attach_type: SkReuseportAttachType) -> Self {
        Self { data, attach_type }
    }

    /// Loads the program into the kernel. It does not run until it is attached.
    ///
    /// # Errors
    ///
    /// [`ProgramError::LoadError`] with the verifier's log if the kernel refuses it,
    /// [`ProgramError::Unsupported`] if the kernel has no programs of this type, and
    /// [`ProgramError::AlreadyLoaded`].
    #[doc(alias = "BPF_PROG_LOAD")]
    pub fn load(&mut self) -> Result<(), ProgramError> {
        let attach_type = self.attach_type.into();
        self.data.load(BPF_PROG_TYPE_SK_REUSEPORT, Some(attach_type), None)
    }

    /// Whether the program also selects a new listener for connections whose listener is closed
    /// (`sk_reuseport/migrate`).
    pub fn attach_type(&self) -> SkReuseportAttachType {
        self.attach_type
    }

    /// Attaches the program to the whole group that `socket` is in.
    ///
    /// It replaces the group's previous program atomically: each packet is handled by the old one
    /// or by the new one. A socket with `SO_REUSEPORT` that is not bound yet becomes a group by
    /// itself.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the socket has no `SO_REUSEPORT`, or was bound before it was set; `EPERM` if it
    /// has `SO_LOCK_FILTER`; `EOPNOTSUPP` for MPTCP; [`ProgramError::NotLoaded`].
    #[doc(alias = "SO_ATTACH_REUSEPORT_EBPF")]
    pub fn attach<T: AsFd>(&self, socket: T) -> Result<(), ProgramError> {
        attach(socket, self.fd()?)
    }

    /// Detaches the program of the group that `socket` is in. The kernel's hash decides from then
    /// on. Any socket of the group will do, and the program need not be known.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the group has no program.
    #[doc(alias = "SO_DETACH_REUSEPORT_BPF")]
    pub fn detach<T: AsFd>(socket: T) -> Result<(), ProgramError> {
        detach(socket)
    }

    /// Keeps a map for as long as the program is loaded, although the program's code does not use it. The
    /// map is among [`ProgramInfo::map_ids`](super::ProgramInfo::map_ids) from then on.
    ///
    /// # Errors
    ///
    /// [`ProgramError::NotLoaded`], and the kernel's.
    ///
    /// # Minimum kernel version
    ///
    /// Linux 5.10.
    #[doc(alias = "BPF_PROG_BIND_MAP")]
    pub fn bind_map(&self, map: &MapData) -> Result<(), ProgramError> {
        Ok(sys::bpf_prog_bind_map(self.fd()?.as_fd(), map.fd().as_fd())
            .map_err(SyscallError::of(Operation::Bind))?)
    }

    /// Opens a pinned program. Its attachments are not affected.
    ///
    /// # Errors
    ///
    /// If nothing is pinned there, or not a program of this type.
    pub fn from_pin<P: AsRef<Path>>(
        path: P,
        attach_type: SkReuseportAttachType,
    ) -> Result<Self, ProgramError> {
        Ok(Self { data: ProgramData::from_pin(path.as_ref(), Self::PROGRAM_TYPE)?, attach_type })
    }
}

/// Attaches a program, loaded by this crate or by any other library, to the whole group that
/// `socket` is in. See [`SkReuseport::attach`].
///
/// # Errors
///
/// As [`SkReuseport::attach`]; also `EINVAL` if `program` is no descriptor of such a program.
///
/// # Minimum kernel version
///
/// Linux 4.19.
///
/// # Examples
///
/// ```no_run
/// use std::os::fd::OwnedFd;
/// use sk_reuseport::net;
/// use sk_reuseport::programs::select::{attach, detach};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let from_another_library: OwnedFd = std::fs::File::open("/dev/null")?.into();
/// let listeners = net::Bind::new("127.0.0.1:0".parse()?).listeners(2)?;
/// attach(&listeners[0], &from_another_library)?;
/// detach(&listeners[1])?;
/// # Ok(())
/// # }
/// ```
#[doc(alias = "SO_ATTACH_REUSEPORT_EBPF")]
pub fn attach(socket: impl AsFd, program: impl AsFd) -> Result<(), ProgramError> {
    Ok(sys::attach_reuseport_ebpf(socket.as_fd(), program.as_fd())
        .map_err(SkReuseportError::attaching)?)
}

/// Detaches the program of the group that `socket` is in. See [`SkReuseport::detach`].
///
/// # Errors
///
/// As [`SkReuseport::detach`].
///
/// # Minimum kernel version
///
/// Linux 5.3.
#[doc(alias = "SO_DETACH_REUSEPORT_BPF")]
pub fn detach(socket: impl AsFd) -> Result<(), ProgramError> {
    Ok(sys::detach_reuseport_bpf(socket.as_fd()).map_err(SkReuseportError::detaching)?)
}
