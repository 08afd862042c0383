//! An error with its causes, and what to do about it.

use std::error::Error;
use std::fmt;

use super::{map, object, pin, program};
use crate::hint::Hint;
use crate::sys::SyscallError;

/// Prints an error, each of its causes, and the [`Hint`] if there is one: `a: b: c; hint`.
///
/// # Examples
///
/// ```
/// use sk_reuseport::{Report, maps::MapData};
///
/// let error = MapData::from_pin("/sys/fs/bpf/no/such/pin").unwrap_err();
/// assert_eq!(
///     Report(&error).to_string(),
///     "`BPF_OBJ_GET` failed: No such file or directory (os error 2); nothing is pinned there"
/// );
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Report<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        match hint_of(self.0) {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// What to do about an error: the hint of the first error in the chain, from `error` down to its
/// last cause, that has one.
///
/// `error` may be of any type. An error that contains one of this crate's must return it from
/// [`source`](Error::source).
///
/// # Examples
///
/// ```
/// use sk_reuseport::{EbpfLoader, Hint, hint_of};
///
/// let error = EbpfLoader::new().load(b"#include <linux/bpf.h>").unwrap_err();
/// assert_eq!(hint_of(&error), Some(Hint::NotAnObject));
/// assert_eq!(hint_of(&std::io::Error::other("of another origin")), None);
/// ```
pub fn hint_of(error: &(dyn Error + 'static)) -> Option<Hint> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(hint) = hint_of_one(error) {
            return Some(hint);
        }
        cause = error.source();
    }
    None
}

fn hint_of_one(error: &(dyn Error + 'static)) -> Option<Hint> {
    if let Some(error) = error.downcast_ref::<object::EbpfError>() {
        error.hint()
    } else if let Some(error) = error.downcast_ref::<map::MapError>() {
        error.hint()
    } else if let Some(error) = error.downcast_ref::<program::ProgramError>() {
        error.hint()
    } else if let Some(error) = error.downcast_ref::<program::LinkError>() {
        error.hint()
    } else if let Some(error) = error.downcast_ref::<program::SkReuseportError>() {
        error.hint()
    } else if let Some(error) = error.downcast_ref::<pin::PinError>() {
        error.hint()
    } else {
        error.downcast_ref::<SyscallError>()?.hint()
    }
}
