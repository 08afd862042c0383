//! Lists every `SO_REUSEPORT` group on the host: members, holders, queues, and the program that decides.
//!
//! BPF iterators read the kernel's structures in all network namespaces at once, without a scan of `/proc`.
//! They change nothing and borrow no descriptor. Pinned state is not read here.
//!
//! The members are from the kernel's tables of listeners and of UDP sockets: the sockets that get traffic,
//! in whatever process. Their holders are from a walk over the descriptors of every process in the caller's pid
//! namespace. A member that this walk does not find has no holder here, and cannot be borrowed: it is in
//! flight between processes, in an io_uring's file table, or held in another pid namespace.
//!
//! # Limits
//!
//! Without the tables (before Linux 5.19, and for UDP in a network namespace with a table of its own), members
//! are the sockets with a visible descriptor: see [`Group::complete`].
//!
//! It is a walk, not a snapshot: it may miss changes during the walk. Between fork and exec, a child holds
//! all descriptors of its parent and is listed as a holder.

mod assemble;
mod awaited;
mod netns;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::error::Error as StdError;
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroU32;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use sk_reuseport::maps::{Array, MapData};
use sk_reuseport::programs::{Iter, ProgramError};
use sk_reuseport::{Ebpf, EbpfLoader, KernelBtf};

use crate::error::{Error, ErrorKind, Hint, Result};
use crate::kernel::caps;
use crate::kernel::pids::sees_host_pids;
use crate::kernel::types::types;
use crate::model::group::{Group, GroupKey, KernelAddress, Member};
use crate::model::id::{Cookie, Netns};
use crate::model::owner::Owner;
use crate::model::spec::tell_names_apart;
use crate::model::ungrouped::Ungrouped;
use crate::wire::cursor::{Asked, Cursor, Walk};
use crate::wire::records::{self, MemberRecord, Record};

use assemble::Listing;

pub use netns::names as netns_names;

/// The kernel programs of `bpf/observe.bpf.c`; `cargo xtask bpf` builds them.
static OBJECT: &[u8] = include_bytes!("../../../bpf/observe.bpf.o");

/// The target of the iterators over descriptors, and of the one over the kernel's tables.
const DESCRIPTORS: &str = "task_file";
const TABLES: &str = "bpf_map_elem";

/// The most processes that are walked over one by one.
const FEW: usize = 32;

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
#[derive(Debug)]
pub(crate) struct Observer {
    programs: Mutex<Programs>,
}

/// How much of the host a listing looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Extent {
    Whole,
    /// The descriptors of these processes, by their pids in the initial pid namespace. Members that only others
    /// hold seem to have no holder. `udp`: whether UDP groups are listed, too.
    Near {
        pids: Vec<u32>,
        udp: bool,
    },
}

/// The members at a group's address in the kernel's tables, by address in the kernel, with their cookies.
pub(crate) struct Listed(HashMap<KernelAddress, Option<Cookie>>);

impl Listed {
    /// Whether a socket that was a member is one still. The kernel may have given its address to another one.
    pub(crate) fn has(&self, member: &Member) -> bool {
        self.0.get(&member.sock_address).is_some_and(|cookie| member.is_still(*cookie))
    }

    pub(crate) fn cookies(self) -> HashSet<Cookie> {
        self.0.into_values().flatten().collect()
    }
}

#[derive(Debug)]
struct Programs {
    ebpf: Ebpf,
    /// Where the walk over the kernel's tables begins, and where its runs leave off; `None` if the kernel's
    /// tables cannot be read.
    cursors: Option<Array<MapData, Cursor>>,
    /// Which sockets are asked for; `None`: none was yet.
    asked: Option<Array<MapData, Asked>>,
}

impl Observer {
    /// Loads the iterators.
    ///
    /// # Errors
    ///
    /// [`Denied`](ErrorKind::Denied) names the capability that is missing;
    /// [`Unsupported`](ErrorKind::Unsupported): a kernel without BTF or older than 5.12, or one that
    /// is locked down for confidentiality.
    pub(crate) fn new() -> Result<Self> {
        if !std::path::Path::new(VMLINUX_BTF).exists() {
            return Err(Error::new(ErrorKind::Unsupported, FAILED)
                .because(format!("there is no {VMLINUX_BTF}"))
                .with_hint(Hint::KernelOption("CONFIG_DEBUG_INFO_BTF")));
        }
        let btf = types().map_err(failed)?;
        let mut ebpf = EbpfLoader::new().kernel_btf(btf).load(OBJECT).map_err(failed)?;
        // Programs for which there is no need are loaded on first use.
        iterator(&mut ebpf, "holders")?.load(DESCRIPTORS, btf).map_err(failed)?;
        let cursors = match tables(&mut ebpf, btf) {
            Ok(cursors) => Some(cursors),
            Err(error) => {
                tracing::debug!("the kernel's tables of sockets cannot be read: {error}");
                None
            }
        };
        Ok(Self { programs: Mutex::new(Programs { ebpf, cursors, asked: None }) })
    }

