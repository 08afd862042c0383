//! The host's cgroup2 hierarchy.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;

/// Opens its root: programs there run for all processes of the host.
///
/// # Panics
///
/// If no mount of it has the root, as in a container.
pub fn root() -> File {
    const ROOT_INODE: u64 = 1;

    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("/proc");
    let points = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| point.to_owned())
    });
    let is_root = |file: &File| file.metadata().is_ok_and(|it| it.ino() == ROOT_INODE);
    let found = points.filter_map(|point| File::open(point).ok()).find(is_root);
    found.expect("the root of the cgroup2 hierarchy is not mounted: tests run on the host")
}
