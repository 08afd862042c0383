//! The file system of the emulated machine: the workspace and the test binaries under the same paths as
//! here, the programs that tests drive, and all shared libraries.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::binaries::Built;
use super::cpio::Archive;
use super::kernel::Module;
use crate::shell;

/// Programs that tests start, as far as they are installed. busybox provides everything else that
/// scripts call.
const PROGRAMS: [&str; 23] = [
    "bash", "cat", "curl", "dnsperf", "gunicorn", "haproxy", "ip", "mount", "nft", "nginx",
    "nsenter", "readlink", "setpriv", "sh", "sleep", "ss", "stat", "strace", "tc", "umount",
    "unbound", "unshare", "wrk",
];

/// System files that programs read, as far as they exist.
const FILES: [&str; 6] = [
    "/etc/group",
    "/etc/ld.so.cache",
    "/etc/passwd",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/openssl.cnf",
];

/// Prefixes of directories in the workspace that hold no sources.
const NOT_OF_WORKSPACE: [&str; 2] = [".", "target"];

/// Debian's directory of Python packages, and prefixes of those that gunicorn needs.
const PYTHON_PACKAGES: (&str, [&str; 2]) =
    ("/usr/lib/python3/dist-packages", ["gunicorn", "pkg_resources"]);

/// Large parts of Python's library that no test needs.
const NOT_OF_PYTHON: [&str; 6] =
    ["config-3", "dist-packages", "ensurepip", "idlelib", "lib2to3", "pydoc_data"];

/// Directories that servers expect, and mount points of init.
const DIRECTORIES: [&str; 11] = [
    "/etc",
    "/proc",
    "/root",
    "/run",
    "/sys",
    "/tmp",
    "/var/empty",
    "/var/lib/nginx",
    "/var/log",
    "/var/tmp",
    "/vm/modules",
];

/// What init reads.
pub(super) struct Run<'a> {
    /// The workspace.
    pub(super) root: &'a Path,
    /// Filters and options for libtest.
    pub(super) arguments: &'a [String],
    pub(super) environment: &'a [(String, String)],
    /// Seconds after which a test binary is killed.
    pub(super) limit: u64,
}

/// Writes the archive that the kernel unpacks to `path`.
pub(super) fn write(path: &Path, built: &Built, modules: &[Module], run: &Run<'_>) -> Result<()> {
    let mut tree = Tree::default();
    for directory in DIRECTORIES {
        tree.directory(Path::new(directory));
    }
    let busybox = shell::find("busybox").context("there is no busybox")?;
    tree.program(Path::new("/bin/busybox"), &busybox)?;
    tree.text("/init", 0o755, include_str!("init.sh"));
    tree.text("/etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n");
    for file in FILES.map(Path::new).into_iter().filter(|file| file.is_file()) {
        tree.file(file, file)?;
    }
    for program in PROGRAMS.into_iter().filter_map(shell::find) {
        tree.program(&program, &program)?;
    }
    // Debian's Python, not one that the user installed with packages of its own.
    let python = Path::new("/usr/bin/python3");
    if python.is_file() {
        tree.program(python, python)?;
        tree.everything_in(&python_library(python)?, &NOT_OF_PYTHON)?;
        tree.python_packages()?;
    }
    let scratch = tempfile::tempdir().context("cannot create a temporary directory")?;
    for binary in built.commands.iter().chain(built.tests.iter().map(|test| &test.path)) {
        tree.program(binary, &stripped(binary, scratch.path())?)?;
    }
    tree.everything_in(run.root, &NOT_OF_WORKSPACE)?;
    for (number, module) in modules.iter().enumerate() {
        let path = format!("/vm/modules/{number:02}-{}.ko", module.name);
        tree.add(Path::new(&path), Entry::Content(0o644, module.content.clone()));
    }
    tree.run(built, run)?;
    let write = || tree.write(Archive::new(BufWriter::new(File::create(path)?)));
    write().with_context(|| format!("cannot write {}", path.display()))
}

enum Entry {
    Directory,
    Content(u32, Vec<u8>),
    /// A copy of a file of this machine.
    Copy(PathBuf),
}

