//! Who follows a group: the process that holds the shared lock on the directory of its state. The kernel releases
//! it when the process ends, for whatever reason.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{major, minor};

use super::bpffs::{self, Root};
use super::group::directory;
use crate::model::group::GroupKey;
use crate::model::status::Watcher;

/// The process that follows the group; `None` if none does, or the directory cannot be opened.
pub(crate) fn of(root: &Root, key: &GroupKey) -> Option<Watcher> {
    let directory = directory(root, key);
    // A reader of /proc/locks waits for all CPUs (locks_start in fs/locks.c), which takes some 10 ms.
    if !bpffs::is_watched(&directory) {
        return None;
    }
    let metadata = fs::metadata(&directory).ok()?;
    let device = (major(metadata.dev()), minor(metadata.dev()));
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    match sharers(&locks, device, metadata.ino()).min() {
        Some(pid) => {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok();
            Some(Watcher { pid: Some(pid), comm: comm.map(|comm| comm.trim_end().to_owned()) })
        }
        // A process of another pid namespace, which is not listed.
        None => bpffs::is_watched(&directory).then(Watcher::default),
    }
}

/// The processes with a shared flock(2) on a file, in the form of /proc/locks:
/// `1: FLOCK  ADVISORY  READ  1234 00:2b:77 0 EOF`.
fn sharers(locks: &str, device: (u32, u32), inode: u64) -> impl Iterator<Item = u32> {
    let file = format!("{:02x}:{:02x}:{inode}", device.0, device.1);
    locks.lines().filter_map(move |line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, "FLOCK", "ADVISORY", "READ", pid, of, ..] if of == file => pid.parse().ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_are_those_with_a_shared_lock_on_the_directory() {
        let locks = "1: FLOCK  ADVISORY  WRITE 12 00:2b:77 0 EOF\n\
                     2: FLOCK  ADVISORY  READ  1234 00:2b:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  READ  15 00:2b:77 0 EOF\n\
                     3: FLOCK  ADVISORY  READ  13 00:2b:78 0 EOF\n\
                     4: POSIX  ADVISORY  READ  14 00:2b:77 0 EOF\n\
                     5: FLOCK  ADVISORY  READ  999 00:2b:77 0 EOF\n";
        assert_eq!(sharers(locks, (0, 0x2b), 77).collect::<Vec<_>>(), [1234, 999]);
        assert_eq!(sharers(locks, (8, 0x2b), 77).count(), 0);
    }
}
