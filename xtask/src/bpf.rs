//! `cargo xtask bpf`: compiles the BPF sources into the objects that are committed with the crates
//! that embed them, or (`--check`) fails if a committed object differs from what its source compiles to.
//!
//! The bytes must not depend on the machine: one compiler version, only paths relative to the
//! workspace, and no DWARF, which records the line of every type in the system's headers. BTF stays:
//! the loader and CO-RE need it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell;

const CLANG: &str = "clang-14";
const STRIP: &str = "llvm-strip-14";
const SOURCE: &str = ".bpf.c";
const OBJECT: &str = ".bpf.o";

/// Directories of sources and of their objects, relative to the workspace.
const DIRECTORIES: [(&str, &str); 6] = [
    ("bpf", "crates/reuseport/bpf"),
    ("benches/bpf", "benches/bpf"),
    ("crates/sk-reuseport/tests/bpf", "crates/sk-reuseport/tests/bpf"),
    ("crates/reuseport/tests/bpf", "crates/reuseport/tests/bpf"),
    ("crates/restarts/bpf", "crates/restarts/bpf"),
    ("crates/test-support/bpf", "crates/test-support/bpf"),
];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail if a committed object differs from what its source compiles to
    #[arg(long)]
    pub(crate) check: bool,
}

/// Builds every object, or checks the committed ones.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = shell::workspace()?;
    let built = build_all(&root)?;
    let stale = stale_objects(&root, &built)?;
    if args.check { check(&root, &built, &stale) } else { write(&root, &built, &stale) }
}

/// An object's path relative to the workspace, and what its source compiles to.
struct Built {
    object: PathBuf,
    bytes: Vec<u8>,
}

fn build_all(root: &Path) -> Result<Vec<Built>> {
    let scratch = tempfile::tempdir().context("cannot create a temporary directory")?;
    let out = scratch.path().join("object");
    let mut built = Vec::new();
    for (sources, objects) in DIRECTORIES {
        for source in files_ending(&root.join(sources), SOURCE)? {
            let source = Path::new(sources).join(source);
            let object = Path::new(objects).join(object_name(&source)?);
            compile(root, &source, &out)?;
            built.push(Built { object, bytes: fs::read(&out).context("cannot read the object")? });
        }
    }
    Ok(built)
}

/// `select.bpf.c` compiles to `select.bpf.o`.
fn object_name(source: &Path) -> Result<String> {
    let name = source.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let stem =
        name.strip_suffix(SOURCE).with_context(|| format!("{name:?} does not end in {SOURCE}"))?;
    Ok(format!("{stem}{OBJECT}"))
}

/// Compiles `source` into `out`. It is relative to `root`, so that no other path gets into the object.
fn compile(root: &Path, source: &Path, out: &Path) -> Result<()> {
    let mut prefix_map = std::ffi::OsString::from("-ffile-prefix-map=");
    prefix_map.push(root);
    prefix_map.push("=.");
    // clang does not find Debian's <asm/types.h> when the target is not the host.
    let multiarch = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    let compiled = shell::run(
        Command::new(CLANG)
            .current_dir(root)
            .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror"])
            .args(["-fdebug-compilation-dir=.".as_ref(), prefix_map.as_os_str()])
            .args(["-I", "bpf", "-idirafter", &multiarch, "-c"])
            .arg(source)
            .arg("-o")
            .arg(out),
    );
    compiled.and_then(|()| shell::run(Command::new(STRIP).arg("-g").arg(out))).with_context(|| {
        format!("cannot build {} (it needs {CLANG}, llvm-14 and libbpf-dev)", source.display())
    })
}

/// Objects without a source.
fn stale_objects(root: &Path, built: &[Built]) -> Result<Vec<PathBuf>> {
    let mut stale = Vec::new();
    for (_, objects) in DIRECTORIES {
        for name in files_ending(&root.join(objects), OBJECT)? {
            let object = Path::new(objects).join(name);
            if !built.iter().any(|b| b.object == object) {
                stale.push(object);
            }
        }
    }
    Ok(stale)
}

fn check(root: &Path, built: &[Built], stale: &[PathBuf]) -> Result<()> {
    let mut wrong: Vec<String> =
        stale.iter().map(|object| format!("{} has no source", object.display())).collect();
    for Built { object, bytes } in built {
        match fs::read(root.join(object)) {
            Ok(committed) if committed == *bytes => {}
            Ok(_) => {
                wrong.push(format!("{} differs from what its source compiles to", object.display()))
            }
            Err(error) => wrong.push(format!("{}: {error}", object.display())),
        }
    }
    if !wrong.is_empty() {
        bail!("{}; run `cargo xtask bpf` and commit the objects", wrong.join("; "));
    }
    println!("{} BPF objects match their sources", built.len());
    Ok(())
}

