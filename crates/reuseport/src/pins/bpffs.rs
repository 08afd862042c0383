//! The directory on the BPF filesystem: finding it, mounting it, locking it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use crate::error::{Error, ErrorKind, Result};
use crate::stop::Stop;

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
        refuse_if_others_may_write(&root.path)?;
        Ok(root)
    }

    /// Waits until nobody else changes anything, or until somebody asks to stop.
    pub(crate) fn lock(&self, stop: &Stop) -> Result<Lock> {
        const PAUSE: Duration = Duration::from_millis(2);

        let (directory, tried) = self.open()?;
        loop {
            // Whoever has it may be stopped (^Z) for hours. A wait inside the kernel would not end
            // when a signal is handled: handlers are installed so that such calls begin again.
            match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock { _directory: directory }),
                Err(Errno::AGAIN | Errno::INTR) => stop.check(&tried)?,
                Err(error) => return Err(denied(tried, error.into())),
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until nobody changes anything; others may look at the same time.
    pub(crate) fn lock_shared(&self) -> Result<Lock> {
        let (directory, tried) = self.open()?;
        loop {
            match flock(&directory, FlockOperation::LockShared) {
                Ok(()) => return Ok(Lock { _directory: directory }),
                // A signal that somebody handles: the wait goes on.
                Err(Errno::INTR) => {}
                Err(error) => return Err(denied(tried, error.into())),
            }
        }
    }

    fn open(&self) -> Result<(File, String)> {
        let tried = format!("cannot lock {}", self.path.display());
        match File::open(&self.path) {
            Ok(directory) => Ok((directory, tried)),
            Err(error) => Err(denied(tried, error)),
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

    /// Where a group is built before it takes its place, and where things go to be removed.
    pub(crate) fn staging(&self) -> PathBuf {
        self.path.join("staging")
    }

    /// Removes a directory of ours in one step as far as others can see: an interruption leaves
    /// what is left of it in staging, and never a part of it in its place. The caller has the lock.
    pub(crate) fn discard(&self, directory: &Path) -> Result<()> {
        let staging = self.staging();
        if directory != staging {
            remove_directory(&staging)?;
            match fs::rename(directory, &staging) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => {
                    return Err(denied(format!("cannot remove {}", directory.display()), error));
                }
            }
        }
        remove_directory(&staging)
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

/// Refuses a directory in which somebody else could put something in place of what we pin.
fn refuse_if_others_may_write(path: &Path) -> Result<()> {
    const OTHERS_WRITE: u32 = 0o002;

    let metadata = fs::symlink_metadata(path)
        .map_err(|error| denied(format!("cannot look at {}", path.display()), error))?;
    let own = rustix::process::geteuid().as_raw();
    let trusted = metadata.is_dir()
        && (metadata.uid() == own || metadata.uid() == 0)
        && metadata.mode() & OTHERS_WRITE == 0;
    if trusted {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Denied, format!("will not use {}", path.display()))
        .because(format!("it belongs to uid {}, with mode {:o}", metadata.uid(), metadata.mode()))
        .with_hint("remove it, or give it to root with mode 750"))
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

/// A lock on a directory until the file is dropped; `None` if somebody else has it.
pub(crate) fn try_lock(directory: &Path) -> io::Result<Option<File>> {
    let file = File::open(directory)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
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
    // As systemd mounts it. By default everybody may create names there.
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let result = mount("bpf", MOUNT, "bpf", flags, Some(c"mode=700"));
    // Somebody may have been faster.
    if mounted() {
        return Ok(());
    }
    let error = result.err().map_or_else(|| io::Error::other("not a bpffs"), io::Error::from);
    Err(Error::new(ErrorKind::Denied, format!("cannot mount a BPF filesystem at {MOUNT}"))
        .because(error)
        .with_hint(format!("run it as root, or let root run: mount -t bpf bpf {MOUNT}")))
}

fn denied(tried: String, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        _ => ErrorKind::System,
    };
    let denied = kind == ErrorKind::Denied;
    let error = Error::new(kind, tried).because(error);
    if denied {
        error.with_hint("run it as root, or as the user who owns that directory")
    } else {
        error
    }
}
