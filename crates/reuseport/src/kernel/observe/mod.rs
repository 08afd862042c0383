//! What the kernel has: every `SO_REUSEPORT` group on the host, its members, who holds them, what
//! waits there and which program decides.
//!
//! BPF iterators read all of it from the kernel's own structures, in all network namespaces at
//! once and without a scan of `/proc` (about 50 ms on a host with 100,000 sockets). Nothing is
//! changed, no descriptor of another process is taken. What *this tool* pinned about a group is not
//! known here.
//!
//! # What is not seen
//!
//! * Processes that the caller's pid namespace does not show, and so members that only they hold:
//!   inside a container, look from the host instead.
//! * Sockets without a descriptor: in flight between processes, or registered with io_uring alone.
//! * Descriptors of a thread that unshared its table from its process (`CLONE_FILES`).
//!
//! It is a walk, not a snapshot: what changes while it runs may be seen or not. A child between
//! fork and exec has all that its parent has, and is a holder for that moment.

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

/// What both programs iterate over.
const OVER: &str = "task_file";

const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

/// What we were doing when something failed.
const TRIED: &str = "cannot list sockets";

/// Lists the host's groups with BPF iterators.
///
/// Loading costs more than listing (the kernel's types are looked through); keep the observer and
/// ask it again. Listing needs `CAP_BPF` and `CAP_PERFMON` in the initial user namespace, and neither
/// `CAP_SYS_PTRACE` nor `CAP_NET_ADMIN`. Linux 5.12 with `CONFIG_DEBUG_INFO_BTF`.
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
    /// A new link and a new iterator are made for each walk.
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
            return Err(Error::new(ErrorKind::Unsupported, TRIED)
                .because(format!("there is no {VMLINUX_BTF}"))
                .with_hint(Hint::KernelOption("CONFIG_DEBUG_INFO_BTF")));
        }
        let btf = KernelBtf::from_sys_fs().map_err(failed)?;
        let mut programs = EbpfLoader::new().kernel_btf(&btf).load(OBJECT).map_err(failed)?;
        // The other one is loaded when it is needed: `ls` can do without.
        iterator(&mut programs, "members")?.load(OVER, &btf).map_err(failed)?;
        Ok(Self { programs: Mutex::new(programs) })
    }

    /// Every group on the host, in all network namespaces, sorted by protocol, port, address and
    /// namespace; members by cookie.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new), should rights have been given up meanwhile.
    pub fn groups(&self) -> Result<Vec<Group>> {
        let records = self.walk("members")?;
        let own = records.iter().find_map(|record| match record {
            Record::Reader(netns) => Some(*netns),
            _ => None,
        });
        Ok(assemble::groups(records, |netns, index| device_name(own, netns, index)))
    }

    /// The owners of a group's members: the process whose epoll instance watches the member, if it
    /// is exactly one. Members without an entry have no known owner: their server does not use
    /// epoll, or several processes watch the socket.
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
        // The reader's record comes first, and a walk goes no further than its output is read.
        let mut first = [0; 24];
        self.start("members")?.read_exact(&mut first).map_err(failed)?;
        match records::parse(&first).map_err(failed)?.first() {
            Some(Record::Reader(netns)) => Ok(*netns),
            other => Err(Error::new(ErrorKind::System, "cannot tell the own network namespace")
                .because(format!("unexpected record {other:?}"))),
        }
    }

    fn walk(&self, program: &str) -> Result<Vec<Record>> {
        let bytes = read_all(self.start(program)?).map_err(failed)?;
        records::parse(&bytes).map_err(failed)
    }

    /// A new walk, which runs as it is read.
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
/// EAGAIN means "go on reading": a read gives up after a million objects without output
/// (`MAX_ITER_OBJECTS` in `kernel/bpf/bpf_iter.c`), which is a million descriptors here.
fn read_all(mut walk: impl Read) -> io::Result<Vec<u8>> {
    // The kernel's own buffer has eight pages; more is never filled by one call.
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

/// A network device's name, which can be asked for in our `own` namespace only.
fn device_name(own: Option<Netns>, netns: Netns, index: u32) -> Option<String> {
    if own != Some(netns) {
        return None;
    }
    // Any socket will do to ask with.
    let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).ok()?;
    netdevice::index_to_name(socket, index).ok()
}

fn failed(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    caps::failed(TRIED, source, caps::TRACING)
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    /// Answers each read with the next of its results.
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
    fn a_walk_goes_on_after_a_million_objects_without_output() {
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
