//! A private bpffs: pins of a test do not collide with those of other tests or of the machine.

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

/// The conventional mount point of bpffs.
pub const PATH: &str = "/sys/fs/bpf";

/// Gives the calling thread its own mount namespace with a new bpffs at [`PATH`], which has only
/// the `maps.debug` and `progs.debug` of the kernel. Call it inside [`crate::netns::isolated`],
/// because the thread cannot go back. Threads and processes started afterwards share it; all pins
/// are gone when the last of them ends.
///
/// # Panics
///
/// Without the right to mount (CAP_SYS_ADMIN).
pub fn private() {
    unshare(CloneFlags::CLONE_NEWNS)
        .unwrap_or_else(|errno| panic!("cannot make a mount namespace: {errno}"));
    // A shared mount would propagate the new one to the rest of the machine.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/sys", private)
        .unwrap_or_else(|errno| panic!("cannot make /sys a private mount: {errno}"));
    mount("bpf", PATH, "bpf", MountFlags::empty(), None)
        .unwrap_or_else(|errno| panic!("cannot mount bpffs at {PATH}: {errno}"));
}
