//! The one place through which system calls pass.
//!
//! Outside tests it is a plain call. Under test, or with the feature `fault-injection`, a thread
//! may [`intercept`] its own calls: see what is asked for, let it through, fail it with an error
//! of its choice, or answer in the kernel's place.

use std::io;

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

/// Sends a call to the kernel, or to whoever intercepts.
#[inline]
pub(super) fn funnel(call: Call, real: impl FnOnce() -> io::Result<i64>) -> io::Result<i64> {
    #[cfg(any(test, feature = "fault-injection"))]
    match hook::ask(call) {
        Verdict::Allow => {}
        Verdict::Fail(errno) => return Err(io::Error::from_raw_os_error(errno)),
        Verdict::Answer(value) => return Ok(value),
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
        /// It returns this and never reaches the kernel. Where a descriptor is expected, it must
        /// be a real one that the caller gives away.
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