/// The files by absolute path; a directory sorts before its contents.
#[derive(Default)]
struct Tree {
    entries: BTreeMap<PathBuf, Entry>,
    /// Programs whose libraries are included.
    linked: BTreeSet<PathBuf>,
}

impl Tree {
    fn add(&mut self, path: &Path, entry: Entry) {
        let path = merged(path);
        let parents: Vec<_> = path.ancestors().skip(1).filter(|p| p.parent().is_some()).collect();
        for parent in parents {
            self.entries.entry(parent.to_owned()).or_insert(Entry::Directory);
        }
        self.entries.insert(path, entry);
    }

    fn directory(&mut self, path: &Path) {
        self.add(path, Entry::Directory);
    }

    fn text(&mut self, path: &str, mode: u32, content: &str) {
        self.add(Path::new(path), Entry::Content(mode, content.into()));
    }

    /// Puts `source` at `path`; follows links.
    fn file(&mut self, path: &Path, source: &Path) -> Result<()> {
        let source = fs::canonicalize(source).with_context(|| source.display().to_string())?;
        self.add(path, Entry::Copy(source));
        Ok(())
    }

    /// Like [`Tree::file`], with the shared libraries that it needs.
    fn program(&mut self, path: &Path, source: &Path) -> Result<()> {
        self.file(path, source)?;
        if self.linked.insert(source.to_owned()) {
            for library in libraries(source)? {
                self.file(&library, &library)?;
            }
        }
        Ok(())
    }

    /// A directory, without subdirectories whose names begin with one of `left_out`.
    fn everything_in(&mut self, directory: &Path, left_out: &[&str]) -> Result<()> {
        let read = || -> std::io::Result<Vec<_>> { fs::read_dir(directory)?.collect() };
        let entries = read().with_context(|| format!("cannot read {}", directory.display()))?;
        self.directory(directory);
        for path in entries.into_iter().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // The target of a link to a directory has its own path.
            if path.is_dir() && !path.is_symlink() {
                if !left_out.iter().any(|prefix| name.starts_with(prefix)) {
                    self.everything_in(&path, left_out)?;
                }
            } else if path.is_file() {
                self.file(&path, &path)?;
            }
        }
        Ok(())
    }

    /// The Python packages that gunicorn needs, as far as they are installed.
    fn python_packages(&mut self) -> Result<()> {
        let (directory, wanted) = PYTHON_PACKAGES;
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry.with_context(|| format!("cannot read {directory}"))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if wanted.iter().any(|prefix| name.starts_with(prefix)) && path.is_dir() {
                self.everything_in(&path, &[])?;
            }
        }
        Ok(())
    }

    /// Writes what init, a shell script, reads line by line.
    fn run(&mut self, built: &Built, run: &Run<'_>) -> Result<()> {
        let mut binaries = String::new();
        for test in &built.tests {
            let line = format!("{}\t{}", test.directory.display(), test.path.display());
            if line.contains('\n') || line.matches('\t').count() != 1 {
                bail!("a path contains a tab or a newline: {line:?}");
            }
            binaries += &(line + "\n");
        }
        let mut arguments = String::new();
        for argument in run.arguments {
            if argument.contains('\n') {
                bail!("an argument contains a newline: {argument:?}");
            }
            arguments += &format!("{argument}\n");
        }
        let export = |(name, value): &(String, String)| {
            format!("export {name}='{}'\n", value.replace('\'', r"'\''"))
        };
        self.text("/vm/binaries", 0o644, &binaries);
        self.text("/vm/arguments", 0o644, &arguments);
        self.text(
            "/vm/environment",
            0o644,
            &run.environment.iter().map(export).collect::<String>(),
        );
        self.text("/vm/limit", 0o644, &run.limit.to_string());
        Ok(())
    }

    fn write(&self, mut archive: Archive<BufWriter<File>>) -> std::io::Result<()> {
        for name in ["bin", "sbin", "lib", "lib64"] {
            archive.symlink(name, &format!("usr/{name}"))?;
        }
        for (path, entry) in &self.entries {
            let path = path.to_string_lossy();
            let name = path.trim_start_matches('/');
            match entry {
                Entry::Directory => archive.directory(name)?,
                Entry::Content(mode, content) => archive.file(name, *mode, 0, content)?,
                Entry::Copy(source) => {
                    let metadata = fs::metadata(source)?;
                    // Python compiles a file again if its time changed.
                    let changed = u32::try_from(metadata.mtime()).unwrap_or(0);
                    let mode = metadata.mode() & 0o7777;
                    archive.file(name, mode, changed, &fs::read(source)?)?;
                }
            }
        }
        // The kernel opens it for init before init mounts anything.
        archive.directory("dev")?;
        archive.device("dev/console", (5, 1))?;
        archive.finish().map(drop)
    }
}

