//! Attaches and detaches through any member, which affects the whole group.

use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::io::Errno;
use rustix::net::sockopt::socket_acceptconn;
use sk_reuseport::programs::select::attach;
use sk_reuseport::programs::{ProgramError, ProgramFd, SkReuseport};

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::borrow;
use crate::kernel::caps;
use crate::model::group::{Group, Protocol};
use crate::model::refusal::vanished;

/// Attaches a program to a group, in place of the one that is attached.
pub(super) fn attach_to(group: &Group, program: &SkReuseport) -> Result<()> {
    through_any_member(group, "attach to", |socket| {
        program.attach(socket)?;
        Ok(attached(group.key.protocol, socket))
    })
}

/// The same for a program of any owner.
pub(super) fn attach_foreign(group: &Group, program: &ProgramFd) -> Result<()> {
    through_any_member(group, "attach to", |socket| {
        attach(socket, program)?;
        Ok(attached(group.key.protocol, socket))
    })
}

/// A listener that stopped a moment ago has left its group: the kernel then makes a group for it alone
/// (reuseport_attach_prog).
fn attached(protocol: Protocol, socket: BorrowedFd<'_>) -> Outcome {
    let left = protocol == Protocol::Tcp && socket_acceptconn(socket) == Ok(false);
    if left { Outcome::NotMember } else { Outcome::Done }
}

/// Detaches the program that is attached to a group.
pub(super) fn detach_from(group: &Group) -> Result<()> {
    let mut without_program = false;
    let detached =
        through_any_member(group, "detach from", |socket| match SkReuseport::detach(socket) {
            // Another process detached it first, or the socket has left the group a moment ago.
            Err(error) if caps::os_error(&error) == Some(Errno::NOENT) => {
                without_program = true;
                Ok(Outcome::NotMember)
            }
            result => result.map(|()| Outcome::Done),
        });
    match detached {
        // It is so with all that are left.
        Err(error) if error.kind() == ErrorKind::Vanished && without_program => Ok(()),
        result => result,
    }
}

/// What became of the program of a group.
pub(super) enum Detaching {
    Done,
    /// It stays attached, for this reason.
    OutOfReach(Error),
}

impl Detaching {
    /// Why it stays attached, if it does.
    pub(super) fn left_attached(self) -> Option<Error> {
        match self {
            Self::Done => None,
            Self::OutOfReach(error) => Some(error),
        }
    }
}

/// The same where that is possible: the program stays if no member can be borrowed, by anyone.
pub(super) fn detach_if_reachable(group: &Group) -> Result<Detaching> {
    match detach_from(group) {
        Ok(()) => Ok(Detaching::Done),
        Err(error) if out_of_reach(group) => Ok(Detaching::OutOfReach(error)),
        Err(error) => Err(error),
    }
}

fn out_of_reach(group: &Group) -> bool {
    group.members.iter().all(|member| match borrow::borrow(member) {
        Ok(_) => false,
        Err(error) => member.unborrowable().is_some() || error.kind() == ErrorKind::Unsupported,
    })
}

/// The result of an action on one member.
enum Outcome {
    Done,
    /// The socket has left the group, or may have: try another one.
    NotMember,
}

/// Runs an action on the group's members until it succeeds with one.
fn through_any_member(
    group: &Group,
    what: &str,
    mut action: impl FnMut(BorrowedFd<'_>) -> Result<Outcome, ProgramError>,
) -> Result<()> {
    let mut last = vanished(&group.key);
    for member in &group.members {
        match borrow::borrow(member) {
            Ok(socket) => match action(socket.as_fd()) {
                Ok(Outcome::Done) => return Ok(()),
                Ok(Outcome::NotMember) => {}
                Err(error) => last = refused(format!("cannot {what} {}", group.key), error),
            },
            Err(error) if error.kind() == ErrorKind::Vanished => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn refused(failed: String, error: ProgramError) -> Error {
    match caps::os_error(&error) {
        Some(Errno::PERM) => Error::new(ErrorKind::Denied, failed).because(error),
        _ => Error::new(ErrorKind::System, failed).because(error),
    }
}
