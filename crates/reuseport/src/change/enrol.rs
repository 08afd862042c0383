//! Enrolment: members into slots and out of them.
//!
//! A new member: mark, record, socket array, and then the table. A leaving member: the table, and the rest
//! when no program reads the old table. The caller holds the lock.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use sk_reuseport::maps::MapError;

use super::check::{can_be_borrowed, check_room};
use super::request::{Changes, Inherited, LeftOut};
use super::table;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::borrow;
use crate::kernel::caps;
use crate::kernel::observe::Observer;
use crate::kernel::sockets::Sockets;
use crate::model::group::{Group, Member, Protocol};
use crate::model::id::{Cookie, Slot, Weight};
use crate::model::membership::Occupant;
use crate::model::refusal;
use crate::model::selection::Program;
use crate::model::succession::{self, Role, Seat, Succession};
use crate::pins::group::GroupState;
use crate::pins::host_layer::HostLayer;
use crate::stop::Stop;
use crate::wire::host::NO_HOST_MEMBER;
use crate::wire::slot::{SlotRecord, Start};

/// Changes a group's state and the host-wide layer.
pub(crate) struct Enroller<'a> {
    pub(crate) state: &'a mut GroupState,
    pub(crate) layer: &'a mut HostLayer,
    pub(crate) stop: &'a Stop,
    /// How least-loaded starts with newcomers.
    pub(crate) start: Start,
    /// Weights of newcomers. They go before `roles`.
    pub(crate) weights: &'a [(Cookie, Weight)],
    /// Roles of newcomers; those not listed have that of the member before them, or the default.
    pub(crate) roles: &'a [(Cookie, Role)],
    /// Whether to go on without members that cannot be borrowed.
    pub(crate) partial: bool,
    pub(crate) observer: Arc<Observer>,
}