/// The directory of Python's standard library.
fn python_library(python: &Path) -> Result<PathBuf> {
    let ask = "import sysconfig; print(sysconfig.get_path('stdlib'))";
    let output = Command::new(python).args(["-c", ask]).output();
    let output = output.with_context(|| format!("cannot start {}", python.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}

/// A copy of a binary without debug information, which is nine tenths of it; the binary itself if there
/// is no strip(1). The symbol table stays, for backtraces.
fn stripped(binary: &Path, scratch: &Path) -> Result<PathBuf> {
    let copy = scratch.join(binary.file_name().unwrap_or_default());
    let strip = "strip";
    if shell::find(strip).is_none() {
        return Ok(binary.to_owned());
    }
    shell::run(Command::new(strip).arg("--strip-debug").arg("-o").arg(&copy).arg(binary))?;
    Ok(copy)
}

/// The path with /bin, /sbin and /lib below /usr, as in Debian.
fn merged(path: &Path) -> PathBuf {
    let top = path.components().nth(1).map(|component| component.as_os_str().to_string_lossy());
    match top.as_deref() {
        Some("bin" | "sbin" | "lib" | "lib64") => {
            Path::new("/usr").join(path.strip_prefix("/").unwrap_or(path))
        }
        _ => path.to_owned(),
    }
}

/// The shared libraries that a program needs, and the dynamic loader; none for a static program or a
/// script.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").env("LC_ALL", "C").arg(program).output();
    let output = output.context("cannot start ldd")?;
    // ldd exits with 1 for "not a dynamic executable".
    if !output.status.success() {
        return Ok(Vec::new());
    }
    parse_ldd(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| format!("cannot find the libraries of {}", program.display()))
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)`, `/lib64/ld-linux-x86-64.so.2 (0x...)`.
fn parse_ldd(output: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in output.lines().map(str::trim) {
        let (name, place) = line.split_once(" => ").unwrap_or((line, line));
        if place.starts_with("not found") {
            bail!("missing library {name}");
        }
        if place.starts_with('/') {
            paths.push(place.split(" (").next().unwrap_or(place).into());
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found() {
        let output = "\tlinux-vdso.so.1 (0x00007ffc)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tstatically linked\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse_ldd(output).unwrap(), expected.map(PathBuf::from));
        let error = parse_ldd("\tlibnone.so.1 => not found\n").unwrap_err();
        assert!(error.to_string().contains("libnone.so.1"), "{error}");
    }

    #[test]
    fn paths_are_merged_into_usr() {
        for (path, expected) in [
            ("/bin/sh", "/usr/bin/sh"),
            ("/lib64/ld.so", "/usr/lib64/ld.so"),
            ("/usr/sbin/nginx", "/usr/sbin/nginx"),
            ("/library/x", "/library/x"),
            ("/init", "/init"),
        ] {
            assert_eq!(merged(Path::new(path)), Path::new(expected));
        }
    }

    #[test]
    fn a_directory_comes_before_its_contents() {
        let mut tree = Tree::default();
        tree.text("/a/b/c", 0o644, "");
        tree.text("/a/b-c", 0o644, "");
        tree.directory(Path::new("/a/b"));
        let paths: Vec<_> = tree.entries.keys().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/a", "/a/b", "/a/b/c", "/a/b-c"]);
    }
}