fn write(root: &Path, built: &[Built], stale: &[PathBuf]) -> Result<()> {
    for Built { object, bytes } in built {
        let path = root.join(object);
        // An unchanged object keeps its time, so that cargo does not rebuild the crate that embeds it.
        if fs::read(&path).is_ok_and(|old| old == *bytes) {
            println!("{}: unchanged", object.display());
            continue;
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}: {} bytes", object.display(), bytes.len());
    }
    for object in stale {
        fs::remove_file(root.join(object))
            .with_context(|| format!("cannot remove {}", object.display()))?;
        println!("{}: removed, its source is gone", object.display());
    }
    Ok(())
}

/// The sorted names of the files in `directory` with this ending; none if there is no directory.
fn files_ending(directory: &Path, ending: &str) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {}", directory.display()))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.with_context(|| format!("cannot read {}", directory.display()))?;
        match name.file_name().into_string() {
            Ok(name) if name.ends_with(ending) => names.push(name),
            _ => {}
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = r#"
        #include <linux/bpf.h>
        #include <bpf/bpf_helpers.h>
        #include "answer.h"
        struct {
            __uint(type, BPF_MAP_TYPE_ARRAY);
            __uint(max_entries, 1);
            __type(key, __u32);
            __type(value, struct answer);
        } answers SEC(".maps");
        SEC("sk_reuseport") int pick(struct sk_reuseport_md *md)
        {
            __u32 key = 0;
            struct answer *a = bpf_map_lookup_elem(&answers, &key);
            return a ? answer_of(a) : SK_PASS;
        }
        char _license[] SEC("license") = "GPL";
    "#;
    const HEADER: &str = "
        struct answer { __u32 value; };
        static __attribute__((noinline)) int answer_of(struct answer *a)
        { return a->value ? SK_DROP : SK_PASS; }
    ";

    fn workspace_in(root: &Path) {
        fs::create_dir_all(root.join("bpf")).unwrap();
        fs::write(root.join("bpf/a.bpf.c"), PROGRAM).unwrap();
        fs::write(root.join("bpf/answer.h"), HEADER).unwrap();
    }

    #[test]
    fn the_same_bytes_in_any_directory() {
        let tmp = tempfile::tempdir().unwrap();
        let roots = [tmp.path().join("a"), tmp.path().join("much/longer and with/spaces")];
        let [first, second] = roots.map(|root| {
            workspace_in(&root);
            build_all(&root).unwrap().remove(0)
        });
        assert_eq!(first.object, Path::new("crates/reuseport/bpf/a.bpf.o"));
        assert!(first.bytes == second.bytes, "the objects differ");
        let has = |needle: &[u8]| first.bytes.windows(needle.len()).any(|w| w == needle);
        assert!(has(b".BTF.ext") && has(b"answer_of"), "BTF was stripped");
        assert!(!has(b".debug_info"), "DWARF is still there");
        assert!(!has(tmp.path().to_str().unwrap().as_bytes()), "a path of this machine got in");
    }

    #[test]
    fn check_names_what_differs_is_missing_or_has_no_source() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path();
        workspace_in(root);
        let checked = || {
            let built = build_all(root).unwrap();
            let stale = stale_objects(root, &built).unwrap();
            (check(root, &built, &stale).map_err(|e| e.to_string()), built, stale)
        };
        let (missing, built, stale) = checked();
        assert!(missing.unwrap_err().contains("crates/reuseport/bpf/a.bpf.o: No such file"));
        write(root, &built, &stale).unwrap();
        checked().0.unwrap();

        let objects = root.join("crates/reuseport/bpf");
        fs::write(objects.join("a.bpf.o"), "changed").unwrap();
        fs::write(objects.join("old.bpf.o"), "").unwrap();
        let (wrong, built, stale) = checked();
        let wrong = wrong.unwrap_err();
        assert!(wrong.contains("bpf/a.bpf.o differs from what its source compiles to"), "{wrong}");
        assert!(wrong.contains("bpf/old.bpf.o has no source"), "{wrong}");

        write(root, &built, &stale).unwrap();
        checked().0.unwrap();
        assert!(!objects.join("old.bpf.o").exists());
    }

    #[test]
    fn a_source_that_does_not_compile_is_named() {
        let tmp = tempfile::tempdir().unwrap();
        workspace_in(tmp.path());
        fs::write(tmp.path().join("bpf/b.bpf.c"), "int unused(void) { int x; }").unwrap();
        let error = build_all(tmp.path()).err().expect("a warning is an error");
        assert!(format!("{error:#}").contains("cannot build bpf/b.bpf.c"), "{error:#}");
    }
}
