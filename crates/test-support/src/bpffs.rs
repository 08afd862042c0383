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
/// REUSEPORT_BPFFS must name [`PATH`], or the library would use the host's bpffs. `.cargo/run-as-root`
/// sets it for the tests that cargo starts.
///
/// # Panics
///
/// Without REUSEPORT_BPFFS, or without the right to mount (CAP_SYS_ADMIN).
pub fn private() {
    let named = std::env::var("REUSEPORT_BPFFS").unwrap_or_default();
    assert_eq!(named, PATH, "set REUSEPORT_BPFFS={PATH}, as .cargo/run-as-root does");
    unshare(CloneFlags::CLONE_NEWNS)
        .unwrap_or_else(|errno| panic!("cannot make a mount namespace: {errno}"));
    // A shared mount would propagate the new one to the rest of the machine.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/sys", private)
        .unwrap_or_else(|errno| panic!("cannot make /sys a private mount: {errno}"));
    mount("bpf", PATH, "bpf", MountFlags::empty(), None)
        .unwrap_or_else(|errno| panic!("cannot mount bpffs at {PATH}: {errno}"));
}
