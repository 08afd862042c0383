//! The host-wide layer: marks on sockets, and the open connections of each member.
//!
//! It exists while a policy that this tool attached compares open connections. Counting needs CAP_PERFMON;
//! without it, open connections are unknown and everything else works.

use std::collections::HashSet;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use sk_reuseport::maps::{Array, MapData, MapError, MappedArray, SkStorage};
use sk_reuseport::programs::{BtfTracePoint, FdLink, ProgramError};
use sk_reuseport::{Ebpf, EbpfLoader, KernelBtf};

use super::bpffs::{self, Held, Root};
use super::recount::Recount;
use crate::error::{Error, ErrorKind, Report, Result, os_error};
use crate::kernel::caps;
use crate::kernel::types::types;
use crate::wire::host::{HOST_MEMBERS, HostMember, Mark};

/// The programs that count, and the maps in which they do.
pub(crate) const OBJECT: &[u8] = include_bytes!("../../bpf/host.bpf.o");

pub(crate) const TRACEPOINT: &str = "inet_sock_set_state";

/// The programs that count, and the pins of their links. There are two because the kernel skips a program
/// that is already running on the CPU (`bpf/host.bpf.c`).
const COUNTING: [&str; 2] = ["count_open", "count_nested"];

/// The host-wide layer, opened.
#[derive(Debug)]
pub(crate) struct HostLayer {
    /// `None`: it is not pinned, and counts nothing.
    path: Option<PathBuf>,
    /// Whether it counted when it was opened.
    counts: bool,
    /// The user who pinned it.
    owner: u32,
    /// The id of `members_map`.
    id: u32,
    marks: SkStorage<MapData, Mark>,
    members_map: Array<MapData, HostMember>,
    /// `members_map`, mapped into memory.
    members: MappedArray<HostMember>,
    recount: Option<Recount>,
}

/// What a select program reads of a layer.
#[derive(Debug)]
pub(crate) struct SharedLayer {
    /// The identity of the layer.
    pub(crate) id: u32,
    /// The members with their open connections.
    pub(crate) members: Array<MapData, HostMember>,
}

impl HostLayer {
    /// Whether another user made the directory, complete or not: that user may open and exchange what is in it.
    pub(crate) fn is_of_another_user(root: &Root) -> bool {
        Held::open(&root.host()).is_ok_and(|held| !bpffs::is_trusted(held.owner()))
    }

    /// The layer if it exists, complete.
    pub(crate) fn existing(root: &Root) -> Result<Option<Self>> {
        let path = root.host();
        let pinned = bpffs::names(&path)?;
        let whole = ["marks", "members"].iter().all(|map| pinned.iter().any(|name| name == map));
        if whole { Self::open(path).map(Some) } else { Ok(None) }
    }

    /// The layer, created or completed if necessary. The caller holds the lock.
    pub(crate) fn create(root: &Root) -> Result<Self> {
        Self::create_in(root.host())
    }

    /// The identity of the layer, if it counts.
    pub(crate) fn counting(root: &Root) -> Option<u32> {
        let path = root.host();
        let id = || Some(MapData::from_pin(path.join("members")).ok()?.info().ok()?.id());
        if counts(&path) { id() } else { None }
    }

    /// Creates one that counts nothing for the present groups, next to the layer of another user. The caller
    /// holds the lock, and decides at the end of the operation which of the two stays:
    /// [`take_place`](Self::take_place) or [`remove_next`](Self::remove_next).
    pub(crate) fn create_next(root: &Root) -> Result<Self> {
        Self::remove_next(root)?;
        Self::create_in(root.next_host())
    }

    fn create_in(path: PathBuf) -> Result<Self> {
        if counts(&path) {
            return Self::open(path);
        }
        bpffs::make_directory(&path)?;
        // Reuses maps that a command without CAP_PERFMON, or an interrupted one, has pinned.
        let mut ebpf = EbpfLoader::new()
            .map_pin_path("marks", path.join("marks"))
            .map_pin_path("members", path.join("members"))
            .load(OBJECT)
            .map_err(|error| {
                caps::failed_own("cannot create the host-wide maps", error, caps::LOADING)
            })?;
        if let Err(error) = count(&mut ebpf, &path) {
            Report::new(error.as_ref()).warn_that("open connections will not be counted");
        }
        Self::open(path)
    }

