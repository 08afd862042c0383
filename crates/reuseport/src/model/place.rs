//! Where pinned state lives: on the bpffs of the host, whichever mount namespace the caller is in.
//!
//! State on a bpffs that ends with a mount namespace (`ip netns exec`, `unshare -m`) would be lost while the
//! program goes on deciding. So the host's bpffs is recognised by its device number, which
//! `/proc/1/mountinfo` names, and is used wherever it can be reached.

use super::mounts::{DeviceNumber, mounts};

/// What the caller sees.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// Whether `/proc/1` is the host's first process: the caller is in the initial pid namespace.
    pub(crate) host_pids: bool,
    /// `/proc/1/mountinfo`.
    pub(crate) init: &'a str,
    /// The mountinfo of the calling thread.
    pub(crate) own: &'a str,
    /// The bpffs whose root is the caller's [`MOUNT`].
    pub(crate) here: Option<DeviceNumber>,
    /// The bpffs whose root is [`MOUNT`] for process 1; `None` also if the caller may not look.
    pub(crate) through_init: Option<DeviceNumber>,
}

/// The conventional mount point of bpffs.
pub(crate) const MOUNT: &str = "/sys/fs/bpf";

/// The same for process 1.
pub(crate) const THROUGH_INIT: &str = "/proc/1/root/sys/fs/bpf";

/// Where the host's bpffs is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// At [`MOUNT`].
    Here,
    /// At [`THROUGH_INIT`].
    ThroughInit,
    /// Not mounted, and the caller's [`MOUNT`] is the host's.
    MountHere,
    Unknown(Unknown),
}

/// Why the host's bpffs is out of reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// The caller does not see the host's processes.
    OtherPids,
    /// The host has none at [`MOUNT`], and the caller is in another mount namespace.
    NoneOnHost,
    /// The caller's mount namespace does not have it, and the caller may not look into process 1's.
    OutOfReach,
}

/// Finds the host's bpffs.
pub(crate) fn place(seen: &Seen<'_>) -> Place {
    if !seen.host_pids {
        return Place::Unknown(Unknown::OtherPids);
    }
    let Some(host) = mounts(seen.init).filter(|mount| mount.point == MOUNT).last() else {
        return without_bpffs(seen);
    };
    match host.device.filter(|_| host.kind == "bpf") {
        None => without_bpffs(seen),
        device if device == seen.here => Place::Here,
        device if device == seen.through_init => Place::ThroughInit,
        Some(_) => Place::Unknown(Unknown::OutOfReach),
    }
}

fn without_bpffs(seen: &Seen<'_>) -> Place {
    // Mount ids are unique on the host; a copy of a namespace has other ones.
    let root = |text| mounts(text).filter(|mount| mount.point == "/").last().map(|mount| mount.id);
    match (root(seen.init), root(seen.own)) {
        (Some(init), Some(own)) if init == own => Place::MountHere,
        _ => Place::Unknown(Unknown::NoneOnHost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "\
        22 27 0:21 / /proc rw,relatime - proc proc rw\n\
        23 27 0:22 / /sys rw,relatime - sysfs sysfs rw\n\
        27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard\n\
        42 23 0:39 / /sys/fs/bpf rw,relatime shared:7 master:1 - bpf bpf rw,mode=700\n";
    /// A copy (`unshare -m`): other ids, the same devices.
    const COPY: &str = "\
        57 47 0:22 / /sys rw,relatime - sysfs sysfs rw\n\
        47 46 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
        59 57 0:39 / /sys/fs/bpf rw,relatime - bpf bpf rw,mode=700\n";

    const fn device(minor: u32) -> Option<DeviceNumber> {
        Some(DeviceNumber { major: 0, minor })
    }

    const ON_HOST: Seen<'static> =
        Seen { host_pids: true, init: HOST, own: HOST, here: device(39), through_init: None };

    #[test]
    fn the_hosts_bpffs_is_used_in_any_mount_namespace_that_has_it() {
        assert_eq!(place(&ON_HOST), Place::Here);
        assert_eq!(place(&Seen { own: COPY, ..ON_HOST }), Place::Here);
        // What process 1 shows does not matter then.
        assert_eq!(place(&Seen { through_init: device(39), ..ON_HOST }), Place::Here);
    }

    #[test]
    fn a_bpffs_of_the_callers_mount_namespace_alone_is_not_used() {
        // `mount -t bpf` in `unshare -m`; and `ip netns exec`, which mounts a new /sys.
        for here in [device(40), None] {
            let seen = Seen { own: COPY, here, ..ON_HOST };
            assert_eq!(place(&seen), Place::Unknown(Unknown::OutOfReach));
            let seen = Seen { through_init: device(39), ..seen };
            assert_eq!(place(&seen), Place::ThroughInit);
            let seen = Seen { through_init: device(41), ..seen };
            assert_eq!(place(&seen), Place::Unknown(Unknown::OutOfReach));
        }
    }

    #[test]
    fn a_host_without_bpffs_gets_one_in_its_own_mount_namespace_only() {
        let without: String = HOST.lines().take(3).map(|line| format!("{line}\n")).collect();
        let on_host = Seen { init: &without, own: &without, here: None, ..ON_HOST };
        assert_eq!(place(&on_host), Place::MountHere);
        let elsewhere = Place::Unknown(Unknown::NoneOnHost);
        assert_eq!(place(&Seen { own: COPY, ..on_host }), elsewhere);
        assert_eq!(place(&Seen { own: COPY, here: device(40), ..on_host }), elsewhere);
        // Something else is mounted over it.
        let hidden = format!("{HOST}77 42 0:50 / /sys/fs/bpf rw - tmpfs none rw\n");
        let seen = Seen { init: &hidden, own: &hidden, here: None, ..ON_HOST };
        assert_eq!(place(&seen), Place::MountHere);
        // And a second bpffs: the one on top counts.
        let second = format!("{HOST}77 42 0:50 / /sys/fs/bpf rw - bpf bpf rw\n");
        let seen = Seen { init: &second, own: &second, here: device(50), ..ON_HOST };
        assert_eq!(place(&seen), Place::Here);
    }

    #[test]
    fn without_the_hosts_processes_nothing_is_known() {
        let seen = Seen { host_pids: false, through_init: device(39), ..ON_HOST };
        assert_eq!(place(&seen), Place::Unknown(Unknown::OtherPids));
    }

    #[test]
    fn other_lines_are_no_mounts() {
        for text in
            ["", "\n", "no mount\n", "1 2 3 - bpf\n", "42 23 x / /sys/fs/bpf - bpf bpf rw\n"]
        {
            let seen = Seen { init: text, own: text, ..ON_HOST };
            assert_eq!(place(&seen), Place::Unknown(Unknown::NoneOnHost), "{text:?}");
        }
    }
}
