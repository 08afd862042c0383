//! Lists every `SO_REUSEPORT` group on the host: members, holders, queues, and the program that decides.
//!
//! BPF iterators read the kernel's structures in all network namespaces at once, without a scan of `/proc`
//! (about 50 ms with 100,000 sockets). They change nothing and borrow no descriptor. Pinned state is not
//! read here.
//!
//! # Limits
//!
//! The list lacks
//!
//! * processes outside the caller's pid namespace, as holders: run it on the host, not in a container;
//! * sockets without a descriptor: in flight between processes, or registered with io_uring alone;
//! * descriptors of a thread that does not share its process's table (`CLONE_FILES`).
//!
//! It is a walk, not a snapshot: it may miss changes during the walk. Between fork and exec, a child holds
//! all descriptors of its parent and is listed as a holder.

mod assemble;
mod netns;

use std::collections::{BTreeSet, HashMap};
use std::error::Error as StdError;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
use sk_reuseport::programs::Iter;
use sk_reuseport::{Ebpf, EbpfLoader, KernelBtf};

use crate::error::{Error, ErrorKind, Hint, Result};
use crate::kernel::caps;
use crate::model::group::Group;
use crate::model::id::{Cookie, Netns};
use crate::wire::records::{self, Record};

pub use netns::names as netns_names;

/// The kernel programs of `bpf/observe.bpf.c`; `cargo xtask bpf` builds them.
static OBJECT: &[u8] = include_bytes!("../../../bpf/observe.bpf.o");

/// The target of both iterators.
const OVER: &str = "task_file";

const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

const FAILED: &str = "cannot list sockets";

/// Lists the host's groups with BPF iterators.
///
/// Loading takes longer than listing, because it reads the kernel's BTF: reuse the observer.
///
/// # Minimum kernel version
///
/// Linux 5.12 with `CONFIG_DEBUG_INFO_BTF`. Needs CAP_BPF and CAP_PERFMON in the initial user namespace, and
/// neither CAP_SYS_PTRACE nor CAP_NET_ADMIN.
///
/// # Example
///
/// ```no_run
/// let observer = reuseport::observe::Observer::new()?;
/// for group in observer.groups()? {
///     println!("{}: {} members", group.key, group.members.len());
/// }
/// # Ok::<(), reuseport::Error>(())
/// ```
#[derive(Debug)]
pub struct Observer {
    /// Each walk creates a new link and a new iterator.
    programs: Mutex<Ebpf>,
}

impl Observer {
    /// Loads the iterators.
    ///
    /// # Errors
    ///
    /// [`Denied`](ErrorKind::Denied) names the capability that is missing;
    /// [`Unsupported`](ErrorKind::Unsupported): a kernel without BTF or older than 5.12, or one that
    /// is locked down for confidentiality.
    pub fn new() -> Result<Self> {
        if !std::path::Path::new(VMLINUX_BTF).exists() {
            return Err(Error::new(ErrorKind::Unsupported, FAILED)
                .because(format!("there is no {VMLINUX_BTF}"))
                .with_hint(Hint::KernelOption("CONFIG_DEBUG_INFO_BTF")));
        }
        let btf = KernelBtf::from_sys_fs().map_err(failed)?;
        let mut programs = EbpfLoader::new().kernel_btf(&btf).load(OBJECT).map_err(failed)?;
        // The other program is loaded on first use; `ls` does not need it.
        iterator(&mut programs, "members")?.load(OVER, &btf).map_err(failed)?;
        Ok(Self { programs: Mutex::new(programs) })
    }

    /// Every group on the host, in all network namespaces, sorted by protocol, port, address and
    /// namespace; members by cookie.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), if the process has given up its rights since.
    pub fn groups(&self) -> Result<Vec<Group>> {
        let records = self.walk("members")?;
        let own = records.iter().find_map(|record| match record {
            Record::Reader(netns) => Some(*netns),
            _ => None,
        });
        Ok(assemble::groups(records, |netns, index| device_name(own, netns, index)))
    }

