//! What the kernel promises of `SO_REUSEPORT` and of this type of programs, checked through this
//! crate against the kernel that runs: all that the kernel's own tests `select_reuseport` and
//! `migrate_reuseport` check, and the rules by which sockets form groups.
//!
//! The cases are tables: `#[values]` lists, of which every combination is a test of its own, with a
//! network of its own. The programs count what they do, so that a case passes only where a program made
//! the choice, or was seen not to. What this crate adds to the kernel is not tested here.

mod connected;
mod group;
mod migrate;
mod orders;
mod rules;
mod select;
