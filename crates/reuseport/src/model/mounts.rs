//! What is mounted where, as `/proc/PID/mountinfo` names it.

/// A file system, as `major:minor` in mountinfo and `st_dev` name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceNumber {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

/// A mounted file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mount<'a> {
    pub(crate) id: &'a str,
    pub(crate) device: Option<DeviceNumber>,
    pub(crate) point: &'a str,
    /// The type of the file system.
    pub(crate) kind: &'a str,
}

/// The mounts of a mountinfo (proc_pid_mountinfo(5)); of several at one point, the last is on top.
pub(crate) fn mounts(text: &str) -> impl Iterator<Item = Mount<'_>> {
    text.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let (id, device, point) = (fields.next()?, fields.nth(1)?, fields.nth(1)?);
        let device = device.split_once(':').and_then(|(major, minor)| {
            Some(DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? })
        });
        Some(Mount { id, device, point, kind: file_system.split(' ').next()? })
    })
}
