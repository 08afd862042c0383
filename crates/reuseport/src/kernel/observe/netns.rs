//! The names of network namespaces (`ip netns add`).

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// iproute2 has a file here for each named namespace, over which it mounts the namespace.
const NAMED: &str = "/run/netns";

/// The names in `/run/netns` by the namespaces' inode numbers
/// ([`Netns::inode`](crate::model::id::Netns::inode)). Of several names for one, the first in alphabetical
/// order.
///
/// For display only: a namespace need not have a name (those of containers have none), and unreadable
/// entries are left out.
pub fn names() -> HashMap<u32, String> {
    names_in(Path::new(NAMED))
}

fn names_in(directory: &Path) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    // All namespaces are on one pseudo file system. A file on another one is a leftover without a
    // mount.
    let Ok(nsfs) = fs::metadata("/proc/self/ns/net") else { return names };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        let Ok(inode) = u32::try_from(metadata.ino()) else { continue };
        if metadata.dev() != nsfs.dev() {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let kept = names.entry(inode).or_insert_with(|| name.clone());
        if name < *kept {
            *kept = name;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_found_by_inode() {
        // Like /run/netns, this directory has one entry for each namespace.
        let names = names_in(Path::new("/proc/self/ns"));
        let inode = |name| fs::metadata(format!("/proc/self/ns/{name}")).unwrap().ino() as u32;
        assert_eq!(names[&inode("net")], "net");
        // "pid_for_children" is the same namespace.
        assert_eq!(names[&inode("pid")], "pid");
    }

    #[test]
    fn a_file_without_a_mounted_namespace_is_left_out() {
        assert!(names_in(Path::new("/etc")).is_empty());
        assert!(names_in(Path::new("/nonexistent")).is_empty());
    }
}
