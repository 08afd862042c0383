//! The funnel that all system calls of this crate pass through.
//!
//! Outside tests it is a plain call. In tests, or with the feature `fault-injection`, a thread can
//! [`intercept`] its own calls: let each pass, fail with a chosen error, or return a made-up
//! result.

use std::io;
use std::os::fd::OwnedFd;

/// A system call, by its purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names are the kernel's")]
#[allow(unreachable_pub, reason = "it is public with the feature fault-injection")]
pub enum Call {
    BpfMapCreate,
    BpfMapLookupElem,
    BpfMapUpdateElem,
    BpfMapDeleteElem,
    BpfMapGetNextKey,
    BpfMapFreeze,
    BpfProgLoad,
    BpfBtfLoad,
    BpfObjPin,
    BpfObjGet,
    BpfObjGetInfoByFd,
    BpfProgGetFdById,
    BpfProgBindMap,
    BpfMapGetFdById,
    BpfRawTracepointOpen,
    BpfLinkCreate,
    BpfIterCreate,
    AttachReuseportEbpf,
    DetachReuseportBpf,
    BindToDevice,
    Mmap,
}

/// The result of a system call, real or made up by a test.
pub(super) trait Outcome: Sized {
    /// Makes a result of a number from a test, which must not be trusted.
    #[cfg(any(test, feature = "fault-injection"))]
    fn answered(value: i64) -> io::Result<Self>;
}

impl Outcome for () {
    #[cfg(any(test, feature = "fault-injection"))]
    fn answered(_: i64) -> io::Result<Self> {
        Ok(())
    }
}

impl Outcome for OwnedFd {
    /// A copy, so that the test keeps its descriptor.
    #[cfg(any(test, feature = "fault-injection"))]
    fn answered(value: i64) -> io::Result<Self> {
        use std::os::fd::BorrowedFd;

        let number = i32::try_from(value).ok().filter(|number| *number >= 0);
        let number = number.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        // SAFETY: it is not -1, and only copied, which fails if no such descriptor is open.
        unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
    }
}

/// Makes a system call, unless the thread intercepts it.
#[inline]
pub(super) fn funnel<T: Outcome>(
    call: Call,
    real: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    #[cfg(any(test, feature = "fault-injection"))]
    match hook::ask(call) {
        Verdict::Allow => {}
        Verdict::Fail(errno) => return Err(io::Error::from_raw_os_error(errno)),
        Verdict::Answer(value) => return T::answered(value),
    }
    let _ = call;
    real()
}

#[cfg(any(test, feature = "fault-injection"))]
pub use hook::{Verdict, intercept};

#[cfg(any(test, feature = "fault-injection"))]
mod hook {
    use std::cell::RefCell;

    use super::Call;

    /// The outcome of an intercepted call.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Verdict {
        /// The call goes to the kernel.
        Allow,
        /// The call fails with this error number and does not reach the kernel.
        Fail(i32),
        /// The call succeeds and does not reach the kernel. Where it returns a descriptor, it
        /// returns a copy of this one. mmap(2) fails: a mapping cannot be made up.
        Answer(i64),
    }

    type Hook = Box<dyn FnMut(Call) -> Verdict>;

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    }

    pub(super) fn ask(call: Call) -> Verdict {
        HOOK.with(|hook| match hook.borrow_mut().as_mut() {
            Some(hook) => hook(call),
            None => Verdict::Allow,
        })
    }

    /// Runs `body`, and asks `hook` about each system call that this crate makes on this thread.
    ///
    /// Restores the previous hook afterwards, also if `body` panics. `hook` must not call this
    /// crate.
    pub fn intercept<R>(
        hook: impl FnMut(Call) -> Verdict + 'static,
        body: impl FnOnce() -> R,
    ) -> R {
        struct Restore(Option<Hook>);
        impl Drop for Restore {
            fn drop(&mut self) {
                HOOK.with(|hook| *hook.borrow_mut() = self.0.take());
            }
        }
        let _restore = Restore(HOOK.with(|slot| slot.borrow_mut().replace(Box::new(hook) as Hook)));
        body()
    }
}
