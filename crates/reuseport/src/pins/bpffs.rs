//! The root directory on the BPF filesystem: created, locked; the directories in it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::place::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::stop::Stop;

/// The root directory's name on the bpffs. It is never removed, because it carries the lock.
const ROOT: &str = "reuseport";

/// The pause between two tries to take the lock.
pub(crate) const BETWEEN_TRIES: Duration = Duration::from_millis(2);

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
            Err(error) => Err(denied_at(&path, "read", error)),
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
        let (directory, failed) = self.open()?;
        loop {
            // The process that holds it may be stopped (^Z) for hours. A wait inside the kernel would not
            // end at a signal: handlers are installed with SA_RESTART.
            match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock { _directory: directory }),
                Err(Errno::AGAIN | Errno::INTR) => stop.check(&failed)?,
                Err(error) => return Err(denied(failed, error.into())),
            }
            std::thread::sleep(BETWEEN_TRIES);
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
        match File::open(&self.path) {
            Ok(directory) => Ok((directory, format!("cannot lock {}", self.path.display()))),
            Err(error) => Err(denied_at(&self.path, "lock", error)),
        }
    }

    /// The bpffs that it is on, where maps are pinned by name, too.
    pub(crate) fn bpffs(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// The host-wide layer's directory.
    pub(crate) fn host(&self) -> PathBuf {
        self.path.join("host")
    }

    /// The directory of a host-wide layer that is to take the place of the present one.
    pub(crate) fn next_host(&self) -> PathBuf {
        self.path.join("host_next")
    }

    /// The parent of the groups' directories.
    pub(crate) fn groups(&self) -> PathBuf {
        self.path.join("groups")
    }

    /// Creates the parent of the groups' directories. It belongs to the owner of the root directory, who may
    /// attach, too.
    pub(crate) fn make_groups(&self) -> Result<()> {
        let groups = self.groups();
        if groups.exists() {
            return Ok(());
        }
        make_directory(&groups)?;
        let failed = |error| denied(format!("cannot make {}", groups.display()), error);
        let owner = fs::metadata(&self.path).map_err(failed)?.uid();
        if own_uid() == 0 && owner != 0 {
            chown(&groups, Some(owner), None).map_err(failed)?;
        }
        Ok(())
    }

    /// The directory that carries the lock of the one process that follows all groups.
    pub(crate) fn agent(&self) -> PathBuf {
        self.path.join("agent")
    }

    /// The directory of a state that gives way to a new one, and comes back if that fails.
    pub(crate) fn aside(&self) -> PathBuf {
        self.path.join("aside")
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

/// A directory of pins, held open. Its pins are found through the descriptor, so that they are those of the
/// directory whose owner was checked: the owner of the directory above may rename both.
#[derive(Debug)]
pub(crate) struct Held {
    directory: OwnedFd,
    owner: u32,
}

impl Held {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())?;
        let owner = rustix::fs::fstat(&directory)?.st_uid;
        Ok(Self { directory, owner })
    }

    /// The path of a pin in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Its path, for this process, as long as it is held.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.directory.as_raw_fd()).into()
    }

    /// The user who pinned what is in it, and who may open that.
    pub(crate) fn owner(&self) -> u32 {
        self.owner
    }
}

/// Whether the caller may attach programs and fill maps that this user may open, too.
pub(crate) fn is_trusted(owner: u32) -> bool {
    owner == own_uid() || owner == 0
}

/// The caller's effective user id.
pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Creates a directory that only its owner and its group may read.
pub(crate) fn make_directory(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o750).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(denied_at(path, "make", error)),
    }
}

/// Refuses a directory in which other users could replace pins. Root may use the directory of any user: of
/// what others pinned there, it uses nothing ([`is_trusted`]).
fn refuse_if_others_may_write(path: &Path) -> Result<()> {
    const OTHERS_WRITE: u32 = 0o002;

    let metadata = fs::symlink_metadata(path)
        .map_err(|error| denied(format!("cannot check {}", path.display()), error))?;
    let usable = is_trusted(metadata.uid()) || own_uid() == 0;
    let closed = metadata.mode() & OTHERS_WRITE == 0;
    if metadata.is_dir() && usable && closed {
        return Ok(());
    }
    let hint = match usable {
        true => format!("let its owner run: chmod o-w {}", path.display()),
        false => "run it as that user, or as root".to_owned(),
    };
    Err(Error::new(ErrorKind::Denied, format!("will not use {}", path.display()))
        .because(format!("it belongs to uid {}, with mode {:o}", metadata.uid(), metadata.mode()))
        .with_hint(hint))
}

/// Removes a directory and the pins in it, if it exists.
pub(crate) fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(denied(format!("cannot remove {}", path.display()), error)),
    }
}

/// Removes a pin, if it exists.
pub(crate) fn remove_pin(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(denied(format!("cannot remove {}", path.display()), error))
        }
        _ => Ok(()),
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

/// The same for a path, with the owner of the directory that keeps the caller out: the first one from the root on
/// that the caller may not enter.
fn denied_at(path: &Path, what: &str, error: io::Error) -> Error {
    let failed = format!("cannot {what} {}", path.display());
    let mut above: Vec<&Path> = path.ancestors().collect();
    above.reverse();
    // The parent of the first one that cannot be looked at, or the directory itself.
    let hidden = above.iter().position(|at| fs::symlink_metadata(at).is_err());
    let closed = hidden.and_then(|hidden| above.get(hidden.checked_sub(1)?)).unwrap_or(&path);
    match fs::symlink_metadata(closed) {
        Ok(at) if error.kind() == io::ErrorKind::PermissionDenied => {
            let (of, mode) = (at.uid(), at.mode() & 0o7777);
            let why = format!("{} belongs to uid {of}, with mode {mode:o}", closed.display());
            let cause = Error::new(ErrorKind::Denied, why).because(error);
            Error::new(ErrorKind::Denied, failed).because(cause).with_hint(AS_OWNER)
        }
        _ => denied(failed, error),
    }
}

const AS_OWNER: &str = "run it as root, or as the user who owns that directory";

pub(super) fn denied(failed: String, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        _ => ErrorKind::System,
    };
    let denied = kind == ErrorKind::Denied;
    let error = Error::new(kind, failed).because(error);
    if denied { error.with_hint(AS_OWNER) } else { error }
}
