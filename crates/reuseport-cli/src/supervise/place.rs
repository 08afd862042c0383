//! The directory of supervisors: a lock, a socket and a file for each name.

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::error::Failure;

/// What names another directory, for tests.
pub(crate) const VARIABLE: &str = "REUSEPORT_RUN";

/// The files of one supervisor.
#[derive(Debug, Clone)]
pub(super) struct Place {
    directory: PathBuf,
    name: String,
}

/// While it is open, no other supervisor has the name.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "it is open")] File);

/// The supervisors' directory: of root, or of a user.
fn directory() -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(directory) = set(VARIABLE) {
        return directory.into();
    }
    match set("XDG_RUNTIME_DIR") {
        Some(directory) if !geteuid().is_root() => Path::new(&directory).join("reuseport"),
        _ => "/run/reuseport".into(),
    }
}

impl Place {
    pub(super) fn of(name: &str) -> Self {
        Self { directory: directory(), name: name.to_owned() }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.file("sock")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.file("json")
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.directory.join(format!("{}.{extension}", self.name))
    }

    /// Claims the name. Makes the directory, if it is not there.
    ///
    /// # Errors
    ///
    /// If another process has the name, or others may write to the directory.
    pub(super) fn claim(&self) -> Result<Lock> {
        let failed = || format!("cannot use {}", self.directory.display());
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.directory)
            .with_context(failed)?;
        let of = self.directory.metadata().with_context(failed)?;
        if (of.uid() != 0 && of.uid() != geteuid().as_raw()) || of.mode() & 0o022 != 0 {
            return Err(Failure::new(
                format!("{}: others may write to it", failed()),
                format!("chown root {0} && chmod go-w {0}", self.directory.display()),
            )
            .into());
        }
        let path = self.file("lock");
        let failed = || format!("cannot lock {}", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(self.taken(&mut file).into()),
            Err(errno) => return Err(io::Error::from(errno)).with_context(failed),
        }
        let write = |file: &mut File| -> io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            write!(file, "{}", std::process::id())
        };
        write(&mut file).with_context(failed)?;
        Ok(Lock(file))
    }

    fn taken(&self, file: &mut File) -> Failure {
        let mut pid = String::new();
        // The message does without it.
        let _ = file.read_to_string(&mut pid);
        let pid = pid.parse::<u32>().map_or_else(|_| String::new(), |pid| format!(" (pid {pid})"));
        Failure::new(
            format!("another supervisor has the name `{}`{pid}; nothing was changed", self.name),
            format!(
                "`reuseport reload {}` starts a new version of it; --name NAME runs another one",
                self.name
            ),
        )
    }

    /// Removes what the supervisor leaves behind. The lock's file stays: another process may be about to lock it.
    pub(super) fn clear(&self) {
        // It may not be there.
        let _ = fs::remove_file(self.state());
    }

    /// Replaces a file in one step.
    pub(super) fn write_state(&self, text: &str) -> io::Result<()> {
        let (path, new) = (self.state(), self.file("json.new"));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        fs::rename(new, path)
    }

    pub(super) fn read_state(&self) -> io::Result<Option<String>> {
        match fs::read_to_string(self.state()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        }
    }

    /// The names that have a socket.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let name = |path: PathBuf| {
            let is_socket = path.extension().is_some_and(|extension| extension == "sock");
            is_socket.then(|| Some(path.file_stem()?.to_str()?.to_owned())).flatten()
        };
        let mut names: Vec<String> = entries.filter_map(|entry| name(entry.path())).collect();
        names.sort();
        names
    }
}
