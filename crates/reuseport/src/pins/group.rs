//! One group's pinned state: created in staging, moved into place, opened, removed.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::chown;
use std::path::PathBuf;

use rustix::io::Errno;
use sk_reuseport::maps::{Array, Map, MapData, MapError, MappedArray};
use sk_reuseport::pin::PinError;
use sk_reuseport::programs::SkReuseport;

use super::bpffs::{self, Held, Root};
use super::directory::directory_name;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::caps;
use crate::kernel::maps::PolicyMaps;
use crate::kernel::recognise::{self, HEADER};
use crate::kernel::sockets::Sockets;
use crate::model::group::{Group, GroupKey};
use crate::model::id::{Cookie, Slot};
use crate::model::membership::{self, Occupant};
use crate::model::selection::Program;
use crate::wire::header::{Header, MAGIC, SCHEMA};
use crate::wire::slot::SlotRecord;

/// The pin of the program.
pub(super) const PROGRAM: &str = "select";

/// A group's pinned state.
#[derive(Debug)]
pub(crate) struct GroupState {
    directory: PathBuf,
    /// The same, for state that was opened.
    held: Option<Held>,
    header: Array<MapData, Header>,
    slots: Array<MapData, SlotRecord>,
    /// `slots`, mapped into memory.
    records: MappedArray<SlotRecord>,
    pub(crate) sockets: Sockets,
    /// `None` for a user's own program.
    pub(crate) policy_maps: Option<PolicyMaps>,
}

impl GroupState {
    /// Creates the maps of a group's state, unpinned.
    pub(crate) fn create(
        header: &Header,
        sockets: Sockets,
        policy_maps: Option<PolicyMaps>,
    ) -> Result<Self, MapError> {
        let capacity = sockets.capacity();
        let slots: Array<_, SlotRecord> =
            Array::create_named("slots", capacity, Array::<MapData, SlotRecord>::MMAPABLE)?;
        let mut state = Self {
            directory: PathBuf::new(),
            held: None,
            header: Array::create_named(HEADER, 1, 0)?,
            records: slots.mapped()?,
            slots,
            sockets,
            policy_maps,
        };
        state.set_header(header)?;
        Ok(state)
    }

    /// The state of a group; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Schema`] for the state of another version.
    pub(crate) fn existing(root: &Root, key: &GroupKey) -> Result<Option<Self>> {
        let directory = directory(root, key);
        if bpffs::names(&directory)?.is_empty() {
            return Ok(None);
        }
        Self::open(directory).map(Some)
    }

    /// Opens the state in a directory.
    pub(crate) fn open(directory: PathBuf) -> Result<Self> {
        let failed = format!("cannot open the state in {}", directory.display());
        let unreadable = |error: MapError| unreadable(&failed, error);
        let held = Held::open(&directory).map_err(|error| bpffs::denied(failed.clone(), error))?;
        let open = |name: &str| MapData::from_pin(held.join(name));
        let header_map = open(HEADER).map_err(unreadable)?;
        check_schema(&header_map, &failed)?;
        let parts = || -> Result<_, MapError> {
            let header: Array<_, Header> = Map::from_map_data(header_map)?.try_into()?;
            let slots: Array<_, SlotRecord> = Map::from_map_data(open("slots")?)?.try_into()?;
            let sockets = Sockets::from_map(Map::from_map_data(open("sockets")?)?)?;
            let policy_maps = match header.get(&0, 0)?.program() {
                Some(Program::Selection(_)) => {
                    Some(PolicyMaps::from_pins(&held.path(), sockets.capacity())?)
                }
                _ => None,
            };
            let records = slots.mapped()?;
            Ok((header, slots, records, sockets, policy_maps))
        };
        let (header, slots, records, sockets, policy_maps) = parts().map_err(unreadable)?;
        let held = Some(held);
        let state = Self {
            directory: directory.clone(),
            held,
            header,
            slots,
            records,
            sockets,
            policy_maps,
        };
        let named = state.header().map_err(unreadable)?.key().map(|key| directory_name(&key));
        if named.as_deref().map(OsStr::new) != directory.file_name() {
            return Err(another_schema(&failed, "its header names another group"));
        }
        if state.program_kind()?.is_none() {
            return Err(another_schema(&failed, "its policy is of a newer version"));
        }
        Ok(state)
    }

