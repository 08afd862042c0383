//! The names that people gave to network namespaces (`ip netns add`).

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where iproute2 keeps a file for each named namespace, mounted over with the namespace itself.
const NAMED: &str = "/run/netns";

/// The names in `/run/netns` by the namespaces' inode numbers
/// ([`Netns::inode`](crate::model::id::Netns::inode)); of several names for one the first by alphabet.
///
/// For display only: a name may be missing (containers have none), and what cannot be read is left
/// out.
pub fn names() -> HashMap<u32, String> {
    names_in(Path::new(NAMED))
}

fn names_in(directory: &Path) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    // All namespaces live on one pseudo file system. A file that is not on it is a leftover that
    // nothing is mounted over.
    let Ok(ours) = fs::metadata("/proc/self/ns/net") else { return names };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        let Ok(inode) = u32::try_from(metadata.ino()) else { continue };
        if metadata.dev() != ours.dev() {
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
    fn a_file_that_no_namespace_is_mounted_over_is_left_out() {
        assert!(names_in(Path::new("/etc")).is_empty());
        assert!(names_in(Path::new("/nonexistent")).is_empty());
    }
}
