//! The one place through which system calls pass.
//!
//! Outside tests it is a plain call. Under test, or with the feature `fault-injection`, a thread
//! may [`intercept`] its own calls: see what is asked for, let it through, fail it with an error
//! of its choice, or answer in the kernel's place.

use std::io;
use std::os::fd::OwnedFd;

/// A system call, by what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)] // the names are the kernel's
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
    BpfMapGetFdById,
    BpfRawTracepointOpen,
    BpfLinkCreate,
    BpfIterCreate,
    AttachReuseportEbpf,
    DetachReuseportBpf,
    BindToDevice,
    Mmap,
}

/// What a call returns, and what it returns when a test answers in the kernel's place.
pub(super) trait Outcome: Sized {
    /// Makes the result of a number that somebody made up: it must not be trusted.
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
    /// A copy, so that nobody's descriptor changes hands.
    #[cfg(any(test, feature = "fault-injection"))]
    fn answered(value: i64) -> io::Result<Self> {
        use std::os::fd::BorrowedFd;

        let number = i32::try_from(value).ok().filter(|number| *number >= 0);
        let number = number.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        // SAFETY: it is not -1, and only copied, which fails if no such descriptor is open.
        unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
    }
}

/// Sends a call to the kernel, or to whoever intercepts.
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

    /// What becomes of an intercepted call.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Verdict {
        /// It goes to the kernel.
        Allow,
        /// It fails with this error number and never reaches the kernel.
        Fail(i32),
        /// It succeeds and never reaches the kernel. Where a descriptor is expected, it returns a
        /// copy of this one; a mapping cannot be made up and fails.
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

    /// Runs `body` with this thread's system calls shown to `hook` first.
    ///
    /// Restores whatever was there before, also when `body` panics. `hook` must not make calls of
    /// this crate itself.
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
