//! Arrays: plain, mapped into memory, per CPU, and of programs.

#[expect(clippy::module_inception, reason = "aya's module path")]
mod array;
mod mapped;
mod per_cpu_array;
mod program_array;

pub use array::Array;
pub use mapped::MappedArray;
pub use per_cpu_array::PerCpuArray;
pub use program_array::ProgramArray;
