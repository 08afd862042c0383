//! Members into slots and out of them, and the table that follows from it.
//!
//! Coming: mark, record, socket array, and only then the table. Going: the table first, then, once
//! no program reads the old one, the rest. The caller has the lock.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::io::Errno;
use sk_reuseport::maps::MapError;

use crate::cpus;
use crate::foreign;
use crate::group::{Group, Member, Protocol};
use crate::id::{Cookie, MaxShare, Slot, Weight};
use crate::policy::Policy;
use crate::state::group::GroupState;
use crate::state::host::HostLayer;
use crate::state::layout::{Decider, NO_HOST_MEMBER, SlotRecord};
use crate::steer::{Occupant, Sockets, Start};
use crate::stop::Stop;
use crate::table::{Share, Table};
use crate::{Error, ErrorKind, Result, rights};

/// A member that could not be enrolled although the others were.
#[derive(Debug)]
pub struct LeftOut {
    /// The member.
    pub cookie: Cookie,
    /// Why.
    pub why: Error,
}

/// What became of a group's members.
#[derive(Debug, Default)]
pub struct Changes {
    /// Members that got a slot.
    pub enrolled: Vec<Cookie>,
    /// Members that had one already.
    pub kept: usize,
    /// Members that were gone: their slots are free again.
    pub released: Vec<Cookie>,
    /// Members that vanished while they were being enrolled.
    pub left_out: Vec<LeftOut>,
}

impl Changes {
    /// Whether anything changed.
    pub fn is_empty(&self) -> bool {
        self.enrolled.is_empty() && self.released.is_empty() && self.left_out.is_empty()
    }
}

/// A group's state and the layer below it, to be changed.
pub(crate) struct Enroller<'a> {
    pub(crate) state: &'a mut GroupState,
    pub(crate) layer: &'a mut HostLayer,
    pub(crate) stop: &'a Stop,
    /// How members begin who come now.
    pub(crate) start: Start,
    /// The shares of those that come now; all others have the default.
    pub(crate) weights: &'a [(Cookie, Weight)],
}

impl<'a> Enroller<'a> {
    /// Whose newcomers begin with these shares.
    pub(crate) fn weighing(mut self, weights: &'a [(Cookie, Weight)]) -> Self {
        self.weights = weights;
        self
    }

    /// Makes the slots agree with the group as it is: newcomers get one, gone members free theirs.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Full`] before anything is changed; any other one after newcomers were taken
    /// out again.
    pub(crate) fn sync(&mut self, group: &Group) -> Result<Changes> {
        check_room(group, self.state)?;
        let capacity = self.state.all_slots().count();
        let mut changes = Changes::default();
        let mut gone = self.gone(group);
        if self.state.occupied().count() > gone.len() {
            self.start = Start::Slow;
        }
        let newcomers = self.newcomers(group, &mut changes)?;
        if newcomers.len() > capacity - self.state.occupied().count() {
            // Their slots are needed.
            self.release(std::mem::take(&mut gone), &mut changes)?;
        }
        self.enrol_all(&newcomers, &gone, &mut changes)?;
        self.free(gone, &mut changes);
        Ok(changes)
    }

    /// Puts the members back into the slots that are theirs by the records, marks included.
    pub(crate) fn refill_all(&mut self, group: &Group) -> Result<()> {
        let occupied: Vec<(Slot, Cookie)> =
            self.state.occupied().map(|(slot, cookie, _)| (slot, cookie)).collect();
        for (slot, cookie) in occupied {
            let Some(member) = group.member(cookie) else { continue };
            self.state.sockets.clear(slot);
            self.refill(slot, member, &mut Changes::default())?;
        }
        self.swap_table()
    }

    /// Takes members out again that were enrolled just now.
    pub(crate) fn withdraw(&mut self, group: &Group, cookies: &[Cookie]) -> Result<()> {
        let withdrawn: Vec<(Slot, &Member)> = self
            .state
            .occupied()
            .filter(|(_, cookie, _)| cookies.contains(cookie))
            .filter_map(|(slot, cookie, _)| Some((slot, group.member(cookie)?)))
            .collect();
        self.swap_table_without(&withdrawn.iter().map(|(slot, _)| *slot).collect())?;
        self.take_back(&withdrawn);
        Ok(())
    }