    /// Binds a program to the state's header, by which it is recognised without its pins.
    pub(crate) fn bind(&self, program: &SkReuseport) -> Result<()> {
        recognise::bind(program, &self.header).map_err(|error| {
            caps::failed("cannot bind the program to the state of the group", error, caps::LOADING)
        })
    }

    /// Pins the state and its program in staging, before any socket is in it. If the process were killed
    /// with sockets in an unpinned array, they would fit no other array until the kernel frees that one,
    /// some time later.
    pub(crate) fn stage(&mut self, root: &Root, program: &mut SkReuseport) -> Result<()> {
        let staging = root.staging();
        bpffs::make_directory(&staging)?;
        self.directory.clone_from(&staging);
        self.held = None;
        let failed = |error: PinError| {
            Error::new(ErrorKind::System, "cannot pin the state of the group").because(error)
        };
        let pin = |map: &MapData, name: &str| map.pin(staging.join(name)).map_err(failed);
        pin(self.header.map_data(), HEADER)?;
        pin(self.slots.map_data(), "slots")?;
        pin(self.sockets.data(), "sockets")?;
        if let Some(maps) = &self.policy_maps {
            maps.pin(&staging).map_err(failed)?;
        }
        program.pin(staging.join(PROGRAM)).map_err(failed)
    }

    /// Gives the pins to the user who can open their maps, in case that is another one.
    pub(crate) fn give_to(&self, owner: u32) -> Result<()> {
        if owner == self.owner() {
            return Ok(());
        }
        let pins = bpffs::names(&self.directory)?.into_iter().map(|name| self.directory.join(name));
        let failed = |error| bpffs::denied(format!("cannot give a state to uid {owner}"), error);
        pins.chain([self.directory.clone()])
            .try_for_each(|path| chown(path, Some(owner), None))
            .map_err(failed)
    }

    /// Moves the state from staging into place. From here on other processes see all of it.
    pub(crate) fn place(&mut self, root: &Root, key: &GroupKey) -> Result<()> {
        root.make_groups()?;
        let place = root.groups().join(directory_name(key));
        fs::rename(&self.directory, &place).map_err(|error| {
            Error::new(ErrorKind::System, format!("cannot pin the state of {key}")).because(error)
        })?;
        self.directory = place;
        Ok(())
    }

    /// The directory of the pins, for this process.
    pub(super) fn pins(&self) -> PathBuf {
        self.held.as_ref().map_or_else(|| self.directory.clone(), Held::path)
    }

    pub(super) fn pin(&self, name: &str) -> PathBuf {
        self.pins().join(name)
    }

    /// The user who pinned it.
    pub(crate) fn owner(&self) -> u32 {
        self.held.as_ref().map_or_else(bpffs::own_uid, Held::owner)
    }

    /// Whether the caller may attach its program and fill its maps: only users whom the caller trusts may
    /// open them.
    pub(crate) fn is_trusted(&self) -> bool {
        bpffs::is_trusted(self.owner())
    }

    /// Removes the pins. The program must be detached before, and the array be [emptied](Self::empty). The
    /// kernel frees the rest when its last user is dropped; this value is one.
    pub(crate) fn unpin(&mut self, root: &Root) -> Result<()> {
        if let Some(maps) = &self.policy_maps {
            maps.reports.clear_all();
        }
        match std::mem::take(&mut self.directory) {
            directory if directory.as_os_str().is_empty() => Ok(()),
            directory => root.discard(&directory),
        }
    }

    /// Takes all of the group's sockets out of the socket array, so that other maps accept them at once. The
    /// program must not decide.
    pub(crate) fn empty(&mut self, group: &Group) {
        self.empty_except(group, &HashSet::new());
    }

    /// The same, except for members that are to `stay`.
    pub(crate) fn empty_except(&mut self, group: &Group, stay: &HashSet<Cookie>) {
        for slot in self.all_slots() {
            if self.record(slot).cookie().is_none_or(|cookie| !stay.contains(&cookie)) {
                self.empty_slot_in(group, slot);
            }
        }
    }

    pub(crate) fn header(&self) -> Result<Header, MapError> {
        self.header.get(&0, 0)
    }

    /// The header, with an error that says that it is the group's state.
    pub(crate) fn read_header(&self) -> Result<Header> {
        self.header().map_err(header_failed)
    }

