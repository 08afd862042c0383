//! The kernel to boot: an image and its modules. By default it is the cloud kernel of the Debian release
//! that this runs on, unpacked into the target directory; nothing is installed.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell;

/// Depends on the latest versioned package.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// Modules that tests need. Debian's kernel has IPv6, BPF with its iterators, cgroups, Unix sockets and
/// BTF built in.
const MODULES: [&str; 9] = [
    "veth",
    "dummy",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "sch_netem",
    "nf_tables",
    "nft_tproxy",
    "nft_socket",
];

/// An image that QEMU can boot, and the modules to load.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    /// In load order.
    pub(super) modules: Vec<Module>,
}

/// A kernel module, uncompressed.
#[derive(Debug, PartialEq)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) content: Vec<u8>,
}

/// A kernel that the user names; without a directory of modules it must have everything built in.
pub(super) fn given(image: &Path, modules: Option<&Path>) -> Result<Kernel> {
    if !image.is_file() {
        bail!("no kernel image {}", image.display());
    }
    let head = head(image).with_context(|| format!("cannot read {}", image.display()))?;
    if !is_bootable(&head) {
        bail!(
            "{} is not an x86-64 kernel that QEMU boots (a bzImage, as in /boot)",
            image.display()
        );
    }
    let modules = modules.map_or(Ok(Vec::new()), load_order)?;
    Ok(Kernel { image: image.to_owned(), modules })
}

/// The beginning of a file.
fn head(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    fs::File::open(file)?.take(1024).read_to_end(&mut head)?;
    Ok(head)
}

/// Whether a file with this beginning has a boot sector and the header that boot loaders look for
/// (Documentation/arch/x86/boot.rst), or is an ELF file, which QEMU checks itself. QEMU would start
/// anything else and never end.
fn is_bootable(head: &[u8]) -> bool {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    at(0x1fe, &[0x55, 0xaa]) && at(0x202, b"HdrS") || at(0, b"\x7fELF")
}

/// Debian's cloud kernel, downloaded into `cache` unless it is there.
pub(super) fn debian(cache: &Path) -> Result<Kernel> {
    let unpacked = match newest_package() {
        Ok(package) => {
            let unpacked = cache.join(&package);
            if !unpacked.is_dir() {
                fetch(&package, cache, &unpacked)
                    .with_context(|| format!("cannot download Debian's package {package}"))?;
            }
            unpacked
        }
        // Offline, or apt was never updated: use an older one.
        Err(error) => match entries(cache).unwrap_or_default().pop() {
            Some(cached) => {
                println!("{error:#}; using the kernel downloaded earlier");
                cached
            }
            None => return Err(error.context("no kernel to boot; name one with --kernel FILE")),
        },
    };
    let image = only(&unpacked.join("boot"), "vmlinuz-")?;
    // Debian 13 moved it.
    let modules = ["lib/modules", "usr/lib/modules"].map(|directory| unpacked.join(directory));
    let modules = modules.iter().find(|directory| directory.is_dir());
    let modules = modules.context("the kernel package has no modules")?;
    Ok(Kernel { image, modules: load_order(&only(modules, "")?)? })
}

/// The name of the package with the latest kernel.
fn newest_package() -> Result<String> {
    if shell::find("apt-cache").is_none() {
        bail!("there is no apt-get to download Debian's kernel with");
    }
    if let Some(package) = dependency()? {
        return Ok(package);
    }
    shell::run(shell::as_root("apt-get")?.args(["update", "-q"]))?;
    dependency()?.with_context(|| format!("apt knows no package {PACKAGE}"))
}

fn dependency() -> Result<Option<String>> {
    let mut apt = Command::new("apt-cache");
    let output = apt.env("LC_ALL", "C").args(["depends", PACKAGE]).output();
    let output = output.context("cannot start apt-cache")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let depends = said.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    Ok(depends.map(|version| format!("linux-image-{version}")))
}

fn fetch(package: &str, cache: &Path, unpacked: &Path) -> Result<()> {
    println!("downloading {package}");
    fs::create_dir_all(cache).with_context(|| cache.display().to_string())?;
    let scratch = tempfile::Builder::new().prefix(".fetch-").tempdir_in(cache)?;
    // apt's own user may not write into this directory, and apt would warn.
    let mut apt = Command::new("apt-get");
    apt.current_dir(&scratch).args(["-q", "-o", "APT::Sandbox::User=root", "download", package]);
    shell::run(&mut apt)?;
    let deb = only(scratch.path(), package)?;
    let root = scratch.path().join("root");
    shell::run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&root))?;
    for old in entries(cache)? {
        fs::remove_dir_all(&old).with_context(|| format!("cannot remove {}", old.display()))?;
    }
    // Only a complete directory gets the final name.
    fs::rename(&root, unpacked).context("cannot rename the unpacked package")
}