    /// The slots whose members are no longer in the group.
    fn gone(&self, group: &Group) -> Vec<(Slot, Cookie)> {
        let members: HashSet<Cookie> = group.members.iter().map(|member| member.cookie).collect();
        self.state
            .occupied()
            .filter(|(_, cookie, _)| !members.contains(cookie))
            .map(|(slot, cookie, _)| (slot, cookie))
            .collect()
    }

    /// The members without a slot. One that stopped listening and listens again has a slot, but
    /// the kernel has emptied it: that is filled again here.
    fn newcomers<'g>(
        &mut self,
        group: &'g Group,
        changes: &mut Changes,
    ) -> Result<Vec<&'g Member>> {
        let slots: HashMap<Cookie, Slot> =
            self.state.occupied().map(|(slot, cookie, _)| (cookie, slot)).collect();
        let mut newcomers = Vec::new();
        for member in &group.members {
            let Some(slot) = slots.get(&member.cookie) else {
                newcomers.push(member);
                continue;
            };
            match self.state.sockets.occupant(*slot).map_err(|error| self.failed(member, error))? {
                Occupant::Nobody => self.refill(*slot, member, changes)?,
                Occupant::Socket(_) | Occupant::Unknown => changes.kept += 1,
            }
        }
        Ok(newcomers)
    }

    fn refill(&mut self, slot: Slot, member: &Member, changes: &mut Changes) -> Result<()> {
        match foreign::borrow(member) {
            Ok(socket) => {
                let SlotRecord { host_member, epoch, .. } = self.state.record(slot);
                let mut steps = || -> Result<(), MapError> {
                    if host_member != NO_HOST_MEMBER {
                        let epoch = self.layer.epoch(host_member);
                        self.layer.mark(socket.as_fd(), host_member, epoch)?;
                    }
                    if let Some(maps) = &self.state.policy_maps {
                        maps.reports.hear(slot, epoch);
                    }
                    self.fill(slot, socket.as_fd())
                };
                match steps().map_err(|error| self.failed(member, error)) {
                    Ok(()) => changes.enrolled.push(member.cookie),
                    Err(why) if why.kind() == ErrorKind::Vanished => {
                        changes.left_out.push(LeftOut { cookie: member.cookie, why });
                    }
                    Err(error) => return Err(error),
                }
            }
            Err(why) if why.kind() == ErrorKind::Vanished => {
                changes.left_out.push(LeftOut { cookie: member.cookie, why });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Gives each a slot, and puts them into the table together; those that are `leaving` go out
    /// of it by the same step.
    fn enrol_all(
        &mut self,
        newcomers: &[&Member],
        leaving: &[(Slot, Cookie)],
        changes: &mut Changes,
    ) -> Result<()> {
        let free: Vec<Slot> = self
            .state
            .all_slots()
            .filter(|slot| self.state.record(*slot).cookie().is_none())
            .take(newcomers.len())
            .collect();
        let mut enrolled = Vec::new();
        for (member, slot) in newcomers.iter().zip(free) {
            let result =
                self.stop.check("enrolling members").and_then(|()| self.enrol(slot, member));
            match result {
                Ok(()) => enrolled.push((slot, *member)),
                Err(why) if why.kind() == ErrorKind::Vanished => {
                    changes.left_out.push(LeftOut { cookie: member.cookie, why });
                }
                Err(error) => {
                    self.take_back(&enrolled);
                    return Err(error);
                }
            }
        }
        if enrolled.is_empty() && changes.kept == 0 && changes.enrolled.is_empty() {
            // Nobody is within reach, as while a server becomes a daemon: whoever held its sockets
            // has ended. There is nothing to change for nobody.
            if let Some(LeftOut { why, .. }) = changes.left_out.pop() {
                return Err(why);
            }
        }
        if let Err(error) = self.swap_table_without(&slots_of(leaving)) {
            self.take_back(&enrolled);
            return Err(error);
        }
        changes.enrolled.extend(enrolled.iter().map(|(_, member)| member.cookie));
        Ok(())
    }

    fn enrol(&mut self, slot: Slot, member: &Member) -> Result<()> {
        let socket = foreign::borrow(member)?;
        let generation =
            self.state.header().map_err(|error| self.failed(member, error))?.generation;
        let epoch = self.state.record(slot).epoch.wrapping_add(1);
        // Datagrams open no connections.
        let counted = member.protocol == Protocol::Tcp;
        let allocated = counted.then(|| self.layer.allocate()).flatten();
        let (host_member, host_epoch) = allocated.unwrap_or((NO_HOST_MEMBER, 0));
        let weight = self.weights.iter().find(|(cookie, _)| *cookie == member.cookie);
        let weight = weight.map_or(Weight::DEFAULT, |(_, weight)| *weight);
        let record = SlotRecord::occupied(member.cookie, epoch, host_member, generation, weight);
        let mut steps = || -> Result<(), MapError> {
            if host_member != NO_HOST_MEMBER {
                self.layer.mark(socket.as_fd(), host_member, host_epoch)?;
            }
            if let Some(maps) = &mut self.state.policy_maps {
                maps.receive(slot, epoch, member.sock_address.0)?;
            }
            self.state.set_record(slot, record);
            // Whoever freed the slot emptied it, unless he could not.
            self.state.sockets.clear(slot);
            self.fill(slot, socket.as_fd())
        };
        steps().map_err(|error| {
            // However far it came: the record says what is to be taken back.
            self.state.set_record(slot, record);
            self.vacate(slot);
            self.layer.unmark(socket.as_fd());
            self.failed(member, error)
        })
    }

    /// Puts a socket into its slot.
    fn fill(&mut self, slot: Slot, socket: BorrowedFd<'_>) -> Result<(), MapError> {
        self.state.sockets.set(slot, socket)?;
        match &mut self.state.policy_maps {
            Some(maps) => maps.begin_anew(slot, self.start),
            None => Ok(()),
        }
    }

    /// Undoes enrolments that no table names.
    fn take_back(&mut self, enrolled: &[(Slot, &Member)]) {
        for (slot, member) in enrolled {
            self.vacate(*slot);
            // One that is gone took its mark along.
            if let Ok(socket) = foreign::borrow(member) {
                self.layer.unmark(socket.as_fd());
            }
        }
    }

    /// Takes members out of the table, waits, and frees their slots.
    fn release(&mut self, gone: Vec<(Slot, Cookie)>, changes: &mut Changes) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        self.swap_table_without(&slots_of(&gone))?;
        self.free(gone, changes);
        Ok(())
    }

    /// Frees slots that no table names any more.
    fn free(&mut self, gone: Vec<(Slot, Cookie)>, changes: &mut Changes) {
        for (slot, cookie) in gone {
            self.vacate(slot);
            changes.released.push(cookie);
        }
    }

    /// Frees a slot that no table names.
    fn vacate(&mut self, slot: Slot) {
        let record = self.state.record(slot);
        self.state.sockets.clear(slot);
        if let Some(maps) = &mut self.state.policy_maps {
            maps.forget(slot);
        }
        if record.cookie().is_some() && record.host_member != NO_HOST_MEMBER {
            self.layer.release(record.host_member);
        }
        self.state.set_record(slot, SlotRecord::free(record.epoch));
    }

    fn swap_table(&mut self) -> Result<()> {
        self.swap_table_without(&HashSet::new())
    }

    fn swap_table_without(&mut self, leaving: &HashSet<Slot>) -> Result<()> {
        let header = self
            .state
            .header()
            .map_err(|error| Error::new(ErrorKind::System, SWAPPING).because(error))?;
        match header.decider() {
            Some(Decider::Policy { policy, .. }) => fill_table(self.state, policy, leaving),
            _ => Ok(()),
        }
    }

    /// Why a member could not be enrolled, with what can be done about it.
    fn failed(&self, member: &Member, error: MapError) -> Error {
        let tried = format!("cannot enrol socket {}", member.cookie);
        match rights::os_error(&error) {
            Some(Errno::BUSY) => Error::new(ErrorKind::Busy, tried).because(error),
            // It stopped listening between listing and enrolment. A socket array says EINVAL
            // (reuseport_array_update_check), a socket map EOPNOTSUPP (sock_map_sk_state_allowed).
            Some(Errno::INVAL | Errno::OPNOTSUPP) => {
                Error::new(ErrorKind::Vanished, tried).because(error)
            }
            _ => {
                let needed = match self.state.sockets {
                    Sockets::Array(_) => rights::LOADING,
                    Sockets::Map(_) => rights::SOCKET_MAPS,
                };
                rights::failed(&tried, error, needed)
            }
        }
    }
}

/// Whether there are slots enough.
///
/// # Errors
///
/// [`ErrorKind::Full`].
pub(crate) fn check_room(group: &Group, state: &GroupState) -> Result<()> {
    let capacity = state.all_slots().count();
    if group.members.len() <= capacity {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Full, format!("cannot enrol the members of {}", group.key))
        .because(format!("{} members, {capacity} slots", group.members.len()))
        .remedy(match state.policy_maps {
            Some(_) => "choose a larger `--slots`; a group that is attached must be detached first",
            None => "give the object's map for sockets more elements",
        }))
}

