//! Finds the bpffs on which state is pinned, and mounts it if the host has none.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{major, minor};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, mount,
};

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::pids::sees_host_pids;
use crate::model::mounts::DeviceNumber;
use crate::model::place::{self, MOUNT, Seen, THROUGH_INIT, Unknown};

/// Names the directory to use, in place of the host's bpffs.
const VARIABLE: &str = "REUSEPORT_BPFFS";

/// `BPF_FS_MAGIC` in include/uapi/linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Where state is pinned.
#[derive(Debug, Clone, Default)]
pub(crate) enum Place {
    /// On the bpffs that REUSEPORT_BPFFS names, or else on the host's.
    #[default]
    Host,
    /// On a bpffs that is mounted nowhere: it ends with the last copy of this descriptor.
    Process(Arc<OwnedFd>),
}

impl Place {
    /// The host's bpffs where it can be found, else one of this process.
    pub(crate) fn of_host_or_process() -> Result<Self> {
        let unknown = match Self::Host.directory() {
            Ok(Found::Nowhere(unknown)) | Err(unknown) => unknown,
            Ok(_) => return Ok(Self::Host),
        };
        if std::env::var_os(VARIABLE).is_some_and(|value| !value.is_empty()) {
            return Err(unknown);
        }
        let mounted = || -> rustix::io::Result<OwnedFd> {
            let bpf = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_set_string(&bpf, "mode", "700")?;
            fsconfig_create(&bpf)?;
            let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC;
            fsmount(&bpf, FsMountFlags::FSMOUNT_CLOEXEC, flags)
        };
        match mounted() {
            Ok(mount) => Ok(Self::Process(Arc::new(mount))),
            Err(error) => {
                tracing::debug!("cannot mount a BPF filesystem for this process: {error}");
                Err(unknown)
            }
        }
    }

    /// The directory for state, on a bpffs; `None` if the host has no bpffs, and so no state.
    pub(crate) fn existing(&self) -> Result<Option<PathBuf>> {
        Ok(match self.directory()? {
            Found::At(directory) => Some(directory),
            Found::NotMounted | Found::Nowhere(_) => None,
        })
    }

    /// The directory for state, on a bpffs, which this mounts if necessary.
    pub(crate) fn create(&self) -> Result<PathBuf> {
        match self.directory()? {
            Found::At(directory) => Ok(directory),
            Found::NotMounted => mount_here().map(|()| PathBuf::from(MOUNT)),
            Found::Nowhere(unknown) => Err(unknown),
        }
    }

    fn directory(&self) -> Result<Found> {
        match self {
            Self::Process(mount) => {
                Ok(Found::At(format!("/proc/self/fd/{}", mount.as_raw_fd()).into()))
            }
            Self::Host => match std::env::var_os(VARIABLE) {
                Some(directory) if !directory.is_empty() => named(directory.into()),
                _ => of_host(),
            },
        }
    }
}

enum Found {
    At(PathBuf),
    /// At [`MOUNT`], once it is mounted.
    NotMounted,
    /// The host has none; this says how to get one.
    Nowhere(Error),
}

/// What REUSEPORT_BPFFS names.
fn named(directory: PathBuf) -> Result<Found> {
    if is_bpffs(&directory) {
        return Ok(Found::At(directory));
    }
    if directory == Path::new(MOUNT) {
        return Ok(Found::NotMounted);
    }
    let shown = directory.display();
    let (why, make) = match directory.is_dir() {
        true => ("it is not on a BPF filesystem", String::new()),
        false => ("there is no such directory", format!("mkdir -p {shown} && ")),
    };
    Err(Error::new(ErrorKind::Invalid, format!("cannot keep state in {VARIABLE}={shown}"))
        .because(why)
        .with_hint(format!(
            "mount one there: {make}mount -t bpf bpf {shown}; or leave {VARIABLE} out for the host's"
        )))
}

/// The host's bpffs.
fn of_host() -> Result<Found> {
    let host_pids = sees_host_pids();
    let mountinfo = |path| match fs::read(path) {
        Ok(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
        // Without /proc, or with processes hidden.
        Err(error) if host_pids => Err(unknown(format!("cannot read {path}: {error}"))),
        Err(_) => Ok(String::new()),
    };
    let seen = Seen {
        host_pids,
        init: &mountinfo("/proc/1/mountinfo")?,
        own: &mountinfo("/proc/thread-self/mountinfo")?,
        here: device_of(Path::new(MOUNT)),
        through_init: device_of(Path::new(THROUGH_INIT)),
    };
    match place::place(&seen) {
        place::Place::Here => Ok(Found::At(MOUNT.into())),
        place::Place::ThroughInit => Ok(Found::At(THROUGH_INIT.into())),
        place::Place::MountHere => Ok(Found::NotMounted),
        place::Place::Unknown(Unknown::NoneOnHost) => Ok(Found::Nowhere(
            unknown("the host has none at /sys/fs/bpf, and this is another mount namespace")
                .with_hint(format!("let root run on the host: mount -t bpf bpf {MOUNT}")),
        )),
        place::Place::Unknown(Unknown::OtherPids) => {
            Err(unknown("this is another pid namespace, such as a container's"))
        }
        place::Place::Unknown(Unknown::OutOfReach) => Err(unknown(format!(
            "this mount namespace does not have it, and {THROUGH_INIT} cannot be reached"
        ))),
    }
}

fn unknown(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, "cannot find the host's BPF filesystem")
        .because(why.into())
        .with_hint(format!(
            "run it on the host, or set {VARIABLE} to where the host's {MOUNT} is mounted here"
        ))
}

/// The device of the bpffs whose root is at this path.
fn device_of(path: &Path) -> Option<DeviceNumber> {
    /// Of every bpffs (`simple_fill_super`). A directory of one may be mounted somewhere, too.
    const ROOT_INODE: u64 = 1;

    let stat = rustix::fs::stat(path).ok()?;
    (is_bpffs(path) && stat.st_ino == ROOT_INODE)
        .then(|| DeviceNumber { major: major(stat.st_dev), minor: minor(stat.st_dev) })
}

fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type as u64 == BPF_FS_MAGIC)
}

fn mount_here() -> Result<()> {
    let mounted = || is_bpffs(Path::new(MOUNT));
    if mounted() {
        return Ok(());
    }
    // As systemd mounts it. By default all users may create names there.
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let result = mount("bpf", MOUNT, "bpf", flags, Some(c"mode=700"));
    // Another process may have been faster.
    if mounted() {
        return Ok(());
    }
    let error = result.err().map_or_else(|| io::Error::other("not a bpffs"), io::Error::from);
    Err(Error::new(ErrorKind::Denied, format!("cannot mount a BPF filesystem at {MOUNT}"))
        .because(error)
        .with_hint(format!("run it as root, or let root run: mount -t bpf bpf {MOUNT}")))
}