/// The sorted entries of a directory, without hidden ones.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect()
    };
    let mut paths = read().with_context(|| format!("cannot read {}", directory.display()))?;
    paths.retain(|path| !file_name(path).starts_with('.'));
    paths.sort();
    Ok(paths)
}

/// The only entry of a directory with this prefix.
fn only(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let mut paths = entries(directory)?;
    paths.retain(|path| file_name(path).starts_with(prefix));
    match <[PathBuf; 1]>::try_from(paths) {
        Ok([path]) => Ok(path),
        Err(paths) => {
            bail!("{} entries {prefix}* in {}, expected one", paths.len(), directory.display())
        }
    }
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default()
}

/// The modules that tests need, each after its dependencies. `directory` is /lib/modules/VERSION of an
/// installed kernel. A module without a file is taken to be built in.
fn load_order(directory: &Path) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    find_modules(directory, &mut files)?;
    if files.is_empty() {
        bail!("no modules in {}", directory.display());
    }
    let mut order = Vec::new();
    for name in MODULES {
        add_module(name, &files, &mut order)?;
    }
    Ok(order)
}

fn add_module(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    order: &mut Vec<Module>,
) -> Result<()> {
    let Some(path) = files.get(name) else { return Ok(()) };
    if order.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let content = read_module(path).with_context(|| format!("cannot read {}", path.display()))?;
    for needed in depends(&content) {
        add_module(&needed, files, order)?;
    }
    order.push(Module { name: name.to_owned(), content });
    Ok(())
}

/// Every module below `directory`, by name.
fn find_modules(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for path in entries(directory)? {
        // `build` and `source` are links out of the directory.
        if path.is_dir() && !path.is_symlink() {
            find_modules(&path, files)?;
        } else if let Some((stem, "" | ".xz" | ".zst" | ".gz")) = file_name(&path).split_once(".ko")
        {
            files.insert(module_name(stem), path);
        }
    }
    Ok(())
}

/// The kernel's name for nf-tables.ko is nf_tables.
fn module_name(stem: &str) -> String {
    stem.replace('-', "_")
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(std::ffi::OsStr::to_str) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return Ok(fs::read(path)?),
    };
    let output = Command::new(tool).arg("-dc").arg(path).output();
    let output = output.with_context(|| format!("cannot start {tool}"))?;
    if !output.status.success() {
        bail!("{tool}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// A module's dependencies: its section .modinfo, strings that end in zero, has
/// `depends=libcrc32c,nfnetlink` (scripts/mod/modpost.c, add_depends).
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = &module[at + KEY.len()..];
    let value = &value[..value.iter().position(|&byte| byte == 0).unwrap_or(0)];
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(module_name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let drivers = directory.path().join("kernel/drivers");
        fs::create_dir_all(&drivers).unwrap();
        let module = |file: &str, depends: &str| {
            let content = format!("ELF...\0license=GPL\0depends={depends}\0name=x\0");
            fs::write(drivers.join(file), content).unwrap();
        };
        module("veth.ko", "b");
        module("b.ko", "a-one");
        module("a-one.ko", "");
        module("tcp_diag.ko", "inet-diag,a_one");
        module("inet_diag.ko", "b");
        module("unasked.ko", "");
        fs::write(directory.path().join("modules.order"), "").unwrap();

        let order = load_order(directory.path()).unwrap();
        let names: Vec<_> = order.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["a_one", "b", "veth", "inet_diag", "tcp_diag"]);
    }

    #[test]
    fn errors_name_a_missing_image_or_directory() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("bzImage");
        assert!(given(&image, None).unwrap_err().to_string().contains("bzImage"));
        fs::write(&image, "no kernel").unwrap();
        assert!(given(&image, None).unwrap_err().to_string().contains("is not an x86-64 kernel"));
        let mut sector = vec![0; 0x300];
        sector[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        sector[0x202..0x206].copy_from_slice(b"HdrS");
        fs::write(&image, sector).unwrap();
        assert_eq!(given(&image, None).unwrap().modules, []);
        let error = given(&image, Some(directory.path())).unwrap_err();
        assert!(error.to_string().contains("no modules in"), "{error}");
    }
}