    /// Whether the group's connections are counted in the host-wide layer with this id. If the header cannot be
    /// read this time, they are: else its members would be marked again, or keep their indices when they leave.
    pub(crate) fn is_in_layer(&self, id: u32) -> bool {
        self.header().map_or(true, |header| header.is_in_layer(id))
    }

    /// Notes that the group's connections are counted in this layer from now on.
    pub(crate) fn join_layer(&mut self, id: u32) -> Result<()> {
        let mut header = self.read_header()?;
        header.set_host_layer(id);
        self.set_header(&header).map_err(header_failed)
    }

    pub(crate) fn set_header(&mut self, header: &Header) -> Result<(), MapError> {
        self.header.set(0, header, 0)
    }

    /// The program that decides; `None` for one of a newer version.
    pub(crate) fn program_kind(&self) -> Result<Option<Program>> {
        Ok(self.read_header()?.program())
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.sockets.capacity()
    }

    /// All slots, free or not.
    pub(crate) fn all_slots(&self) -> impl Iterator<Item = Slot> + use<> {
        self.sockets.slots()
    }

    /// A slot's record. Slots beyond the end are free.
    pub(crate) fn record(&self, slot: Slot) -> SlotRecord {
        self.records.get(slot.index()).unwrap_or(SlotRecord::free(0))
    }

    pub(crate) fn set_record(&self, slot: Slot, record: SlotRecord) {
        // Slots come from `all_slots`, which ends where the records end.
        let _ = self.records.set(slot.index(), record);
    }

    /// The members that are in a slot, and not only in its record: the kernel empties the slots of sockets
    /// that leave.
    pub(crate) fn in_slots(&self) -> HashSet<Cookie> {
        let filled = |slot| !matches!(self.sockets.occupant(slot), Ok(Occupant::None));
        self.occupied().filter(|(slot, ..)| filled(*slot)).map(|(_, cookie, _)| cookie).collect()
    }

    /// The slots whose members have left the group.
    pub(crate) fn left(&self, group: &Group) -> Result<Vec<(Slot, Cookie)>, MapError> {
        let map = self.sockets.emptied();
        let mut left = Vec::new();
        for (slot, cookie, _) in self.occupied() {
            if membership::has_left(group, cookie, self.sockets.occupant(slot)?, map) {
                left.push((slot, cookie));
            }
        }
        Ok(left)
    }

    /// Takes the member out of a slot that it may have left.
    pub(crate) fn empty_slot_in(&mut self, group: &Group, slot: Slot) {
        let map = self.sockets.emptied();
        let may = |cookie| membership::may_occupy(group, cookie, map);
        let may = self.record(slot).cookie().is_some_and(may);
        self.clear_slot(slot, may);
    }

    /// Takes the member out of a slot in which it was a moment ago. Returns whether that did not fail.
    pub(crate) fn empty_slot(&mut self, slot: Slot) -> bool {
        self.clear_slot(slot, true)
    }

    /// A user's own map may have sockets of others, which stay. `may`: as for [`Sockets::clear_of`].
    fn clear_slot(&mut self, slot: Slot, may: bool) -> bool {
        match (&self.policy_maps, self.record(slot).cookie()) {
            (Some(_), _) => self.sockets.clear(slot),
            (None, Some(cookie)) => self.sockets.clear_of(slot, cookie, may),
            (None, None) => true,
        }
    }

    /// Puts a member's socket into a slot. In a user's own map, the slot must be empty.
    pub(crate) fn fill(&mut self, slot: Slot, socket: BorrowedFd<'_>) -> Result<(), MapError> {
        match self.policy_maps {
            Some(_) => self.sockets.set(slot, socket),
            None => self.sockets.set_new(slot, socket),
        }
    }

    /// The sockets in a user's own map that are not of this group: other programs put them there.
    pub(crate) fn strangers(&self, group: &Group) -> Vec<(Slot, Cookie)> {
        if self.policy_maps.is_some() {
            return Vec::new();
        }
        let stranger = |slot| match self.sockets.occupant(slot) {
            Ok(Occupant::Socket(cookie)) if group.member(cookie).is_none() => Some((slot, cookie)),
            _ => None,
        };
        self.all_slots().filter_map(stranger).collect()
    }

