//! BTF: the kernel's types, as far as an object needs them, and checks of the object's own.
//!
//! The kernel describes some 150,000 types. Parsing all of them takes 20 ms and finding a few dozen
//! another 20 ms, which is most of the cost of loading a small program. So the types that an
//! object's programs name, and the types that these contain, are copied out of the raw bytes first,
//! and only this subset is parsed and searched.

mod ext;
mod externs;
mod kernel;
mod raw;
mod required_types;
mod subset;
mod validate;
mod variables;

pub(crate) use ext::{rename_section, retain_relocations};
pub(crate) use externs::{externs, hide_externs};
pub use kernel::{KernelBtf, KernelTypes};
pub(crate) use validate::{is_valid, size_of_variable, variables};
pub use variables::{ValueType, Variable};
pub(crate) use variables::{value_type, variable};
