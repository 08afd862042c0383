//! The root of the host's cgroup2 hierarchy, below which every process is: a program there runs for all of them.
//!
//! A cgroup namespace (a container's) mounts a part of the hierarchy, whose programs would miss the sockets of
//! processes outside. That is no root.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, fstat, fstatfs, open};

use crate::model::mounts::mounts;

/// `CGROUP2_SUPER_MAGIC` in include/uapi/linux/magic.h.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Of the root, and of no other cgroup (`cgroup_setup_root`).
const ROOT_INODE: u64 = 1;

/// Opens it, where this mount namespace or that of process 1 has it.
///
/// # Errors
///
/// [`NotFound`](io::ErrorKind::NotFound) if it is mounted in neither, or out of reach.
pub(crate) fn root() -> io::Result<OwnedFd> {
    for (mountinfo, root) in
        [("/proc/thread-self/mountinfo", ""), ("/proc/1/mountinfo", "/proc/1/root")]
    {
        let Ok(text) = fs::read(mountinfo) else { continue };
        let text = String::from_utf8_lossy(&text);
        let points = mounts(&text).filter(|mount| mount.kind == "cgroup2").map(|m| m.point);
        if let Some(found) = points.filter_map(|point| open_root(&format!("{root}{point}"))).next()
        {
            return Ok(found);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "the root of the cgroup2 hierarchy is not mounted"))
}

fn open_root(path: &str) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(path, flags, Mode::empty()).ok()?;
    let is_cgroup2 = fstatfs(&directory).ok()?.f_type as u64 == CGROUP2_MAGIC;
    (is_cgroup2 && fstat(&directory).ok()?.st_ino == ROOT_INODE).then_some(directory)
}
