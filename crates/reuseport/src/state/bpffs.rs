//! The directory on the BPF filesystem: finding it, mounting it, locking it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::mount::{MountFlags, mount};

use crate::{Error, ErrorKind, Result};

/// Where bpffs is mounted by convention.
const MOUNT: &str = "/sys/fs/bpf";

/// Our directory on it: permanent, because it is what locks are taken on.
const ROOT: &str = "/sys/fs/bpf/reuseport";

/// `BPF_FS_MAGIC` in include/uapi/linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Our directory. Having one says that it exists, not that it is locked.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    path: PathBuf,
}

/// The right to change what is pinned, or to rely on nobody else changing it, until dropped. The
/// kernel takes it back when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _directory: File,
}

impl Root {
    /// Our directory if there is one: whoever only looks creates nothing.
    ///
    /// # Errors
    ///
    /// If there is one that the caller may not read.
    pub(crate) fn existing() -> Result<Option<Self>> {
        match fs::read_dir(ROOT) {
            Ok(_) => Ok(Some(Self { path: PathBuf::from(ROOT) })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(denied(format!("cannot read {ROOT}"), error)),
        }
    }

    /// Our directory, made if it is not there; bpffs is mounted if nobody did.
    pub(crate) fn create() -> Result<Self> {
        ensure_mounted()?;
        let root = Self { path: PathBuf::from(ROOT) };
        make_directory(&root.path)?;
        Ok(root)
    }

    /// Waits until nobody else changes anything.
    pub(crate) fn lock(&self) -> Result<Lock> {
        self.flock(FlockOperation::LockExclusive)
    }

    /// Waits until nobody changes anything; others may look at the same time.
    pub(crate) fn lock_shared(&self) -> Result<Lock> {
        self.flock(FlockOperation::LockShared)
    }

    fn flock(&self, operation: FlockOperation) -> Result<Lock> {
        let tried = || format!("cannot lock {}", self.path.display());
        let directory = File::open(&self.path).map_err(|error| denied(tried(), error))?;
        loop {
            match flock(&directory, operation) {
                Ok(()) => return Ok(Lock { _directory: directory }),
                // A signal that somebody handles: the wait goes on.
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(denied(tried(), error.into())),
            }
        }
    }

    /// The host-wide layer's directory.
    pub(crate) fn host(&self) -> PathBuf {
        self.path.join("host")
    }

    /// The directory that holds a directory for each group.
    pub(crate) fn groups(&self) -> PathBuf {
        self.path.join("groups")
    }

    /// Where a group is built before it takes its place.
    pub(crate) fn staging(&self) -> PathBuf {
        self.path.join("staging")
    }
}

/// Makes a directory that only its owner and group may look into.
pub(crate) fn make_directory(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o750).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(denied(format!("cannot make {}", path.display()), error)),
    }
}

/// Removes a directory with what is pinned in it. One that is not there is fine.
pub(crate) fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(denied(format!("cannot remove {}", path.display()), error)),
    }
}

/// The names in a directory; none if it is not there.
pub(crate) fn names(path: &Path) -> Result<Vec<String>> {
    let tried = |error| denied(format!("cannot read {}", path.display()), error);
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(tried(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(tried)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// Says that somebody watches over a group's directory, until what is returned is dropped.
pub(crate) fn watch(directory: &Path) -> Result<File> {
    let tried = || format!("cannot watch over {}", directory.display());
    let file = File::open(directory).map_err(|error| denied(tried(), error))?;
    flock(&file, FlockOperation::LockShared).map_err(|error| denied(tried(), error.into()))?;
    Ok(file)
}

/// Whether somebody watches over a group's directory.
pub(crate) fn is_watched(directory: &Path) -> bool {
    File::open(directory)
        .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_err())
}

fn ensure_mounted() -> Result<()> {
    let mounted = || rustix::fs::statfs(MOUNT).is_ok_and(|fs| fs.f_type as u64 == BPF_FS_MAGIC);
    if mounted() {
        return Ok(());
    }
    let result = mount("bpf", MOUNT, "bpf", MountFlags::empty(), None);
    // Somebody may have been faster.
    if mounted() {
        return Ok(());
    }
    let error = result.err().map_or_else(|| io::Error::other("not a bpffs"), io::Error::from);
    Err(Error::new(ErrorKind::Denied, format!("cannot mount a BPF filesystem at {MOUNT}"))
        .because(error)
        .remedy(format!("run it as root, or let root run: mount -t bpf bpf {MOUNT}")))
}

fn denied(tried: String, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        _ => ErrorKind::System,
    };
    let denied = kind == ErrorKind::Denied;
    let error = Error::new(kind, tried).because(error);
    if denied {
        error.remedy("run it as root, or as the user who owns that directory")
    } else {
        error
    }
}
