//! Network namespaces by the names and numbers that people use: `ip netns` names and inode numbers.
//!
//! Enters none of them: the library sees all namespaces from any of them, and knows their names
//! ([`netns_names`](reuseport::netns_names)).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where `ip netns add` puts the names.
const NAMED: &str = "/run/netns";

/// The inode number of the caller's own namespace; None without /proc.
pub(crate) fn own() -> Option<u32> {
    inode(Path::new("/proc/self/ns/net"))
}

/// The inode number that `argument` means: that of the namespace which `ip netns` knows by this
/// name, else the argument itself if it is a number. None if it is neither.
pub(crate) fn resolve(argument: &str) -> Option<u32> {
    resolve_in(Path::new(NAMED), argument)
}

fn resolve_in(named: &Path, argument: &str) -> Option<u32> {
    let plain = !argument.is_empty() && !argument.contains('/') && !argument.starts_with('.');
    let by_name = plain.then(|| inode(&named.join(argument))).flatten();
    by_name.or_else(|| argument.parse().ok())
}

/// Whether a visible thread is in the network namespace with this inode number, or it is mounted here. One that
/// only sockets hold has groups to show, or nothing.
pub(crate) fn exists(wanted: u32) -> bool {
    own() == Some(wanted) || is_mounted(wanted) || has_thread(wanted)
}

/// The inode number of a process's namespace; None if it has ended, or the caller may not look at it.
pub(crate) fn of_process(pid: u32) -> Option<u32> {
    inode(Path::new(&format!("/proc/{pid}/ns/net")))
}

/// As `ip netns` and container runtimes mount them.
fn is_mounted(wanted: u32) -> bool {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let root = format!(" net:[{wanted}] ");
    mounts.contains(&root) || names(Path::new(NAMED)).any(|path| inode(&path) == Some(wanted))
}

fn has_thread(wanted: u32) -> bool {
    let is_process = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit())
    };
    let threads = names(Path::new("/proc")).filter(is_process).flat_map(|process| {
        // Most threads are in the namespace of their process.
        std::iter::once(process.clone()).chain(names(&process.join("task")))
    });
    threads.into_iter().any(|thread| inode(&thread.join("ns/net")) == Some(wanted))
}

fn names(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Namespaces' inode numbers have 32 bits (`struct ns_common`, `unsigned int inum`).
fn inode(path: &Path) -> Option<u32> {
    u32::try_from(fs::metadata(path).ok()?.ino()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_an_inode_and_a_name_is_looked_up() {
        assert_eq!(resolve("4026531840").unwrap(), 4_026_531_840);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("blue");
        fs::write(&file, "").unwrap();
        let expected = inode(&file).unwrap();
        assert_eq!(resolve_in(directory.path(), "blue").unwrap(), expected);
    }

    #[test]
    fn an_unknown_name_and_one_that_leaves_the_directory_resolve_to_none() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["red", "", "..", "../../proc/self/ns/net"] {
            assert_eq!(resolve_in(directory.path(), name), None, "{name}");
        }
    }

    #[test]
    fn a_namespace_exists_if_a_thread_is_in_it() {
        let own = own().unwrap();
        assert!(has_thread(own) && exists(own));
        // The inode number of the first one is larger: `PROC_NET_INIT_INO` is 0xf0000000 at least.
        assert!(!exists(12));
    }
}