impl Enroller<'_> {
    /// Updates the slots: those of members that are gone are freed, and newcomers take them
    /// ([`succession`]).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Full`] before anything is changed; after any other one, newcomers are taken out again.
    pub(crate) fn sync(&mut self, group: &Group) -> Result<Changes> {
        check_room(group, self.state)?;
        let mut changes = Changes::default();
        let mut gone = self.gone(group)?;
        if self.state.occupied().count() > gone.len() {
            self.start = Start::Slow;
        }
        let newcomers = self.newcomers(group, &mut changes)?;
        if changes.kept == 0 && changes.enrolled.is_empty() {
            can_be_borrowed(group, &newcomers)?;
        }
        if !newcomers.is_empty() {
            // The newcomers take these slots.
            self.release(group, std::mem::take(&mut gone), &mut changes)?;
        }
        self.enrol_all(group, &newcomers, &gone, &mut changes)?;
        self.free(group, gone, &mut changes);
        Ok(changes)
    }

    /// Gives the members new indices in the host-wide layer, and marks their sockets: the layer in which
    /// they were counted is gone. The caller swaps the table.
    pub(crate) fn mark_again(&mut self, group: &Group) -> Result<()> {
        let occupied: Vec<(Slot, Cookie, SlotRecord)> = self.state.occupied().collect();
        for (slot, cookie, record) in occupied {
            let member = group.member(cookie).filter(|member| member.protocol == Protocol::Tcp);
            // One that cannot be borrowed is not counted.
            let borrowed = member.and_then(|member| Some((member, borrow::borrow(member).ok()?)));
            let host_member = match borrowed {
                Some((member, socket)) => match self.layer.allocate() {
                    Some((index, epoch)) => {
                        self.layer
                            .mark(socket.as_fd(), index, epoch)
                            .map_err(|error| self.failed(member, error))?;
                        index
                    }
                    None => NO_HOST_MEMBER,
                },
                None => NO_HOST_MEMBER,
            };
            self.state.set_record(slot, record.counted_as(host_member));
        }
        Ok(())
    }

    /// Takes all sockets out of the array. The program must not decide. Slots, weights and states stay for
    /// a later [`sync`](Self::sync), which puts the sockets back.
    pub(crate) fn empty(&mut self, group: &Group) {
        let occupied: Vec<(Slot, Cookie)> =
            self.state.occupied().map(|(slot, cookie, _)| (slot, cookie)).collect();
        if self.state.sockets.is_readable() {
            for (slot, _) in occupied {
                self.state.empty_slot(slot);
            }
        } else {
            // An empty slot of this array looks like any other one: the members are enrolled anew.
            self.free(group, occupied, &mut Changes::default());
        }
    }

    /// Takes members out again that an operation enrolled before it failed. Those that had their slot before keep
    /// its record.
    pub(crate) fn take_out(&mut self, group: &Group, changes: &Changes) -> Result<()> {
        let members: Vec<(Slot, &Member)> = self
            .state
            .occupied()
            .filter(|(_, cookie, _)| changes.enrolled.contains(cookie))
            .filter_map(|(slot, cookie, _)| Some((slot, group.member(cookie)?)))
            .collect();
        self.swap_table_without(&members.iter().map(|(slot, _)| *slot).collect())?;
        let had_slot = |(_, member): &(Slot, &Member)| {
            member.cookie.is_some_and(|c| changes.refilled.contains(&c))
        };
        let (refilled, newcomers): (Vec<_>, Vec<_>) = members.into_iter().partition(had_slot);
        for (slot, _) in refilled {
            self.state.empty_slot(slot);
        }
        self.take_back(&newcomers);
        Ok(())
    }

    /// The slots whose members are no longer in the group. The walk that listed it may have missed members,
    /// if sockets moved in the kernel's tables: a second one has to agree.
    fn gone(&self, group: &Group) -> Result<Vec<(Slot, Cookie)>> {
        let mut gone = self.state.left(group).map_err(|error| {
            Error::new(ErrorKind::System, format!("cannot read the slots of {}", group.key))
                .because(error)
        })?;
        if !gone.is_empty()
            && group.complete
            && let Some(listed) = self.observer.listed(&group.key)?
        {
            let still = listed.cookies();
            gone.retain(|(_, cookie)| !still.contains(cookie));
        }
        Ok(gone)
    }

    /// The members without a slot. One that stopped listening and listens again has a slot that the
    /// kernel has emptied: this fills it again.
    fn newcomers<'g>(
        &mut self,
        group: &'g Group,
        changes: &mut Changes,
    ) -> Result<Vec<&'g Member>> {
        let slots: HashMap<Cookie, Slot> =
            self.state.occupied().map(|(slot, cookie, _)| (cookie, slot)).collect();
        let mut newcomers = Vec::new();
        for member in &group.members {
            let Some(slot) = member.cookie.and_then(|cookie| slots.get(&cookie)) else {
                newcomers.push(member);
                continue;
            };
            match self.state.sockets.occupant(*slot).map_err(|error| self.failed(member, error))? {
                Occupant::None => self.refill(*slot, &group.key, member, changes)?,
                Occupant::Socket(_) | Occupant::Unknown => changes.kept += 1,
            }
        }
        Ok(newcomers)
    }

    /// Gives each newcomer a slot, and puts all of them into the table in one step, which also takes out
    /// the members that are `leaving`.
    fn enrol_all(
        &mut self,
        group: &Group,
        newcomers: &[&Member],
        leaving: &[(Slot, Cookie)],
        changes: &mut Changes,
    ) -> Result<()> {
        let now = self.now();
        let successions = succession::succeed(&self.seats(), newcomers.len());
        let (mut enrolled, mut inherited) = (Vec::new(), Vec::new());
        let mut next = successions.iter();
        for member in newcomers {
            let Some(succession) = next.as_slice().first() else { break };
            let Succession { slot, .. } = *succession;
            let result = self
                .stop
                .check("enrolling members")
                .and_then(|()| self.enrol(succession, now, member));
            match result {
                Ok(Role { weight, state }) => {
                    next.next();
                    enrolled.push((slot, *member));
                    if succession.succeeds && (Role { weight, state }) != Role::NEW {
                        let cookie = member.cookie;
                        inherited.extend(cookie.map(|cookie| Inherited {
                            cookie,
                            slot,
                            weight,
                            state,
                        }));
                    }
                }
                Err(why) if self.goes_on_without(&why) => {
                    changes.left_out.push(LeftOut::new(member, why));
                }
                Err(error) => {
                    self.take_back(&enrolled);
                    return Err(error);
                }
            }
        }
        if enrolled.is_empty() && changes.kept == 0 && changes.enrolled.is_empty() {
            // They have gone since.
            if let Some(LeftOut { why, .. }) = changes.left_out.pop() {
                return Err(why);
            }
        }
        // Sockets that the tables do not show cannot be missed there.
        if group.complete && group.key.protocol == Protocol::Udp {
            self.take_back_connected(group, &mut enrolled);
        }
        if let Err(error) = self.swap_table_without(&slots_of(leaving)) {
            self.take_back(&enrolled);
            return Err(error);
        }
        changes.enrolled.extend(enrolled.iter().filter_map(|(_, member)| member.cookie));
        inherited.retain(|one| changes.enrolled.contains(&one.cookie));
        changes.inherited.extend(inherited);
        Ok(())
    }

    /// Whether a member that could not be enrolled for this reason is left out, and the others are enrolled.
    pub(super) fn goes_on_without(&self, why: &Error) -> bool {
        match why.kind() {
            ErrorKind::Vanished => true,
            ErrorKind::Denied | ErrorKind::Unsupported => self.partial,
            _ => false,
        }
    }

    /// Takes back UDP sockets that were connected since they were listed. A server may bind a socket and
    /// connect it to one client: it must not get what others send.
    fn take_back_connected(&mut self, group: &Group, enrolled: &mut Vec<(Slot, &Member)>) {
        if enrolled.is_empty() {
            return;
        }
        // Without the right to look there would be no list either.
        let Ok(Some(listed)) = self.observer.listed(&group.key) else { return };
        let (stay, left): (Vec<_>, Vec<_>) =
            enrolled.drain(..).partition(|(_, member)| listed.has(member));
        *enrolled = stay;
        self.take_back(&left);
    }

    /// Gives a member its slot. Returns its weight and state.
    fn enrol(&mut self, succession: &Succession, now: u64, member: &Member) -> Result<Role> {
        let slot = succession.slot;
        let socket = borrow::borrow(member)?;
        let cookie = borrow::cookie_of(&socket)?;
        let generation =
            self.state.header().map_err(|error| self.failed(member, error))?.generation;
        let before = self.state.record(slot);
        let epoch = before.epoch.wrapping_add(1);
        let counted = member.protocol == Protocol::Tcp;
        let allocated = counted.then(|| self.layer.allocate()).flatten();
        let (host_member, host_epoch) = allocated.unwrap_or((NO_HOST_MEMBER, 0));
        let role = given_to(cookie, self.roles).unwrap_or(succession.role);
        let weight = given_to(cookie, self.weights).unwrap_or(role.weight);
        let role = Role { weight, ..role };
        let record = SlotRecord::occupied(cookie, epoch, host_member, generation, role)
            .entered(&before, now, succession);
        let mut steps = || -> Result<(), MapError> {
            if host_member != NO_HOST_MEMBER {
                self.layer.mark(socket.as_fd(), host_member, host_epoch)?;
            }
            if let Some(maps) = &mut self.state.policy_maps {
                maps.reset_slot(slot, epoch, member.sock_address.0)?;
            }
            self.state.set_record(slot, record);
            self.make_room(slot);
            self.fill(slot, socket.as_fd())
        };
        steps().map(|()| role).map_err(|error| {
            // `forget_slot` reads the record.
            self.state.set_record(slot, record);
            self.make_room(slot);
            self.forget_slot(slot, SlotRecord::taken_back);
            self.layer.unmark(socket.as_fd());
            self.failed(member, error)
        })
    }

    /// Empties a slot: the operation that freed it did so, unless that failed. A user's own map whose values
    /// have 4 bytes does not tell whether the socket in it is another group's, which stays.
    pub(super) fn make_room(&mut self, slot: Slot) {
        if self.state.policy_maps.is_some() || self.state.sockets.is_readable() {
            self.state.empty_slot(slot);
        }
    }

    /// Puts a socket into its slot.
    pub(super) fn fill(&mut self, slot: Slot, socket: BorrowedFd<'_>) -> Result<(), MapError> {
        self.state.fill(slot, socket)?;
        match &mut self.state.policy_maps {
            Some(maps) => maps.reset_limiter(slot, self.start),
            None => Ok(()),
        }
    }

    /// Takes enrolments back that no table names. One that stays in the array keeps its record, by which the next
    /// command finds it there.
    fn take_back(&mut self, enrolled: &[(Slot, &Member)]) {
        for (slot, member) in enrolled {
            if !self.state.empty_slot(*slot) {
                continue;
            }
            self.forget_slot(*slot, SlotRecord::taken_back);
            // A closed socket has no mark.
            if let Ok(socket) = borrow::borrow(member) {
                self.layer.unmark(socket.as_fd());
            }
        }
    }

    /// Takes members out of the table, waits, and frees their slots.
    fn release(
        &mut self,
        group: &Group,
        gone: Vec<(Slot, Cookie)>,
        changes: &mut Changes,
    ) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        self.swap_table_without(&slots_of(&gone))?;
        self.free(group, gone, changes);
        Ok(())
    }

    /// Frees slots that no table names any more.
    fn free(&mut self, group: &Group, gone: Vec<(Slot, Cookie)>, changes: &mut Changes) {
        if gone.is_empty() {
            return;
        }
        let now = self.now();
        let leaving: Vec<Slot> = gone.iter().map(|(slot, _)| *slot).collect();
        let (passed_on, counted) = succession::leave(&self.seats(), &leaving, now);
        for slot in counted {
            let mut record = self.state.record(slot);
            record.set_counted();
            self.state.set_record(slot, record);
        }
        for (slot, role) in passed_on {
            self.state.empty_slot_in(group, slot);
            self.forget_slot(slot, |record| record.vacated(now, role));
        }
        changes.released.extend(gone.into_iter().map(|(_, cookie)| cookie));
    }

    /// All slots, for the rules of succession.
    fn seats(&self) -> Vec<(Slot, Seat)> {
        self.state.all_slots().map(|slot| (slot, self.state.record(slot).seat())).collect()
    }

    /// The time since boot in milliseconds.
    fn now(&self) -> u64 {
        let now = clock_gettime(ClockId::Boottime);
        let part = |value: i64| u64::try_from(value).unwrap_or(0);
        part(now.tv_sec) * 1000 + part(now.tv_nsec) / 1_000_000
    }

    /// Frees a slot that no table names, and that is empty or has another group's socket: replaces its record.
    fn forget_slot(&mut self, slot: Slot, free: impl FnOnce(&SlotRecord) -> SlotRecord) {
        let record = self.state.record(slot);
        if let Some(maps) = &mut self.state.policy_maps {
            maps.clear_slot(slot);
        }
        let counted = record.cookie().is_some() && record.host_member != NO_HOST_MEMBER;
        if counted && self.state.is_in_layer(self.layer.id()) {
            self.layer.release(record.host_member);
        }
        self.state.set_record(slot, free(&record));
    }

    pub(super) fn swap_table(&mut self) -> Result<()> {
        self.swap_table_without(&HashSet::new())
    }

    fn swap_table_without(&mut self, leaving: &HashSet<Slot>) -> Result<()> {
        match self.state.program_kind()? {
            Some(Program::Selection(selection)) => {
                table::swap_without(self.state, selection.policy, leaving)
            }
            _ => Ok(()),
        }
    }

    /// Why a member could not be enrolled, with a hint.
    pub(super) fn failed(&self, member: &Member, error: MapError) -> Error {
        let failed = format!("cannot enrol {}", member.label());
        match caps::os_error(&error) {
            Some(Errno::BUSY) => Error::new(ErrorKind::Busy, failed).because(error),
            // A user's own map.
            Some(Errno::EXIST) => Error::new(ErrorKind::Invalid, failed)
                .because("a socket of another group is at its index of the object's map")
                .with_hint(refusal::OWN_MAP),
            // It stopped listening between listing and enrolment. A socket array returns EINVAL
            // (reuseport_array_update_check), a socket map EOPNOTSUPP (sock_map_sk_state_allowed).
            Some(Errno::INVAL | Errno::OPNOTSUPP) => {
                Error::new(ErrorKind::Vanished, failed).because(error)
            }
            _ => {
                let needed = match self.state.sockets {
                    Sockets::Array(_) => caps::LOADING,
                    Sockets::Map(_) => caps::SOCKET_MAPS,
                };
                caps::failed(&failed, error, needed)
            }
        }
    }
}

/// What a list gives to this member.
fn given_to<T: Copy>(member: Cookie, list: &[(Cookie, T)]) -> Option<T> {
    list.iter().find(|(of, _)| *of == member).map(|(_, given)| *given)
}

fn slots_of(members: &[(Slot, Cookie)]) -> HashSet<Slot> {
    members.iter().map(|(slot, _)| *slot).collect()
}