    /// One that is not pinned and counts nothing, where the caller must not use the one that is pinned.
    pub(crate) fn unpinned() -> Result<Self> {
        let failed = "cannot create the host-wide maps";
        let mut ebpf = EbpfLoader::new()
            .load(OBJECT)
            .map_err(|error| caps::failed_own(failed, error, caps::LOADING))?;
        let mut take = |name| ebpf.take_map(name).ok_or(MapError::KeyNotFound);
        let mut parts = || -> Result<_, MapError> {
            let members: Array<_, HostMember> = take("members")?.try_into()?;
            let (mapped, id) = (members.mapped()?, members.map_data().info()?.id());
            Ok((take("marks")?.try_into()?, members, mapped, id))
        };
        let (marks, members_map, members, id) =
            parts().map_err(|error| Error::new(ErrorKind::System, failed).because(error))?;
        let owner = bpffs::own_uid();
        Ok(Self {
            path: None,
            counts: false,
            owner,
            id,
            marks,
            members_map,
            members,
            recount: None,
        })
    }

    fn open(path: PathBuf) -> Result<Self> {
        let open = || -> Result<_, Box<dyn std::error::Error + Send + Sync>> {
            let held = Held::open(&path)?;
            let marks = MapData::from_pin(held.join("marks"))?;
            let members: Array<_, HostMember> = map(MapData::from_pin(held.join("members"))?)?;
            let (mapped, id) = (members.mapped()?, members.map_data().info()?.id());
            Ok((held.owner(), map(marks)?, members, mapped, id))
        };
        let (owner, marks, members_map, members, id) = open().map_err(|error| {
            // The kernel refuses nothing then: they are other maps.
            let of_another_version = os_error(error.as_ref()).is_none();
            let error =
                Error::new(ErrorKind::System, "cannot open the host-wide maps").because(error);
            match of_another_version {
                true => error.with_hint(
                    "another version made them: detach every group with that version first",
                ),
                false => error,
            }
        })?;
        let recount = Recount::open(&path).unwrap_or_else(|error| {
            tracing::debug!("open connections cannot be recounted: {}", Report::new(&error));
            None
        });
        let counts = counts(&path);
        Ok(Self { path: Some(path), counts, owner, id, marks, members_map, members, recount })
    }

    /// The same map, for a select program.
    pub(crate) fn shared(&self) -> Result<SharedLayer> {
        let failed = |error: MapError| {
            Error::new(ErrorKind::System, "cannot share the host-wide maps").because(error)
        };
        let fd = self.members_map.map_data().fd().as_fd().try_clone_to_owned();
        let data = fd.map_err(MapError::from).and_then(MapData::from_fd).map_err(failed)?;
        Ok(SharedLayer { id: self.id, members: map(data).map_err(failed)? })
    }

    /// The members with their open connections, for select programs.
    pub(crate) fn members_map(&self) -> &Array<MapData, HostMember> {
        &self.members_map
    }

    /// Whether open connections are counted: they were when it was opened.
    pub(crate) fn counts(&self) -> bool {
        self.counts
    }

    /// Whether it is pinned.
    pub(crate) fn is_pinned(&self) -> bool {
        self.path.is_some()
    }

    /// Its identity: each layer has another one.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Whether the caller may fill its maps, and let programs read them.
    pub(crate) fn is_trusted(&self) -> bool {
        bpffs::is_trusted(self.owner)
    }

    /// Allocates an index and an epoch for a new member; `None` if all are in use, or if it counts nothing.
    ///
    /// It is an index that was never used, or the one that was used least often. The kernel program may have
    /// checked the epoch of a released index and not yet changed its count: a member that got the index
    /// right then would get that count.
    pub(crate) fn allocate(&self) -> Option<(u32, u32)> {
        self.path.as_ref()?;
        let mut least: Option<(u32, u32)> = None;
        for index in 0..self.members.len() {
            let Some(HostMember { epoch, used: 0, .. }) = self.members.get(index) else { continue };
            if least.is_none_or(|(_, lowest)| epoch < lowest) {
                least = Some((index, epoch));
            }
            if epoch == 0 {
                break;
            }
        }
        let (index, epoch) = least?;
        let epoch = epoch.wrapping_add(1).max(1);
        self.members
            .set(index, HostMember { epoch, used: 1, opened: 0, closed: 0 })
            .then_some((index, epoch))
    }