    /// Whether the kernel's tables can be read.
    pub(crate) fn reads_tables(&self) -> Result<bool> {
        Ok(self.lock().tables(Walk::members(false))?.is_some())
    }

    /// Every group on the host, in all network namespaces, sorted by protocol, port, address and
    /// namespace; members by cookie.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), if the process has given up its rights since.
    pub(crate) fn groups(&self) -> Result<Vec<Group>> {
        // First the tables: what comes later has holders that no member refers to, and no harm is done.
        let tables = self.lock().tables(Walk::WHOLE)?;
        let walk = if tables.is_some() { "holders" } else { "members" };
        let descriptors = self.descriptors(walk)?;
        let mut listing = Listing { tables, descriptors };
        if listing.has_hidden()
            && let Some(again) = self.lock().tables(Walk::WHOLE)?
        {
            listing.confirm_hidden(&again);
        }
        Ok(self.assemble(&listing))
    }

    /// As [`groups`](Self::groups), perhaps of a part of the host. Returns also whether it is the whole one.
    ///
    /// Of a part, only those groups are listed whose members the kernel's tables tell.
    pub(crate) fn groups_near(&self, extent: &Extent) -> Result<(Vec<Group>, bool)> {
        if let Extent::Near { pids, udp } = extent
            && let Some(listing) = self.listing_near(pids, *udp)?
        {
            let mut groups = self.assemble(&listing);
            groups.retain(|group| group.complete);
            return Ok((groups, false));
        }
        Ok((self.groups()?, true))
    }

    /// The groups at a group's port in the kernel's tables, without any descriptor; `None` without these.
    pub(crate) fn groups_at(&self, group: &GroupKey) -> Result<Option<Vec<Group>>> {
        let tables = self.lock().tables(Walk::of(group))?;
        let descriptors = Vec::new();
        Ok(tables.map(|tables| self.assemble(&Listing { tables: Some(tables), descriptors })))
    }

    /// The kernel's tables, and the descriptors of these processes; `None` if one of both cannot be read alone.
    fn listing_near(&self, pids: &[u32], udp: bool) -> Result<Option<Listing>> {
        let pids: Option<Vec<NonZeroU32>> = pids.iter().map(|pid| NonZeroU32::new(*pid)).collect();
        let Some(pids) = pids.filter(|pids| pids.len() <= FEW) else { return Ok(None) };
        if !pids.is_empty() && !sees_host_pids() {
            return Ok(None);
        }
        let walk = Walk::members(udp);
        let Some(tables) = self.lock().tables(walk)? else { return Ok(None) };
        let descriptors = self.descriptors_of("holders", &pids)?;
        Ok(descriptors.map(|descriptors| Listing { tables: Some(tables), descriptors }))
    }

    fn assemble(&self, listing: &Listing) -> Vec<Group> {
        let of_reader = |record: &Record| match record {
            Record::Reader(netns) => Some(*netns),
            _ => None,
        };
        let read = listing.descriptors.iter().find_map(of_reader);
        let mut groups = listing.groups();
        let Some(first) = groups.first().map(|group| group.key.netns) else { return groups };
        let is_foreign = |group: &Group| Some(group.key.netns) != read.or(Some(first));
        if groups.iter().any(is_foreign) {
            let names: HashMap<u32, Arc<str>> =
                netns_names().into_iter().map(|(inode, name)| (inode, name.into())).collect();
            for Group { key, .. } in &mut groups {
                key.written.netns_name = names.get(&key.netns.inode).cloned();
            }
            let own = read.or_else(|| self.own_netns().ok());
            tell_names_apart(&mut groups, own.map(|own| own.cookie));
        } else {
            tell_names_apart(&mut groups, Some(first.cookie));
        }
        groups
    }

    /// The members at the group's address in the kernel's tables now; `None` without these.
    pub(crate) fn listed(&self, group: &GroupKey) -> Result<Option<Listed>> {
        let tables = self.lock().tables(Walk::of(group))?;
        Ok(tables.map(|records| {
            let of = |record: &MemberRecord| {
                let listed = (KernelAddress(record.sock_address), record.cookie);
                assemble::may_be_member(record, group).then_some(listed)
            };
            Listed(assemble::members(&records).filter_map(of).collect())
        }))
    }

