//! Who follows a group: the process that holds the shared lock on the directory of its state. And the one process that
//! may follow all of them: it holds the exclusive lock on a directory of its own. The kernel releases a lock when the
//! process ends, for whatever reason.

use std::cell::OnceCell;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{major, minor};

use super::bpffs::{self, Root};
use super::group::directory;
use super::place::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::model::group::GroupKey;
use crate::model::status::Watcher;

/// The locks on files of the host, listed when they are first needed, and once.
#[derive(Debug, Default)]
pub(crate) struct Locks(OnceCell<String>);

impl Locks {
    /// The process that follows the group; `None` if none does, or the directory cannot be opened.
    pub(crate) fn watcher_of(&self, root: &Root, key: &GroupKey) -> Option<Watcher> {
        let directory = directory(root, key);
        // A reader of /proc/locks waits for all CPUs (locks_start in fs/locks.c), which takes some 10 ms.
        if !bpffs::is_watched(&directory) {
            return None;
        }
        // Otherwise it is a process of another pid namespace, which is not listed.
        let unknown = || bpffs::is_watched(&directory).then(Watcher::default);
        self.holder(&directory, SHARED).or_else(unknown)
    }

    /// The process that holds a lock on a directory, the lowest id of several; `None` if none is listed.
    fn holder(&self, directory: &Path, mode: &str) -> Option<Watcher> {
        let metadata = fs::metadata(directory).ok()?;
        let device = (major(metadata.dev()), minor(metadata.dev()));
        let locks = self.0.get_or_init(|| fs::read_to_string("/proc/locks").unwrap_or_default());
        let pid = holders(locks, mode, device, metadata.ino()).min()?;
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok();
        Some(Watcher { pid: Some(pid), comm: comm.map(|comm| comm.trim_end().to_owned()) })
    }
}

/// Makes the caller the one process that follows all groups, until the returned file is dropped.
///
/// # Errors
///
/// [`ErrorKind::Busy`] if another one is.
pub(crate) fn claim(place: &Place) -> Result<File> {
    let directory = Root::create(place)?.agent();
    bpffs::make_directory(&directory)?;
    let failed = || format!("cannot lock {}", directory.display());
    let lock = bpffs::try_lock(&directory).map_err(|error| bpffs::denied(failed(), error))?;
    lock.ok_or_else(|| {
        let failed = "cannot follow all groups: another process does already";
        let error = Error::new(ErrorKind::Busy, failed);
        match Locks::default().holder(&directory, EXCLUSIVE) {
            Some(Watcher { pid: Some(pid), comm }) => {
                let comm = comm.unwrap_or_default();
                error.because(format!("process {pid} ({comm}) has the lock"))
            }
            _ => error.because("a process of another pid namespace has the lock"),
        }
    })
}

/// The mode of a lock, in /proc/locks.
const SHARED: &str = "READ";
const EXCLUSIVE: &str = "WRITE";

/// The processes with a flock(2) on a file, in the form of /proc/locks: `1: FLOCK  ADVISORY  READ  1234 00:2b:77 0 EOF`.
fn holders(locks: &str, mode: &str, device: (u32, u32), inode: u64) -> impl Iterator<Item = u32> {
    let file = format!("{:02x}:{:02x}:{inode}", device.0, device.1);
    locks.lines().filter_map(move |line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, "FLOCK", "ADVISORY", is, pid, of, ..] if is == mode && of == file => pid.parse().ok(),
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
        let holders = |mode, device| holders(locks, mode, device, 77).collect::<Vec<_>>();
        assert_eq!(holders(SHARED, (0, 0x2b)), [1234, 999]);
        assert_eq!(holders(EXCLUSIVE, (0, 0x2b)), [12]);
        assert_eq!(holders(SHARED, (8, 0x2b)), []);
    }
}