    /// Releases a member's index. Its open connections are no longer counted.
    pub(crate) fn release(&self, index: u32) {
        if let Some(member) = self.members.get(index) {
            let epoch = member.epoch.wrapping_add(1);
            let _ = self.members.set(index, HostMember { epoch, used: 0, opened: 0, closed: 0 });
        }
    }

    /// Releases indices that no member uses: interrupted commands leave them.
    pub(crate) fn release_all_but(&self, used: &HashSet<u32>) {
        for index in 0..self.members.len().min(HOST_MEMBERS) {
            if !used.contains(&index)
                && self.members.get(index).is_some_and(|member| member.used != 0)
            {
                self.release(index);
            }
        }
    }

    /// The member's open connections; `None` if they are not counted.
    pub(crate) fn open_connections(&self, index: u32) -> Option<u64> {
        let member = self.members.get(index).filter(|_| self.counts)?;
        Some(member.open())
    }

    /// Subtracts connections whose end the counting programs missed.
    pub(crate) fn recount(&self) {
        let Some(recount) = &self.recount else { return };
        if let Err(error) = recount.run(&self.members) {
            tracing::debug!("open connections cannot be recounted: {}", Report::new(&error));
        }
    }

    /// Marks a member's socket. Connections that it accepts from now on inherit the mark.
    pub(crate) fn mark(
        &mut self,
        socket: BorrowedFd<'_>,
        member: u32,
        epoch: u32,
    ) -> Result<(), MapError> {
        self.marks.insert(&socket.as_raw_fd(), Mark::new(member, epoch), 0)
    }

    /// Removes a socket's mark, if it has one.
    pub(crate) fn unmark(&mut self, socket: BorrowedFd<'_>) {
        // There may be no mark, and a mark that stays has an old epoch and counts for no member.
        let _ = self.marks.remove(&socket.as_raw_fd());
    }

    /// A member's present epoch.
    pub(crate) fn epoch(&self, index: u32) -> u32 {
        self.members.get(index).map_or(0, |member| member.epoch)
    }

    /// Whether no index is in use.
    pub(crate) fn is_unused(&self) -> bool {
        (0..self.members.len())
            .all(|index| self.members.get(index).is_none_or(|member| member.used == 0))
    }

    /// Whether it is the next layer, and not yet in its place.
    pub(crate) fn is_next(&self, root: &Root) -> bool {
        self.path.as_deref() == Some(&root.next_host())
    }

    /// Moves the next layer into its place, and removes the present one: groups lose their counts there
    /// until their owner attaches again.
    pub(crate) fn take_place(self, root: &Root) -> Result<()> {
        Self::remove(root)?;
        fs::rename(root.next_host(), root.host()).map_err(|error| {
            Error::new(ErrorKind::System, "cannot pin the host-wide maps").because(error)
        })
    }

    /// Removes the next layer, if there is one.
    pub(crate) fn remove_next(root: &Root) -> Result<()> {
        bpffs::remove_directory(&root.next_host())
    }

    /// Removes the layer, complete or not. No program then runs at connections.
    pub(crate) fn remove(root: &Root) -> Result<()> {
        root.discard(&root.host())
    }
}

fn map<M: TryFrom<sk_reuseport::maps::Map, Error = MapError>>(
    data: MapData,
) -> Result<M, MapError> {
    sk_reuseport::maps::Map::from_map_data(data)?.try_into()
}

fn counts(path: &Path) -> bool {
    COUNTING.iter().all(|program| path.join(program).exists())
}

/// Attaches the counting programs, and creates the recount.
fn count(ebpf: &mut Ebpf, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let btf = types()?;
    // First, because the pins of the counting programs mark the layer as complete.
    if let Err(error) = Recount::create(path, btf) {
        Report::new(error.as_ref()).warn_that("missed closes of connections will stay counted");
    }
    attach_counting(ebpf, path, btf)
}

/// Loads and attaches the counting programs, and pins their links.
fn attach_counting(
    ebpf: &mut Ebpf,
    path: &Path,
    btf: &KernelBtf,
) -> Result<(), Box<dyn std::error::Error>> {
    for name in COUNTING {
        let pin = path.join(name);
        if pin.exists() {
            continue; // from an interrupted command
        }
        let program: &mut BtfTracePoint =
            ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()?;
        program.load(TRACEPOINT, btf)?;
        let id = program.attach()?;
        let link: FdLink = program.take_link(id)?.into();
        link.pin(pin)?;
    }
    Ok(())
}
