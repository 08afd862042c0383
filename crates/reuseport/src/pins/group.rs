//! One group's pinned state: created in staging, moved into place, opened, removed.
//!
//! The sockets and what the kernel program counts are the group's. What the program decides by, and who its members
//! are, is its [instance's](super::instance).

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use sk_reuseport::maps::{Array, Map, MapData, MapError};
use sk_reuseport::pin::PinError;
use sk_reuseport::programs::SkReuseport;

use super::bpffs::{self, Held, Root};
use super::directory::directory_name;
use super::followed;
use super::instance::{self, Instance};
use super::schema::{another_schema, check_schema, unreadable};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::caps;
use crate::kernel::followed::Followed;
use crate::kernel::maps::PolicyMaps;
use crate::kernel::recognise::{self, HEADER};
use crate::kernel::sockets::Sockets;
use crate::model::group::{Group, GroupKey, Protocol};
use crate::model::id::{Cookie, Slot};
use crate::model::membership::{self, Occupant};
use crate::model::roster::{Record, Roster};
use crate::model::selection::Program;
use crate::wire::header::Header;

/// A group's pinned state.
#[derive(Debug)]
pub(crate) struct GroupState {
    directory: PathBuf,
    /// The same, for state that was opened.
    held: Option<Held>,
    pub(super) header_map: Array<MapData, Header>,
    pub(super) header: Header,
    pub(crate) sockets: Sockets,
    /// `None` for a user's own program.
    pub(crate) policy_maps: Option<PolicyMaps>,
    /// Values of a user's own program that follow its members.
    pub(crate) followed: Vec<Followed>,
    /// The program that decides, or would.
    pub(crate) instance: Instance,
    /// What an interrupted or failed change left.
    pub(super) others: Vec<Instance>,
}

impl GroupState {
    /// Creates a group's state, unpinned.
    pub(crate) fn create(
        header: Header,
        sockets: Sockets,
        policy_maps: Option<PolicyMaps>,
        instance: Instance,
    ) -> Result<Self, MapError> {
        let mut header_map = Array::create_named(HEADER, 1, 0)?;
        header_map.set(0, header, 0)?;
        Ok(Self {
            directory: PathBuf::new(),
            held: None,
            header_map,
            header,
            sockets,
            policy_maps,
            followed: Vec::new(),
            instance,
            others: Vec::new(),
        })
    }

    /// The state of a group; `None` if there is none. Of several instances, it is the one whose program has the id
    /// `attached`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Schema`] for the state of another version.
    pub(crate) fn existing(
        root: &Root,
        key: &GroupKey,
        attached: Option<u32>,
    ) -> Result<Option<Self>> {
        let directory = directory(root, key);
        if bpffs::names(&directory)?.is_empty() {
            return Ok(None);
        }
        Self::open(directory, attached).map(Some)
    }

    /// The state of a group, as its program needs it.
    pub(crate) fn of(root: &Root, group: &Group) -> Result<Option<Self>> {
        Self::existing(root, &group.key, group.attached_id())
    }

    /// Opens the state in a group's directory.
    pub(crate) fn open(directory: PathBuf, attached: Option<u32>) -> Result<Self> {
        let state = Self::open_any(directory, attached)?;
        let name = state.header.key().map(|key| directory_name(&key));
        if name.as_deref().map(OsStr::new) != state.directory.file_name() {
            let failed = format!("cannot open the state in {}", state.directory.display());
            return Err(another_schema(&failed, "its header names another group"));
        }
        Ok(state)
    }

    /// The state that was put aside, if there is one.
    pub(crate) fn aside(root: &Root) -> Result<Option<Self>> {
        let aside = root.aside();
        if bpffs::names(&aside)?.is_empty() {
            return Ok(None);
        }
        Self::open_any(aside, None).map(Some)
    }

    /// The directory in which the state belongs.
    pub(super) fn place_of(&self, root: &Root) -> Option<PathBuf> {
        self.header.key().map(|key| directory(root, &key))
    }