    /// How many wait now for each member at the group's address. Empty without the kernel's tables.
    pub(crate) fn waiters(&self, group: &GroupKey) -> Result<HashMap<KernelAddress, u32>> {
        let walk = Walk { detail: true, ..Walk::of(group) };
        let records = self.lock().tables(walk)?.unwrap_or_default();
        let here = assemble::members(&records).filter(|r| assemble::may_be_member(r, group));
        Ok(here.filter_map(|r| Some((KernelAddress(r.sock_address), r.waiters?))).collect())
    }

    /// The sockets on a port that are in no group, with their holders. None without the kernel's tables.
    pub(crate) fn ungrouped(&self, port: u16) -> Result<Vec<Ungrouped>> {
        let walk = Walk { port: Some(port), ..Walk::WHOLE };
        // The walk over the tables tells the one over the descriptors the port: no other may come between.
        let mut programs = self.lock();
        let tables = programs.tables(walk)?;
        let descriptors = read_records(programs.start("holders", None)?)?;
        let mut listing = Listing { tables, descriptors };
        if listing.has_hidden()
            && let Some(again) = programs.tables(walk)?
        {
            listing.confirm_hidden(&again);
        }
        Ok(listing.ungrouped(port))
    }

    /// The owners of a group's members. A member without an entry has none that is known: no epoll instance watches
    /// it, or several processes' do, and no thread waits for it now.
    ///
    /// # Errors
    ///
    /// As for [`groups`](Self::groups).
    pub(crate) fn owners(&self, group: &Group) -> Result<HashMap<Cookie, Owner>> {
        Ok(assemble::owners(&self.descriptors("watches")?, &group.members))
    }

    /// As [`owners`](Self::owners), of all these groups in one walk.
    pub(crate) fn owners_in<'a>(
        &self,
        groups: impl Iterator<Item = &'a Group>,
    ) -> Result<HashMap<Cookie, Owner>> {
        let members = groups.flat_map(|group| &group.members);
        Ok(assemble::owners(&self.descriptors("watches")?, members))
    }

    /// As [`owners`](Self::owners), of these processes alone where they can be walked over by themselves: who else
    /// watches or waits is not seen.
    pub(crate) fn owners_near(
        &self,
        group: &Group,
        pids: &BTreeSet<u32>,
    ) -> Result<HashMap<Cookie, Owner>> {
        let pids: Option<Vec<NonZeroU32>> = pids.iter().map(|pid| NonZeroU32::new(*pid)).collect();
        let near = pids.filter(|pids| pids.len() <= FEW && sees_host_pids());
        match near.map(|pids| self.descriptors_of("watches", &pids)).transpose()?.flatten() {
            Some(records) => Ok(assemble::owners(&records, &group.members)),
            None => self.owners(group),
        }
    }

    /// The calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// As for [`groups`](Self::groups).
    pub(crate) fn own_netns(&self) -> Result<Netns> {
        // The reader's record comes first, and the walk stops when its output is not read.
        let mut first = [0; 24];
        self.lock().start("holders", None)?.read_exact(&mut first).map_err(failed)?;
        match records::parse(&first).map_err(failed)?.first() {
            Some(Record::Reader(netns)) => Ok(*netns),
            other => {
                Err(Error::new(ErrorKind::System, "cannot find the caller's network namespace")
                    .because(format!("unexpected record {other:?}")))
            }
        }
    }

    /// Walks over the descriptors. Others may do so at the same time.
    fn descriptors(&self, program: &str) -> Result<Vec<Record>> {
        let walk = self.lock().start(program, None)?;
        read_records(walk)
    }

    /// Walks over the descriptors of these processes, by their pids in the initial pid namespace. `None` if the kernel
    /// cannot walk over those of one process.
    fn descriptors_of(&self, program: &str, pids: &[NonZeroU32]) -> Result<Option<Vec<Record>>> {
        let mut records = Vec::new();
        for pid in pids {
            let walk = match self.lock().start(program, Some(*pid)) {
                Ok(walk) => walk,
                Err(error) => {
                    tracing::debug!("cannot list the descriptors of one process: {error}");
                    return Ok(None);
                }
            };
            records.extend(read_records(walk)?);
        }
        Ok(Some(records))
    }

    fn lock(&self) -> MutexGuard<'_, Programs> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Programs {
    /// What the kernel's tables list; `None` if they cannot be read.
    fn tables(&mut self, walk: Walk) -> Result<Option<Vec<Record>>> {
        let Some(cursors) = &mut self.cursors else { return Ok(None) };
        let flags = SocketFlags::CLOEXEC;
        let (family, kind) = (AddressFamily::INET, SocketType::DGRAM);
        let socket = socket_with(family, kind, flags, None).map_err(|errno| {
            Error::new(ErrorKind::System, FAILED).because(io::Error::from(errno))
        })?;
        let fd = u32::try_from(socket.as_raw_fd()).unwrap_or_default();
        cursors.set(0, Cursor::start(fd, walk), 0).map_err(failed)?;
        let iterator = iterator(&mut self.ebpf, "tables")?;
        let link = iterator.attach_to_map(cursors.map_data()).map_err(failed)?;
        let link = iterator.take_link(link).map_err(failed)?;
        let records = read_records(link.into_file().map_err(failed)?)?;
        if records.last() == Some(&Record::End) {
            return Ok(Some(records));
        }
        // Listeners are kept in another way before Linux 5.19, or there are more than a million.
        tracing::debug!("the kernel's tables of sockets were not read to their end");
        Ok(None)
    }

    /// Starts a walk over the descriptors of one process, or of all, which runs as its output is read.
    fn start(&mut self, program: &str, of: Option<NonZeroU32>) -> Result<File> {
        let iterator = iterator(&mut self.ebpf, program)?;
        if iterator.fd().is_err() {
            let btf = types().map_err(failed)?;
            iterator.load(DESCRIPTORS, btf).map_err(failed)?;
        }
        let link = match of {
            Some(pid) => iterator.attach_to_process(pid),
            None => iterator.attach(),
        };
        let link = link.map_err(failed)?;
        let link = iterator.take_link(link).map_err(failed)?;
        link.into_file().map_err(failed)
    }
}