    /// The owners of a group's members: for each member the process whose epoll instance watches it, if
    /// there is exactly one. A member without an entry has no known owner: its server does not use epoll,
    /// or several processes watch the socket.
    ///
    /// # Errors
    ///
    /// As for [`groups`](Self::groups).
    pub fn owners(&self, group: &Group) -> Result<HashMap<Cookie, u32>> {
        let members: BTreeSet<Cookie> = group.members.iter().map(|m| m.cookie).collect();
        Ok(assemble::owners(&self.walk("watches")?, &members))
    }

    /// The calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// As for [`groups`](Self::groups).
    pub fn own_netns(&self) -> Result<Netns> {
        // The reader's record comes first, and the walk stops when its output is not read.
        let mut first = [0; 24];
        self.start("members")?.read_exact(&mut first).map_err(failed)?;
        match records::parse(&first).map_err(failed)?.first() {
            Some(Record::Reader(netns)) => Ok(*netns),
            other => {
                Err(Error::new(ErrorKind::System, "cannot find the caller's network namespace")
                    .because(format!("unexpected record {other:?}")))
            }
        }
    }

    fn walk(&self, program: &str) -> Result<Vec<Record>> {
        let bytes = read_all(self.start(program)?).map_err(failed)?;
        records::parse(&bytes).map_err(failed)
    }

    /// Starts a walk, which runs as its output is read.
    fn start(&self, program: &str) -> Result<File> {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        let iterator = iterator(&mut programs, program)?;
        if iterator.fd().is_err() {
            let btf = KernelBtf::from_sys_fs().map_err(failed)?;
            iterator.load(OVER, &btf).map_err(failed)?;
        }
        let link = iterator.attach().map_err(failed)?;
        let link = iterator.take_link(link).map_err(failed)?;
        link.into_file().map_err(failed)
    }
}

fn iterator<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut Iter> {
    let program = programs
        .program_mut(name)
        .ok_or_else(|| failed(format!("the embedded object has no program {name:?}")))?;
    program.try_into().map_err(failed)
}

/// Reads an iterator to its end.
///
/// EAGAIN means "read again": a read stops after a million objects without output
/// (`MAX_ITER_OBJECTS` in `kernel/bpf/bpf_iter.c`), which is a million descriptors here.
fn read_all(mut walk: impl Read) -> io::Result<Vec<u8>> {
    // One call returns at most the kernel's buffer, eight pages.
    let mut chunk = vec![0; 32 << 10];
    let mut bytes = Vec::new();
    loop {
        match walk.read(&mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
            Err(e)
                if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(e) => return Err(e),
        }
    }
}

/// A network device's name, which only the caller's namespace, `own`, tells.
fn device_name(own: Option<Netns>, netns: Netns, index: u32) -> Option<String> {
    if own != Some(netns) {
        return None;
    }
    // The ioctl takes any socket.
    let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).ok()?;
    netdevice::index_to_name(socket, index).ok()
}

fn failed(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    caps::failed(FAILED, source, caps::TRACING)
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    /// A reader that returns these results in turn.
    struct Script(Vec<io::Result<&'static [u8]>>);

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let bytes = self.0.remove(0)?;
            buffer[..bytes.len()].copy_from_slice(bytes);
            Ok(bytes.len())
        }
    }

    #[test]
    fn a_walk_continues_after_a_million_objects_without_output() {
        let again = || Err(io::Error::from(Errno::AGAIN));
        let walk = Script(vec![again(), Ok(b"ab"), again(), Ok(b"c")]);
        assert_eq!(read_all(walk).unwrap(), b"abc");
    }

    #[test]
    fn a_walk_that_fails_is_an_error() {
        let walk = Script(vec![Ok(b"ab"), Err(io::Error::from(Errno::IO))]);
        assert!(read_all(walk).is_err());
    }
}