    fn open_any(directory: PathBuf, attached: Option<u32>) -> Result<Self> {
        let failed = format!("cannot open the state in {}", directory.display());
        let unreadable = |error: MapError| unreadable(&failed, error);
        let held = Held::open(&directory).map_err(|error| bpffs::denied(failed.clone(), error))?;
        let open = |name: &str| MapData::from_pin(held.join(name));
        let header_map = open(HEADER).map_err(unreadable)?;
        check_schema(&header_map, &failed)?;
        let parts = || -> Result<_, MapError> {
            let header_map: Array<_, Header> = Map::from_map_data(header_map)?.try_into()?;
            let header = header_map.get(&0, 0)?;
            let sockets = Sockets::from_map(Map::from_map_data(open("sockets")?)?)?;
            Ok((header_map, header, sockets))
        };
        let (header_map, header, sockets) = parts().map_err(unreadable)?;
        let base = held.path();
        let slots = sockets.slots().count();
        let previous = Instance::of_previous_schema(&base, &header, attached, unreadable)?;
        let mut instances: Vec<Instance> = previous.into_iter().collect();
        instances.extend(Instance::all(&base, slots, unreadable)?);
        let Some(mut instance) = take_instance(&mut instances, attached) else {
            return Err(another_schema(&failed, "it has no program"));
        };
        if attached.is_some() && instance.program_id() == attached {
            instance.show_in_force().map_err(unreadable)?;
        }
        let policy_maps = match instance.setup.program() {
            Some(Program::Selection(_)) => {
                Some(PolicyMaps::from_pins(&base, sockets.capacity()).map_err(unreadable)?)
            }
            Some(Program::Object(())) => None,
            None => return Err(another_schema(&failed, "its policy is of a newer version")),
        };
        let followed = followed::open(&base).map_err(unreadable)?;
        Ok(Self {
            directory,
            held: Some(held),
            header_map,
            header,
            sockets,
            policy_maps,
            followed,
            instance,
            others: instances,
        })
    }

    /// Binds a program to the state's header and its setup, by which it is recognised without its pins.
    pub(crate) fn bind(&self, program: &SkReuseport, instance: &Instance) -> Result<()> {
        let Some(setup) = instance.setup_map() else { return Ok(()) };
        recognise::bind(program, &self.header_map, setup).map_err(|error| {
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
        let failed = |error: PinError| {
            Error::new(ErrorKind::System, "cannot pin the state of the group").because(error)
        };
        let pin = |map: &MapData, name: &str| map.pin(staging.join(name)).map_err(failed);
        pin(self.header_map.map_data(), HEADER)?;
        pin(self.sockets.data(), "sockets")?;
        if let Some(maps) = &self.policy_maps {
            maps.pin(&staging).map_err(failed)?;
        }
        followed::pin(&self.followed, &staging).map_err(failed)?;
        self.instance.pin(&staging, program)
    }

    /// Moves the state from staging, or from aside, into place. From here on other processes see all of it.
    pub(crate) fn place(&mut self, root: &Root, key: &GroupKey) -> Result<()> {
        root.make_groups()?;
        self.rename(directory(root, key))
    }

    /// Moves the state aside, from where it comes back if nothing takes its place.
    pub(crate) fn put_aside(&mut self, root: &Root) -> Result<()> {
        bpffs::remove_directory(&root.aside())?;
        self.rename(root.aside())
    }

    fn rename(&mut self, place: PathBuf) -> Result<()> {
        fs::rename(&self.directory, &place)
            .map_err(|error| bpffs::denied(format!("cannot pin {}", place.display()), error))?;
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
            let recorded: Vec<Cookie> = self.recorded(slot).collect();
            if recorded.is_empty() {
                self.clear_slot(slot, None, false);
            }
            for cookie in recorded.into_iter().filter(|cookie| !stay.contains(cookie)) {
                self.empty_slot_of(group, slot, cookie);
            }
        }
    }

    /// The key of hashes.
    pub(crate) fn seed(&self) -> u64 {
        self.header.seed
    }

    /// Whether the group's connections are counted in the host-wide layer with this id.
    pub(crate) fn is_in_layer(&self, id: u32) -> bool {
        self.instance.setup.is_in_layer(id)
    }

    /// Whether the program compares open connections, which then have to be counted.
    pub(crate) fn counts_open(&self) -> bool {
        self.protocol().is_some_and(|protocol| self.program_kind().counts_open(protocol))
    }

    fn protocol(&self) -> Option<Protocol> {
        self.header.key().map(|key| key.protocol)
    }

    /// The program that decides.
    pub(crate) fn program_kind(&self) -> Program {
        // Another one is not opened.
        self.instance.setup.program().unwrap_or(Program::Object(()))
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.sockets.capacity()
    }

    /// All slots, free or not.
    pub(crate) fn all_slots(&self) -> impl Iterator<Item = Slot> + use<> {
        self.sockets.slots()
    }

    /// The present instance, and what an interrupted or failed change left.
    pub(super) fn instances(&self) -> impl Iterator<Item = &Instance> {
        [&self.instance].into_iter().chain(&self.others)
    }

    /// The pinned program; `None` if the state is incomplete: there is no such pin, or it is no program.
    pub(crate) fn open_program(&self) -> Result<Option<SkReuseport>> {
        self.instance.open_program(&self.pins())
    }

    /// Whether a program with this id is pinned here.
    pub(crate) fn has_program(&self, id: u32) -> bool {
        self.instances().any(|instance| instance.program_id() == Some(id))
    }

    /// The members that have a slot, or are about to get one.
    pub(crate) fn enrolled(&self) -> HashSet<Cookie> {
        let occupied = self.instances().flat_map(Instance::rosters).flat_map(Roster::occupied);
        occupied.map(|(_, cookie, _)| cookie).collect()
    }

    /// Their indices in the host-wide layer.
    pub(crate) fn host_members(&self) -> HashSet<u32> {
        let occupied = self.instances().flat_map(Instance::rosters).flat_map(Roster::occupied);
        occupied.filter_map(|(.., record)| record.host_member).collect()
    }

    /// A slot's record. Slots beyond the end are free.
    pub(crate) fn record(&self, slot: Slot) -> Record {
        self.instance.roster.record(slot)
    }

    /// The members that enter or have entered a slot, by any table of the group.
    fn recorded(&self, slot: Slot) -> impl Iterator<Item = Cookie> + '_ {
        self.instances()
            .flat_map(Instance::rosters)
            .filter_map(move |roster| roster.record(slot).cookie)
    }