/// Loads the walk over the kernel's tables. Returns its cursors.
fn tables(
    ebpf: &mut Ebpf,
    btf: &KernelBtf,
) -> std::result::Result<Array<MapData, Cursor>, Box<dyn StdError>> {
    let program: &mut Iter =
        ebpf.program_mut("tables").ok_or(ProgramError::NotLoaded)?.try_into()?;
    program.load(TABLES, btf)?;
    Ok(ebpf.take_map("cursors").ok_or("the embedded object has no map \"cursors\"")?.try_into()?)
}

fn iterator<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut Iter> {
    let program = programs
        .program_mut(name)
        .ok_or_else(|| failed(format!("the embedded object has no program {name:?}")))?;
    program.try_into().map_err(failed)
}

fn read_records(walk: File) -> Result<Vec<Record>> {
    let bytes = read_all(walk).map_err(failed)?;
    records::parse(&bytes).map_err(failed)
}

/// Reads an iterator to its end.
///
/// EAGAIN means "read again": a read stops after a million objects without output
/// (`MAX_ITER_OBJECTS` in `kernel/bpf/bpf_iter.c`), which is a million descriptors here.
pub(crate) fn read_all(mut walk: impl Read) -> io::Result<Vec<u8>> {
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

fn failed(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    caps::failed_own(FAILED, source, caps::TRACING)
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::model::group::Protocol;

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
    fn a_listing_near_a_process_has_all_members_and_its_holders_alone() {
        let bind = sk_reuseport::net::Bind::new("127.0.0.1:0".parse().unwrap());
        let listeners = bind.listeners(2).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let observer = Observer::new().unwrap();
        let holders = |pids: &[u32]| {
            let extent = Extent::Near { pids: pids.to_vec(), udp: false };
            let (groups, whole) = observer.groups_near(&extent).unwrap();
            assert!(whole || groups.iter().all(|group| group.key.protocol == Protocol::Tcp));
            let group = groups.iter().find(|group| group.key.address == address).unwrap();
            assert_eq!(group.members.len(), 2);
            let held = group.members.iter().filter(|member| !member.holders.is_empty()).count();
            (held, whole)
        };
        let own = std::process::id();
        let is_near = sees_host_pids() && observer.lock().tables(Walk::WHOLE).unwrap().is_some();
        assert_eq!(holders(&[own]), (2, !is_near));
        if is_near {
            assert_eq!(holders(&[]), (0, false));
            assert_eq!(holders(&[1]), (0, false));
            assert_eq!(holders(&[0]), (2, true), "no process has this number");
        }
    }

    #[test]
    fn a_walk_that_fails_is_an_error() {
        let walk = Script(vec![Ok(b"ab"), Err(io::Error::from(Errno::IO))]);
        assert!(read_all(walk).is_err());
    }
}
