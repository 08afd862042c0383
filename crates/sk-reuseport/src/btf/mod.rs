//! The kernel's own types, as far as an object needs them.
//!
//! The kernel describes some 150,000 types. Parsing all of them takes 20 ms and finding a few
//! dozen among them as much again, which is most of what loading a small program costs. So the
//! types that an object's programs name are picked out of the raw bytes first, with everything
//! that those are made of, and only this excerpt is parsed and searched.

mod ext;
mod kernel;
mod raw;
mod required_types;
mod subset;
mod validate;

pub use kernel::{KernelBtf, KernelTypes};
pub(crate) use validate::{is_valid, variables};
