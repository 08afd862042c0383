//! Errors. The text of each is its own failure, `source` returns the cause, and `hint` what to do
//! about it.

mod log;
mod map;
mod object;
mod pin;
mod program;
mod report;

pub use map::MapError;
pub use object::{EbpfError, Extern};
pub use pin::PinError;
pub use program::{LinkError, ProgramError, SkReuseportError};
pub use report::{Report, hint_of};
