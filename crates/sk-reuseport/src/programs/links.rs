//! Links: attachments that last as long as a descriptor or a pin of them exists.
//!
//! Tracepoints and iterators have links. Programs that select sockets have none: their attachment
//! belongs to the group.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::error::{LinkError, PinError};
use crate::pin::{self, ObjectKind};

/// An attachment. Dropping it detaches, unless the link is pinned or another descriptor of it is
/// open.
///
/// # Minimum kernel version
///
/// Linux 5.5 for tracepoints, 5.8 for iterators; pinning 5.7.
///
/// # Examples
///
/// ```no_run
/// use sk_reuseport::{Btf, Ebpf};
/// use sk_reuseport::programs::{BtfTracePoint, FdLink, PinnedLink};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut ebpf = Ebpf::load_file("count.o")?;
/// let program: &mut BtfTracePoint = ebpf.program_mut("on_state").ok_or("no program")?.try_into()?;
/// program.load("inet_sock_set_state", &Btf::from_sys_fs()?)?;
/// let id = program.attach()?;
/// let link: FdLink = program.take_link(id)?.into();
/// link.pin("/sys/fs/bpf/count_link")?; // keeps counting
///
/// // Later, in any process: stops counting.
/// drop(PinnedLink::from_pin("/sys/fs/bpf/count_link")?.unpin()?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FdLink {
    fd: OwnedFd,
}

impl FdLink {
    /// Pins the link: the attachment outlives this process, until the pin is removed.
    ///
    /// # Errors
    ///
    /// If the path exists or is not on a bpffs.
    pub fn pin<P: AsRef<Path>>(self, path: P) -> Result<PinnedLink, PinError> {
        let path = path.as_ref();
        pin::pin(self.fd.as_fd(), path)?;
        Ok(PinnedLink { path: path.to_owned(), link: self })
    }
}

impl AsFd for FdLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A pinned link. Dropping this value detaches nothing.
#[derive(Debug)]
pub struct PinnedLink {
    path: PathBuf,
    link: FdLink,
}

impl PinnedLink {
    /// Opens a pinned link.
    ///
    /// # Errors
    ///
    /// If nothing is pinned there, or not a link.
    pub fn from_pin<P: AsRef<Path>>(path: P) -> Result<Self, LinkError> {
        let path = path.as_ref();
        let fd = pin::open(path)?;
        if !matches!(pin::kind_of(fd.as_fd()), ObjectKind::Link | ObjectKind::Unknown) {
            return Err(LinkError::InvalidLink);
        }
        Ok(Self { path: path.to_owned(), link: FdLink { fd } })
    }

    /// Removes the pin. Dropping the returned link detaches.
    ///
    /// # Errors
    ///
    /// If the file could not be removed.
    pub fn unpin(self) -> Result<FdLink, io::Error> {
        std::fs::remove_file(&self.path)?;
        Ok(self.link)
    }
}

impl From<PinnedLink> for FdLink {
    fn from(pinned: PinnedLink) -> Self {
        pinned.link
    }
}

/// Identifies a link that a program value holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FdLinkId(usize);

/// The links that a program value holds until they are taken out or the value is dropped.
#[derive(Debug, Default)]
pub(crate) struct Links {
    links: HashMap<usize, FdLink>,
    attached: usize,
}

impl Links {
    pub(crate) fn insert(&mut self, fd: OwnedFd) -> FdLinkId {
        self.attached += 1;
        self.links.insert(self.attached, FdLink { fd });
        FdLinkId(self.attached)
    }

    pub(crate) fn take(&mut self, id: FdLinkId) -> Option<FdLink> {
        self.links.remove(&id.0)
    }

    /// Drops all links that are left.
    pub(crate) fn end_all(&mut self) {
        self.links.clear();
    }
}

/// The types of a program type's link and link id, so that program types cannot be mixed up.
macro_rules! define_link {
    ($(#[$doc:meta])* $link:ident, $id:ident, $program:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $link($crate::programs::links::FdLink);

        /// Identifies a link that the program holds.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $id($crate::programs::links::FdLinkId);

        impl From<$crate::programs::links::FdLink> for $link {
            fn from(link: $crate::programs::links::FdLink) -> Self {
                Self(link)
            }
        }

        impl From<$link> for $crate::programs::links::FdLink {
            fn from(link: $link) -> Self {
                link.0
            }
        }

        impl $program {
            /// Takes the link out of the program. The attachment lasts as long as the returned
            /// link.
            ///
            /// # Errors
            ///
            /// [`ProgramError::NotAttached`](crate::programs::ProgramError::NotAttached) if it
            /// was taken or detached before.
            pub fn take_link(
                &mut self,
                id: $id,
            ) -> Result<$link, $crate::error::ProgramError> {
                self.data
                    .links
                    .take(id.0)
                    .map($link)
                    .ok_or($crate::error::ProgramError::NotAttached)
            }

            /// Ends an attachment that the program holds.
            ///
            /// # Errors
            ///
            /// [`ProgramError::NotAttached`](crate::programs::ProgramError::NotAttached) if it
            /// was taken or detached before.
            pub fn detach(&mut self, id: $id) -> Result<(), $crate::error::ProgramError> {
                self.take_link(id).map(drop)
            }
        }
    };
}

pub(crate) use define_link;
