//! Arrays: plain, mapped into memory, and per CPU.

#[expect(clippy::module_inception, reason = "aya's module path")]
mod array;
mod mapped;
mod per_cpu_array;

pub use array::Array;
pub use mapped::MappedArray;
pub use per_cpu_array::{PerCpuArray, PerCpuValues};
