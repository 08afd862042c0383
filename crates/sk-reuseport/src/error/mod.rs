//! Errors. Each says its own failure and returns the cause from `source`; what to do about it is a
//! [`Hint`](crate::Hint), apart from both.

mod log;
mod map;
mod object;
mod pin;
mod program;
mod report;

pub use map::MapError;
pub use object::EbpfError;
pub use pin::PinError;
pub use program::{LinkError, ProgramError, SkReuseportError};
pub use report::{Report, hint_of};