    /// Whether no slot has a member any more. False if cookies cannot be read. Sockets of others in a
    /// user's own map do not count.
    pub(super) fn is_deserted(&self) -> bool {
        let is_empty = |slot| match self.sockets.occupant(slot) {
            Ok(Occupant::None) => true,
            Ok(Occupant::Socket(cookie)) => {
                self.policy_maps.is_none() && self.record(slot).cookie() != Some(cookie)
            }
            Ok(Occupant::Unknown) | Err(_) => false,
        };
        self.all_slots().all(is_empty)
    }

    /// The slots with a member, its cookie, and the record.
    pub(crate) fn occupied(&self) -> impl Iterator<Item = (Slot, Cookie, SlotRecord)> + '_ {
        self.all_slots().filter_map(|slot| {
            let record = self.record(slot);
            Some((slot, record.cookie()?, record))
        })
    }
}

/// The indices in the host-wide layer that groups use.
///
/// # Errors
///
/// If a group's state cannot be read, for example because it is of another version.
pub(crate) fn host_members(root: &Root) -> Result<HashSet<u32>> {
    let mut members = HashSet::new();
    for name in names(root)? {
        let state = GroupState::open(root.groups().join(name))?;
        members.extend(state.occupied().map(|(_, _, record)| record.host_member));
    }
    Ok(members)
}

/// The group and slot of this member, which is bound to `port`.
///
/// # Errors
///
/// If the member is not found, and the state of a group at that port cannot be read. Another user's group
/// at the same port is no error if the member is found elsewhere.
pub(crate) fn with_member(
    root: &Root,
    cookie: Cookie,
    port: u16,
) -> Result<Option<(GroupState, Slot, SlotRecord)>> {
    let at_port = format!("-{port}-net");
    let mut unreadable = None;
    for name in names(root)?.iter().filter(|name| name.contains(&at_port)) {
        let state = match GroupState::open(root.groups().join(name)) {
            Ok(state) => state,
            Err(error) => {
                unreadable = unreadable.or(Some(error));
                continue;
            }
        };
        let found = state.occupied().find(|(_, occupant, _)| *occupant == cookie);
        if let Some((slot, _, record)) = found {
            return Ok(Some((state, slot, record)));
        }
    }
    unreadable.map_or(Ok(None), Err)
}

/// Marks a group as watched until the returned file is dropped: its state is kept while the server restarts.
pub(crate) fn watch(root: &Root, key: &GroupKey) -> Result<fs::File> {
    bpffs::mark_watched(&directory(root, key))
}

/// The directory of a group's pins.
pub(super) fn directory(root: &Root, key: &GroupKey) -> PathBuf {
    root.groups().join(directory_name(key))
}

/// The names of all groups' directories.
pub(crate) fn names(root: &Root) -> Result<Vec<String>> {
    bpffs::names(&root.groups())
}

/// The error of an operation on the header.
pub(crate) fn header_failed(error: MapError) -> Error {
    Error::new(ErrorKind::System, "cannot read a group's state").because(error)
}

/// Refuses a header that this version would misread.
pub(super) fn check_schema(header: &MapData, failed: &str) -> Result<()> {
    let info =
        header.info().map_err(|error| Error::new(ErrorKind::System, failed).because(error))?;
    if info.value_size() as usize != size_of::<Header>() {
        return Err(another_schema(failed, "its header has another length"));
    }
    let header: Array<&MapData, Header> = Array::over(header)
        .map_err(|error| Error::new(ErrorKind::System, failed).because(error))?;
    let header =
        header.get(&0, 0).map_err(|error| Error::new(ErrorKind::System, failed).because(error))?;
    if header.magic != MAGIC {
        return Err(another_schema(failed, "it was not written by this program"));
    }
    if header.schema != SCHEMA {
        let cause =
            format!("it has schema {}, and this version knows schema {SCHEMA}", header.schema);
        return Err(another_schema(failed, cause));
    }
    Ok(())
}

/// The error for state that cannot be read: the kernel refused, or the pins are not this version's.
fn unreadable(failed: &str, error: MapError) -> Error {
    let other = match &error {
        MapError::NotAMap { .. }
        | MapError::InvalidMapType { .. }
        | MapError::InvalidKeySize { .. }
        | MapError::InvalidValueSize { .. } => true,
        error => caps::os_error(error) == Some(Errno::NOENT),
    };
    if other { another_schema(failed, error) } else { caps::failed(failed, error, caps::LOADING) }
}

fn another_schema(
    failed: &str,
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::new(ErrorKind::Schema, failed)
        .because(cause)
        .with_hint("detach the group with the version that attached it, or remove that directory")
}
