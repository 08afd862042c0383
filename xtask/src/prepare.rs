//! Prepares the machine for the tests: installs the programs that are missing and mounts bpffs. Without
//! apt-get it fails and names the missing packages.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::shell;

/// A program or a file, and the Debian package that contains it.
pub(crate) type Needed = (&'static str, &'static str);

/// What the tests need.
const NEEDED: [Needed; 16] = [
    ("clang-14", "clang-14"),
    ("llvm-strip-14", "llvm-14"),
    ("/usr/include/bpf/bpf_helpers.h", "libbpf-dev"),
    ("nginx", "nginx"),
    ("haproxy", "haproxy"),
    ("unbound", "unbound"),
    ("wrk", "wrk"),
    ("dnsperf", "dnsperf"),
    ("gunicorn", "gunicorn"),
    ("python3", "python3"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("mount", "mount"),
    ("curl", "curl"),
    ("strace", "strace"),
    ("promtool", "prometheus"),
];

/// What `cargo xtask vm` needs.
const NEEDED_BY_VM: [Needed; 2] =
    [("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static")];

const BPFFS: &str = "/sys/fs/bpf";

/// Installs what is missing and mounts bpffs unless it is mounted.
pub(crate) fn run() -> Result<()> {
    install(&NEEDED)?;
    mount_bpffs()
}

/// Installs what `cargo xtask vm` needs.
pub(crate) fn for_vm() -> Result<()> {
    install(&NEEDED_BY_VM)
}

/// Installs the packages of what is missing.
pub(crate) fn install(needed: &[Needed]) -> Result<()> {
    let missing = missing(needed);
    if missing.is_empty() {
        return Ok(());
    }
    install_packages(&missing)?;
    match self::missing(needed).as_slice() {
        [] => Ok(()),
        left => {
            bail!("installed {}, but their programs or files are still missing", left.join(" "))
        }
    }
}

/// Installs Debian packages.
pub(crate) fn install_packages(names: &[&str]) -> Result<()> {
    let packages = names.join(" ");
    if shell::find("apt-get").is_none() {
        bail!("there is no apt-get; install what Debian calls {packages}");
    }
    println!("installing {packages}");
    shell::run_as(
        &format!("apt-get install {packages}"),
        shell::as_root("/bin/sh")?
            .args(["-c", include_str!("install.sh"), "install"])
            .args(names)
            .stdin(Stdio::null()),
    )
}

/// The packages whose program or file is missing.
fn missing(needed: &[Needed]) -> Vec<&'static str> {
    let there = |what: &str| match what.strip_prefix('/') {
        Some(_) => Path::new(what).exists(),
        None => shell::find(what).is_some(),
    };
    needed.iter().filter(|(what, _)| !there(what)).map(|(_, package)| *package).collect()
}

pub(crate) fn mount_bpffs() -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    if is_mounted(&mounts) {
        return Ok(());
    }
    println!("mounting bpffs at {BPFFS}");
    shell::run(shell::as_root("mount")?.args(["-t", "bpf", "bpf", BPFFS])).context(
        "the tests need bpffs; a container has to be privileged or started with this mount",
    )
}

/// Whether the last mount at [`BPFFS`], which hides earlier ones, is a bpffs.
fn is_mounted(mounts: &str) -> bool {
    let kind = |line: &str| {
        let mut words = line.split(' ').skip(1);
        (words.next() == Some(BPFFS)).then(|| words.next().unwrap_or_default().to_owned())
    };
    mounts.lines().filter_map(kind).next_back().is_some_and(|kind| kind == "bpf")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_on_top_counts() {
        assert!(!is_mounted("sysfs /sys sysfs rw 0 0\n"));
        assert!(is_mounted("sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw,mode=700 0 0\n"));
        assert!(!is_mounted("bpf /sys/fs/bpf bpf rw 0 0\ntmpfs /sys/fs/bpf tmpfs rw 0 0\n"));
        assert!(!is_mounted("bpf /run/bpf bpf rw 0 0\n"));
    }
}
