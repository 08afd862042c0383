//! A request to stop, for example by a signal. Operations check it between steps.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};

use rustix::event::{EventfdFlags, eventfd};

use crate::error::{Error, ErrorKind, Result, UNCHANGED};

/// A flag that asks a running operation to stop and to take back its steps.
///
/// # Example
///
/// ```
/// use reuseport::Stop;
///
/// let stop = Stop::default();
/// let handler = stop.clone();
/// handler.set(); // in a signal handler, or another thread
/// assert!(stop.is_set());
/// ```
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    flag: Arc<AtomicBool>,
    /// Whether the flag may be set without [`Stop::set`].
    lent: AtomicBool,
    /// Becomes readable with the request; made for the first operation that waits.
    waker: OnceLock<OwnedFd>,
}

impl Stop {
    /// Asks to stop. A signal handler may call this.
    pub fn set(&self) {
        self.0.flag.store(true, Ordering::SeqCst);
        // Either this finds the waker, or the operation that makes it finds the flag.
        fence(Ordering::SeqCst);
        if let Some(waker) = self.0.waker.get() {
            // It fails only if it is readable already.
            let _ = rustix::io::write(waker, &1_u64.to_ne_bytes());
        }
    }

    /// Whether a stop was requested.
    pub fn is_set(&self) -> bool {
        self.0.flag.load(Ordering::SeqCst)
    }

    /// The flag itself, for a signal handler to set. A watcher then wakes several times a second to look at it;
    /// [`set`](Self::set) wakes it at once.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.lent.store(true, Ordering::SeqCst);
        Arc::clone(&self.0.flag)
    }

    /// Whether the flag may be set without waking who waits.
    pub(crate) fn is_lent(&self) -> bool {
        self.0.lent.load(Ordering::SeqCst)
    }

    /// A descriptor that becomes readable when [`set`](Self::set) is called. Check [`is_set`](Self::is_set) after
    /// this and before waiting.
    pub(crate) fn waker(&self) -> io::Result<BorrowedFd<'_>> {
        if self.0.waker.get().is_none() {
            let made = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            // Another thread may have been faster.
            let _ = self.0.waker.set(made);
            fence(Ordering::SeqCst);
        }
        let waker = self.0.waker.get().ok_or(io::ErrorKind::NotFound)?;
        Ok(waker.as_fd())
    }

    /// An error if a stop was requested; `failed` names the operation.
    pub(crate) fn check(&self, failed: &str) -> Result<()> {
        if !self.is_set() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Interrupted, failed)
            .because("interrupted by a signal")
            .with_hint(UNCHANGED))
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn is_readable(fd: BorrowedFd<'_>) -> bool {
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn a_request_wakes_who_waits_whether_it_comes_before_or_after() {
        let stop = Stop::default();
        let waker = stop.waker().unwrap();
        assert!(!is_readable(waker) && !stop.is_set());
        stop.clone().set();
        assert!(is_readable(waker) && stop.is_set() && !stop.is_lent());

        let early = Stop::default();
        early.set();
        early.waker().unwrap();
        assert!(early.is_set());
    }

    #[test]
    fn a_flag_that_is_lent_can_be_set_alone() {
        let stop = Stop::default();
        stop.flag().store(true, Ordering::Relaxed);
        assert!(stop.is_set() && stop.is_lent());
    }
}
