//! Fixtures that the tests of all crates share: private network namespaces ([`netns`]) and bpffs
//! ([`bpffs`]), real servers ([`server`]), simple clients ([`client`]), load ([`load`]), waiting
//! for conditions ([`wait`]), starting processes ([`process`]), features of the kernel
//! ([`feature`]), and the types in compiled objects ([`btf`]).
//!
//! It is for tests alone: everything panics on failure, with a message for developers. Most of it
//! needs root.

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

/// Sets a flag when it goes out of scope, also if a test fails, so that threads that wait for the
/// flag end.
#[derive(Debug)]
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The path of a program: in PATH, or in the directories that Debian omits from the PATH of users.
///
/// # Panics
///
/// If it is not installed: `cargo xtask test` installs the programs that tests need.
pub fn program(name: &str) -> std::path::PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(Into::into))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: `cargo xtask test` installs it"))
}
