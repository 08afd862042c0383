//! What the tests of all crates share: a network of their own ([`netns`]), a bpffs of their own
//! ([`bpffs`]), real servers ([`server`]), the simplest clients ([`client`]), load ([`load`]), waiting
//! for a condition instead of sleeping ([`wait`]), and features of the kernel ([`feature`]).
//!
//! Everything here panics when it fails, with what a developer needs to see: it is for tests alone.
//! Most of it needs root.

pub mod bpffs;
pub mod btf;
pub mod client;
pub mod feature;
pub mod load;
pub mod netns;
pub mod process;
pub mod server;
pub mod wait;

use std::sync::atomic::{AtomicBool, Ordering};

/// Sets a flag when it goes out of scope, also because a test fails, so that threads which wait for
/// the flag end.
#[derive(Debug)]
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Where a program lies: on PATH, or where Debian keeps what it hides from ordinary users.
///
/// # Panics
///
/// If it is nowhere: `cargo xtask test` installs what the tests drive.
pub fn program(name: &str) -> std::path::PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(Into::into))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("no {name} here: `cargo xtask test` installs it"))
}
