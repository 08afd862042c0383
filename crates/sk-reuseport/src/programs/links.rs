//! Links: attachments that live as long as a descriptor or a pin of theirs.
//!
//! Programs that select sockets have none: their attachment is the group's. Tracepoints and
//! iterators do.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::pin::{self, ObjectKind, PinError};
use crate::sys::SyscallError;

/// An operation on a link failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LinkError {
    /// What was opened is no link.
    #[error("not a link")]
    InvalidLink,
    /// A system call failed.
    #[error(transparent)]
    SyscallError(#[from] SyscallError),
    /// A pinned link could not be opened.
    #[error(transparent)]
    PinError(#[from] PinError),
}

/// An attachment. Dropping it detaches, unless it is pinned or held elsewhere.
#[derive(Debug)]
pub struct FdLink {
    fd: OwnedFd,
}

impl FdLink {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Pins the link: the attachment stays until the pin is removed, whatever becomes of this
    /// process.
    ///
    /// # Errors
    ///
    /// If the path is taken or not on a bpffs.
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

/// A link that is pinned: dropping this value detaches nothing.
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
    /// If nothing is pinned there, or something else.
    pub fn from_pin<P: AsRef<Path>>(path: P) -> Result<Self, LinkError> {
        let path = path.as_ref();
        let fd = pin::open(path)?;
        if !matches!(pin::kind_of(fd.as_fd()), ObjectKind::Link | ObjectKind::Unknown) {
            return Err(LinkError::InvalidLink);
        }
        Ok(Self { path: path.to_owned(), link: FdLink::new(fd) })
    }

    /// Removes the pin. Dropping what it returns then detaches.
    ///
    /// # Errors
    ///
    /// If the file could not be removed.
    pub fn unpin(self) -> Result<FdLink, io::Error> {
        std::fs::remove_file(&self.path)?;
        Ok(self.link)
    }
}

/// Names one of the links that a program value holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FdLinkId(usize);

/// The links that a program value holds until they are taken out or it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Links {
    links: Vec<Option<FdLink>>,
}

impl Links {
    pub(crate) fn insert(&mut self, link: FdLink) -> FdLinkId {
        self.links.push(Some(link));
        FdLinkId(self.links.len() - 1)
    }

    pub(crate) fn take(&mut self, id: FdLinkId) -> Option<FdLink> {
        self.links.get_mut(id.0)?.take()
    }
}

/// A program type's own link and link id, so that one type's cannot be given to another.
macro_rules! define_link {
    ($(#[$doc:meta])* $link:ident, $id:ident, $program:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $link($crate::programs::links::FdLink);

        /// Names one of the links that the program holds.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $id($crate::programs::links::FdLinkId);

        impl From<$link> for $crate::programs::links::FdLink {
            fn from(link: $link) -> Self {
                link.0
            }
        }

        impl $program {
            /// Takes the link out of the program: it lives as long as what this returns.
            ///
            /// # Errors
            ///
            /// [`ProgramError::NotAttached`](crate::programs::ProgramError::NotAttached) if it
            /// was taken or detached before.
            pub fn take_link(
                &mut self,
                id: $id,
            ) -> Result<$link, $crate::programs::ProgramError> {
                self.links
                    .take(id.0)
                    .map($link)
                    .ok_or($crate::programs::ProgramError::NotAttached)
            }

            /// Ends an attachment that the program still holds.
            ///
            /// # Errors
            ///
            /// [`ProgramError::NotAttached`](crate::programs::ProgramError::NotAttached) if it
            /// was taken or detached before.
            pub fn detach(&mut self, id: $id) -> Result<(), $crate::programs::ProgramError> {
                self.take_link(id).map(drop)
            }
        }
    };
}

pub(crate) use define_link;
