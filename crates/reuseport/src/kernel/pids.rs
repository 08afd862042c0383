//! The caller's pid namespace.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

/// Whether the caller is in the initial pid namespace, where pids are those that the kernel's programs see.
pub(crate) fn sees_host_pids() -> bool {
    /// `PROC_PID_INIT_INO` in include/linux/proc_ns.h.
    const HOST_PIDS: u64 = 0xefff_fffc;

    fs::metadata("/proc/thread-self/ns/pid").is_ok_and(|file| file.ino() == HOST_PIDS)
}
