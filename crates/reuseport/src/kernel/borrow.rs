//! Borrows sockets of other processes for the duration of a call.
//!
//! Attaching a program or filling a socket array takes a descriptor of the member. [`borrow`] duplicates one
//! from a process that holds the socket (`pidfd_getfd`, Linux 5.6); that process is not disturbed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::socket_cookie;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::barrier;
use crate::model::barrier::Barrier;
use crate::model::group::{Holder, Member, Unborrowable};
use crate::model::id::Cookie;

/// A borrowed socket. Dropping it closes the duplicated descriptor.
///
/// Do not keep it beyond the call that needs it. A socket lives as long as any descriptor: while a duplicate
/// exists, the listener of a dead worker stays in its group, and the kernel gives it connections that no
/// process accepts. (In an experiment, half of all connections.)
#[derive(Debug)]
#[must_use = "dropping it closes the socket's descriptor at once"]
pub struct Borrowed(OwnedFd);

impl AsFd for Borrowed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Why the socket could not be borrowed from one holder.
enum Refusal {
    /// The process or its descriptor is gone, or its number has been reused.
    Gone,
    Denied(Errno),
    /// Only a thread has it, and the kernel does not reach threads.
    Thread,
    Failed(Errno),
}

/// `PIDFD_THREAD` (Linux 6.9): the descriptor refers to a thread.
const PIDFD_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(rustix::fs::OFlags::EXCL.bits());

/// Borrows the member's socket from the first of its holders that still has it.
///
/// Process ids and descriptors may be reused, so the cookie is compared: this never returns another socket.
///
/// # Minimum kernel version
///
/// Linux 5.6; 6.9 for a process whose main thread has ended, and for a thread with descriptors of its own.
/// Needs the right to trace a holder: the same user, or CAP_SYS_PTRACE.
///
/// # Errors
///
/// [`Vanished`](ErrorKind::Vanished): no holder has it any more.
/// [`Denied`](ErrorKind::Denied): the caller may trace no holder that has it, or sees none of them, or it
/// belongs to an MPTCP listener. [`Unsupported`](ErrorKind::Unsupported): it takes Linux 6.9.
/// [`System`](ErrorKind::System): for example too many open descriptors.
pub fn borrow(member: &Member) -> Result<Borrowed> {
    let first = match (member.unborrowable(), member.holders.first()) {
        (None, Some(first)) => first,
        (why, _) => {
            let why = why.unwrap_or(Unborrowable::NoHolder);
            return Err(Error::new(ErrorKind::Denied, failed(member, None))
                .because(why.to_string())
                .with_hint(why.advice()));
        }
    };
    let mut worst = (first, Refusal::Gone);
    for holder in &member.holders {
        match borrow_from(holder, member) {
            Ok(socket) => return Ok(socket),
            Err(Refusal::Gone) => {}
            Err(refusal) => worst = (holder, refusal),
        }
    }
    let (holder, refusal) = worst;
    let failed = failed(member, Some(holder));
    Err(match refusal {
        Refusal::Gone => Error::new(ErrorKind::Vanished, failed)
            .because("the process closed it or is gone")
            .with_hint("list the group again"),
        Refusal::Denied(errno) => {
            let Barrier { why, hint } = barrier::untraceable(holder.pid);
            let cause = Error::new(ErrorKind::Denied, why).because(errno);
            Error::new(ErrorKind::Denied, failed).because(cause).with_hint(hint)
        }
        Refusal::Thread => Error::new(ErrorKind::Unsupported, failed)
            .because("its main thread has ended, or one of its threads has descriptors of its own")
            .with_hint("Linux 6.9 and later can reach it"),
        Refusal::Failed(errno) => Error::new(ErrorKind::System, failed).because(errno),
    })
}

fn failed(member: &Member, holder: Option<&Holder>) -> String {
    match holder {
        Some(Holder { pid, fd, comm, .. }) => {
            format!("cannot borrow {} from {comm} (pid {pid}, fd {fd})", member.label())
        }
        None => format!("cannot borrow {}", member.label()),
    }
}

fn borrow_from(holder: &Holder, member: &Member) -> Result<Borrowed, Refusal> {
    let id = holder.thread.unwrap_or(holder.pid);
    let id = i32::try_from(id).ok().and_then(Pid::from_raw).ok_or(Refusal::Gone)?;
    let fd = i32::try_from(holder.fd).map_err(|_| Refusal::Gone)?;
    // This works for the calling process, too: a process may trace itself (__ptrace_may_access).
    let process = match holder.thread {
        None => pidfd_open(id, PidfdFlags::empty()).map_err(refusal)?,
        Some(_) => pidfd_open(id, PIDFD_THREAD).map_err(|errno| match errno {
            Errno::INVAL => Refusal::Thread,
            errno => refusal(errno),
        })?,
    };
    let socket = pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()).map_err(refusal)?;
    match socket_cookie(&socket) {
        Ok(cookie) if Cookie::new(cookie) == member.cookie => Ok(Borrowed(socket)),
        // Another socket, or not a socket.
        _ => Err(Refusal::Gone),
    }
}

/// A socket's cookie.
pub(crate) fn cookie_of(socket: impl AsFd) -> Result<Cookie> {
    let failed = || Error::new(ErrorKind::Invalid, "cannot read a socket's cookie (SO_COOKIE)");
    let cookie = socket_cookie(socket).map_err(|errno| failed().because(errno))?;
    Cookie::new(cookie).ok_or_else(|| failed().because("the kernel returned 0"))
}

fn refusal(errno: Errno) -> Refusal {
    match errno {
        // EINVAL: the number is now a thread's, which pidfd_open refuses.
        Errno::SRCH | Errno::BADF | Errno::INVAL | Errno::NOENT => Refusal::Gone,
        Errno::PERM | Errno::ACCESS => Refusal::Denied(errno),
        errno => Refusal::Failed(errno),
    }
}