    /// The members that are in a slot, and not only in its record: the kernel empties the slots of sockets
    /// that leave.
    pub(crate) fn in_slots(&self) -> HashSet<Cookie> {
        let filled = |slot| !matches!(self.sockets.occupant(slot), Ok(Occupant::None));
        self.occupied().filter(|(slot, ..)| filled(*slot)).map(|(_, cookie, _)| cookie).collect()
    }

    /// The slots with a member, its cookie, and what is in them.
    pub(crate) fn content(&self) -> Result<Vec<(Slot, Cookie, Occupant)>, MapError> {
        let content = |(slot, cookie, _)| {
            self.sockets.occupant(slot).map(|occupant| (slot, cookie, occupant))
        };
        self.occupied().map(content).collect()
    }

    /// Takes a member out of a slot that it may have left.
    pub(crate) fn empty_slot_of(&mut self, group: &Group, slot: Slot, cookie: Cookie) -> bool {
        let may = membership::may_occupy(group, cookie, self.sockets.emptied());
        self.clear_slot(slot, Some(cookie), may)
    }

    /// Takes a member out of a slot in which it was a moment ago. Returns whether that did not fail.
    pub(crate) fn empty_slot(&mut self, slot: Slot, cookie: Cookie) -> bool {
        self.clear_slot(slot, Some(cookie), true)
    }

    /// A user's own map may have sockets of others, which stay. `may`: as for [`Sockets::clear_of`].
    fn clear_slot(&mut self, slot: Slot, cookie: Option<Cookie>, may: bool) -> bool {
        match (&self.policy_maps, cookie) {
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
                self.policy_maps.is_none() && self.recorded(slot).all(|of| of != cookie)
            }
            Ok(Occupant::Unknown) | Err(_) => false,
        };
        self.all_slots().all(is_empty)
    }

    /// The slots with a member, its cookie, and the record.
    pub(crate) fn occupied(&self) -> impl Iterator<Item = (Slot, Cookie, Record)> + '_ {
        self.instance.roster.occupied()
    }
}

/// Takes the instance whose program is attached, the last one if there are several; else the first one.
fn take_instance(instances: &mut Vec<Instance>, attached: Option<u32>) -> Option<Instance> {
    let is_attached = |i: &Instance| attached.is_some() && i.program_id() == attached;
    let at = instances.iter().rposition(is_attached).unwrap_or(0);
    (at < instances.len()).then(|| instances.remove(at))
}

/// The indices in the host-wide layer that groups use.
///
/// # Errors
///
/// If a group's state cannot be read, for example because it is of another version.
pub(crate) fn host_members(root: &Root) -> Result<HashSet<u32>> {
    // One that was put aside may come back.
    let aside = GroupState::aside(root)?;
    let mut members = aside.map_or_else(HashSet::new, |state| state.host_members());
    for name in names(root)? {
        members.extend(GroupState::open(root.groups().join(name), None)?.host_members());
    }
    Ok(members)
}

/// Whether the connections of a group are counted, or will be when its program is attached. True if that cannot be
/// read.
pub(crate) fn any_is_counted(root: &Root) -> bool {
    let is_counted = |directory: PathBuf| match instance::is_counted(&directory) {
        Some(counted) => counted,
        // Of the previous schema, or incomplete.
        None => GroupState::open(directory, None)
            .map_or(true, |state| state.instances().any(|i| i.setup.is_counted())),
    };
    let groups = names(root).unwrap_or_default().into_iter().map(|name| root.groups().join(name));
    groups.chain([root.aside()].into_iter().filter(|aside| aside.exists())).any(is_counted)
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
) -> Result<Option<(GroupState, Slot, Record)>> {
    let at_port = format!("-{port}-net");
    let mut unreadable = None;
    for name in names(root)?.iter().filter(|name| name.contains(&at_port)) {
        let state = match GroupState::open(root.groups().join(name), None) {
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

/// Whether anything is pinned under the group's name.
pub(crate) fn is_pinned(root: &Root, key: &GroupKey) -> bool {
    directory(root, key).exists()
}

/// The directory of a group's pins.
pub(super) fn directory(root: &Root, key: &GroupKey) -> PathBuf {
    root.groups().join(directory_name(key))
}

/// The names of all groups' directories.
pub(crate) fn names(root: &Root) -> Result<Vec<String>> {
    bpffs::names(&root.groups())
}