const SWAPPING: &str = "cannot change the table";

/// Builds the table that follows from the records, as the policy wants it, and puts it into force.
pub(crate) fn swap_table(state: &mut GroupState, policy: Policy) -> Result<()> {
    fill_table(state, policy, &HashSet::new())
}

fn fill_table(state: &mut GroupState, policy: Policy, leaving: &HashSet<Slot>) -> Result<()> {
    let header =
        state.header().map_err(|error| Error::new(ErrorKind::System, SWAPPING).because(error))?;
    let mut shares = shares(state);
    shares.retain(|share| !leaving.contains(&share.slot));
    let mut table = Table::build(&shares, policy.fill(header.seed), state.capacity());
    let max_share = match policy {
        Policy::LeastLoaded(options) => options.max_share,
        // While the policy changes, the other policy's program reads this table, too.
        _ => MaxShare::DEFAULT,
    };
    // One that the layer had no room for has an index that is nobody's.
    let host = |slot| u16::try_from(state.record(slot).host_member).ok();
    table = table.comparing(&shares, max_share, host);
    if policy == Policy::Cpu {
        let cpu = |slot| state.record(slot).cpu();
        table = table.by_cpu(state.capacity(), &cpus::topology(), cpu);
    }
    match &mut state.policy_maps {
        Some(maps) => {
            maps.swap_in(&table).map_err(|error| rights::failed(SWAPPING, error, rights::LOADING))
        }
        None => Ok(()),
    }
}

