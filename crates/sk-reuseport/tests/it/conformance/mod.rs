//! The running kernel's behaviour regarding `SO_REUSEPORT` and this type of program: everything
//! that the kernel's own tests `select_reuseport` and `migrate_reuseport` check, and the rules by
//! which sockets form groups.
//!
//! Each combination of the `#[values]` lists is a test with its own network namespace. The programs
//! count what they do, so that a case passes only if the program made the choice, or provably did
//! not.

mod connected;
mod group;
mod migrate;
mod orders;
mod rules;
mod select;
