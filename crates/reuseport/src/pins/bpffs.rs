//! The root directory on the BPF filesystem: created, locked; the directories in it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::place::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::stop::Stop;

/// The root directory's name on the bpffs. It is never removed, because it carries the lock.
const ROOT: &str = "reuseport";

/// The root directory. It exists; it need not be locked.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    path: PathBuf,
}

/// The lock on the root directory, until dropped: exclusive for changes, shared for reading. The kernel
/// releases it when the process ends, for whatever reason.
#[derive(Debug)]
pub(crate) struct Lock {
    _directory: File,
}

impl Root {
    /// The root directory if it exists. Reading creates nothing.
    ///
    /// # Errors
    ///
    /// If it exists and the caller may not read it, or if the host's bpffs cannot be found.
    pub(crate) fn existing(place: &Place) -> Result<Option<Self>> {
        let Some(path) = place.existing()?.map(|bpffs| bpffs.join(ROOT)) else { return Ok(None) };
        match fs::read_dir(&path) {
            Ok(_) => Ok(Some(Self { path })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(denied(format!("cannot read {}", path.display()), error)),
        }
    }

    /// The root directory, created if necessary, after mounting bpffs if necessary.
    pub(crate) fn create(place: &Place) -> Result<Self> {
        let root = Self { path: place.create()?.join(ROOT) };
        make_directory(&root.path)?;
        refuse_if_others_may_write(&root.path)?;
        Ok(root)
    }

    /// Takes the exclusive lock. Waits until it is free or a stop is requested.
    pub(crate) fn lock(&self, stop: &Stop) -> Result<Lock> {
        const PAUSE: Duration = Duration::from_millis(2);

        let (directory, failed) = self.open()?;
        loop {
            // The process that holds it may be stopped (^Z) for hours. A wait inside the kernel would not
            // end at a signal: handlers are installed with SA_RESTART.
            match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock { _directory: directory }),
                Err(Errno::AGAIN | Errno::INTR) => stop.check(&failed)?,
                Err(error) => return Err(denied(failed, error.into())),
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Takes the shared lock. Waits until no process holds the exclusive one.
    pub(crate) fn lock_shared(&self) -> Result<Lock> {
        let (directory, failed) = self.open()?;
        loop {
            match flock(&directory, FlockOperation::LockShared) {
                Ok(()) => return Ok(Lock { _directory: directory }),
                // A signal was handled: wait on.
                Err(Errno::INTR) => {}
                Err(error) => return Err(denied(failed, error.into())),
            }
        }
    }

    fn open(&self) -> Result<(File, String)> {
        let failed = format!("cannot lock {}", self.path.display());
        match File::open(&self.path) {
            Ok(directory) => Ok((directory, failed)),
            Err(error) => Err(denied(failed, error)),
        }
    }

    /// The host-wide layer's directory.
    pub(crate) fn host(&self) -> PathBuf {
        self.path.join("host")
    }

    /// The parent of the groups' directories.
    pub(crate) fn groups(&self) -> PathBuf {
        self.path.join("groups")
    }

    /// The directory in which a group is built, and from which directories are removed.
    pub(crate) fn staging(&self) -> PathBuf {
        self.path.join("staging")
    }

    /// Removes a directory, atomically for other processes: it moves to staging first, so an interruption
    /// leaves no part of it in its place. The caller holds the lock.
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

/// Creates a directory that only its owner and its group may read.
pub(crate) fn make_directory(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o750).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(denied(format!("cannot make {}", path.display()), error)),
    }
}

/// Refuses a directory in which other users could replace pins.
fn refuse_if_others_may_write(path: &Path) -> Result<()> {
    const OTHERS_WRITE: u32 = 0o002;

    let metadata = fs::symlink_metadata(path)
        .map_err(|error| denied(format!("cannot check {}", path.display()), error))?;
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

/// Removes a directory and the pins in it, if it exists.
pub(crate) fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(denied(format!("cannot remove {}", path.display()), error)),
    }
}

/// The names in a directory, sorted; none if it does not exist.
pub(crate) fn names(path: &Path) -> Result<Vec<String>> {
    let failed = |error| denied(format!("cannot read {}", path.display()), error);
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// Marks a group as watched until the returned file is dropped: a shared lock on its directory.
pub(crate) fn mark_watched(directory: &Path) -> Result<File> {
    let failed = || format!("cannot lock {}", directory.display());
    let file = File::open(directory).map_err(|error| denied(failed(), error))?;
    flock(&file, FlockOperation::LockShared).map_err(|error| denied(failed(), error.into()))?;
    Ok(file)
}

/// An exclusive lock on a directory until the file is dropped; `None` if another process holds one.
pub(crate) fn try_lock(directory: &Path) -> io::Result<Option<File>> {
    let file = File::open(directory)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether a process watches a group.
pub(crate) fn is_watched(directory: &Path) -> bool {
    File::open(directory)
        .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_err())
}

fn denied(failed: String, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        _ => ErrorKind::System,
    };
    let denied = kind == ErrorKind::Denied;
    let error = Error::new(kind, failed).because(error);
    if denied {
        error.with_hint("run it as root, or as the user who owns that directory")
    } else {
        error
    }
}