/// Gives members a CPU of their own for the policy `cpu`: in the order of their slots those that are
/// given, one after the other and over again; without any, members that have none yet get the one that
/// their owner is bound to, or else the one with the fewest members.
pub(crate) fn assign_cpus(
    state: &GroupState,
    given: Option<&[u16]>,
    owner: impl Fn(Cookie) -> Option<u32>,
) {
    let assign = |slot, mut record: SlotRecord, cpu| {
        record.set_cpu(cpu);
        state.set_record(slot, record);
    };
    if let Some(given) = given {
        state.occupied().zip(given.iter().cycle()).for_each(|((slot, _, record), cpu)| {
            assign(slot, record, *cpu);
        });
        return;
    }
    for (slot, cookie, record) in state.occupied().filter(|(.., record)| record.cpu().is_none()) {
        let bound = owner(cookie).and_then(cpus::only_cpu_of);
        let used = state.occupied().filter_map(|(.., record)| record.cpu());
        assign(slot, record, bound.unwrap_or_else(|| cpus::least_used(used)));
    }
}

/// The members' parts in the table, by slot.
pub(crate) fn shares(state: &GroupState) -> Vec<Share> {
    state
        .occupied()
        .map(|(slot, _, record)| Share { slot, weight: record.weight(), state: record.state() })
        .collect()
}

fn slots_of(members: &[(Slot, Cookie)]) -> HashSet<Slot> {
    members.iter().map(|(slot, _)| *slot).collect()
}
