//! A file that readers find whole at every moment.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Replaces a file, or makes it, in one step: writes another one next to it and renames it. The file is readable for
/// everyone, as collectors run as another user. A link leads to the file that is replaced. After a failure it is what it
/// was.
///
/// # Errors
///
/// If it cannot be written there, or something else than a file is there.
pub(crate) fn replace(path: &Path, content: &str) -> io::Result<()> {
    let linked = fs::canonicalize(path);
    let path = linked.as_deref().unwrap_or(path);
    match fs::symlink_metadata(path) {
        Ok(there) if !there.is_file() => return Err(io::Error::other("it is no regular file")),
        _ => {}
    }
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    // Textfile collectors read names that end in .prom.
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(temporary);
    let written = write(&temporary, content).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // What cannot be removed was not made, or its directory is gone.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write(path: &Path, content: &str) -> io::Result<()> {
    // One of a process that was killed and had the same number.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    // Whatever the umask is.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.write_all(content.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("reuseport.prom");
        replace(&path, "one\n").unwrap();
        replace(&path, "two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);

        // A directory cannot be replaced by a file.
        let taken = directory.path().join("taken");
        fs::create_dir(&taken).unwrap();
        assert!(replace(&taken, "three\n").is_err());
        assert!(replace(Path::new("/"), "three\n").is_err());
        assert!(replace(Path::new("/nowhere/x.prom"), "three\n").is_err());
        // Nor can a socket or a device.
        let socket = directory.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(replace(&socket, "three\n").is_err());
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        replace(&link, "four\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "four\n");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let names = fs::read_dir(directory.path()).unwrap();
        assert_eq!(names.count(), 4, "nothing is left over");
    }
}
