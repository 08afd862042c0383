//! A bpffs of one's own: what a test pins meets neither what other tests pin nor what the machine's
//! user has pinned.

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

/// Where bpffs is mounted by convention.
pub const PATH: &str = "/sys/fs/bpf";

/// Gives the calling thread a mount namespace of its own with a fresh bpffs at [`PATH`], empty
/// but for the kernel's own `maps.debug` and `progs.debug`. Call it inside [`crate::netns::isolated`]: the thread has no way back. Threads and processes started
/// afterwards share it; everything pinned is gone when the last of them ends.
///
/// # Panics
///
/// Without the right to mount (CAP_SYS_ADMIN).
pub fn private() {
    unshare(CloneFlags::CLONE_NEWNS)
        .unwrap_or_else(|errno| panic!("cannot make a mount namespace: {errno}"));
    // A shared mount would hand ours on to the rest of the machine.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/sys", private)
        .unwrap_or_else(|errno| panic!("cannot make /sys a private mount: {errno}"));
    mount("bpf", PATH, "bpf", MountFlags::empty(), None)
        .unwrap_or_else(|errno| panic!("cannot mount bpffs at {PATH}: {errno}"));
}
