//! A group by one of its members: what is done to one is done to the whole group.

use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::io::Errno;
use sk_reuseport::programs::{ProgramError, SkReuseport};

use crate::group::{Group, GroupKey};
use crate::{Error, ErrorKind, Result, foreign, rights};

/// Attaches a program to a group, in place of whatever is there.
pub(super) fn attach_to(group: &Group, program: &SkReuseport) -> Result<()> {
    through_any_member(group, "attach to", |socket| program.attach(socket))
}

/// Detaches whatever is attached to a group.
pub(super) fn detach_from(group: &Group) -> Result<()> {
    through_any_member(group, "detach from", |socket| match SkReuseport::detach(socket) {
        // Somebody was faster.
        Err(error) if rights::os_error(&error) == Some(Errno::NOENT) => Ok(()),
        result => result,
    })
}

/// Does something to the group through the first member with which it works.
fn through_any_member(
    group: &Group,
    what: &str,
    mut action: impl FnMut(BorrowedFd<'_>) -> Result<(), ProgramError>,
) -> Result<()> {
    let mut last = vanished(&group.key);
    for member in &group.members {
        match foreign::borrow(member) {
            Ok(socket) => match action(socket.as_fd()) {
                Ok(()) => return Ok(()),
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
