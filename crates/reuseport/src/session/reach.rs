//! A group by one of its members: what is done to one is done to the whole group.

use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::io::Errno;
use rustix::net::sockopt::socket_acceptconn;
use sk_reuseport::programs::{ProgramError, SkReuseport};

use crate::group::{Group, GroupKey, Protocol};
use crate::{Error, ErrorKind, Result, foreign, rights};

/// Attaches a program to a group, in place of whatever is there.
pub(super) fn attach_to(group: &Group, program: &SkReuseport) -> Result<()> {
    through_any_member(group, "attach to", |socket| {
        program.attach(socket)?;
        // A listener that stopped a moment ago is in no group any more: the kernel then makes one
        // for it alone (reuseport_attach_prog).
        let left = group.key.protocol == Protocol::Tcp && socket_acceptconn(socket) == Ok(false);
        Ok(if left { Outcome::NotMember } else { Outcome::Done })
    })
}

/// Detaches whatever is attached to a group.
pub(super) fn detach_from(group: &Group) -> Result<()> {
    through_any_member(group, "detach from", |socket| match SkReuseport::detach(socket) {
        // Somebody was faster.
        Err(error) if rights::os_error(&error) == Some(Errno::NOENT) => Ok(Outcome::Done),
        result => result.map(|()| Outcome::Done),
    })
}

/// What an action on one member came to.
enum Outcome {
    Done,
    /// It was no member any more: another one has to do.
    NotMember,
}

/// Does something to the group through the first member with which it works.
fn through_any_member(
    group: &Group,
    what: &str,
    mut action: impl FnMut(BorrowedFd<'_>) -> Result<Outcome, ProgramError>,
) -> Result<()> {
    let mut last = vanished(&group.key);
    for member in &group.members {
        match foreign::borrow(member) {
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

fn refused(tried: String, error: ProgramError) -> Error {
    match rights::os_error(&error) {
        Some(Errno::PERM) => Error::new(ErrorKind::Denied, tried)
            .because(error)
            .remedy("it is so for every member: ask who runs the server"),
        _ => Error::new(ErrorKind::System, tried).because(error),
    }
}

/// Nobody of the group is left.
pub(super) fn vanished(key: &GroupKey) -> Error {
    Error::new(ErrorKind::Vanished, format!("cannot reach any member of {key}"))
        .because("all of them were closed meanwhile")
        .remedy("`reuseport ls` shows what is there now")
}
