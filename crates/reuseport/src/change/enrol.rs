//! Enrolment: members into slots and out of them.
//!
//! A new member: the announced table, mark, socket array, and then the table into force. A leaving member: the table
//! without it, and the rest when no program reads the old one. The caller holds the lock.

use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::io::Errno;
use sk_reuseport::maps::MapError;

use super::check::{can_be_borrowed, check_room};
use super::request::{Attach, Changes, Inherited, LeftOut};
use super::table;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::borrow;
use crate::kernel::caps;
use crate::kernel::clock::since_boot;
use crate::kernel::observe::Observer;
use crate::kernel::sockets::Sockets;
use crate::model::group::{Group, Member, Protocol};
use crate::model::held;
use crate::model::hold_new::HoldNew;
use crate::model::id::{Cookie, Percent, Slot};
use crate::model::lineage::{Began, Standing};
use crate::model::plan::{self, Build, Draft, Enrolment, Entering, Newcomer, Wishes};
use crate::model::refusal;
use crate::model::roster::{Record, Roster};
use crate::model::selection::Program;
use crate::pins::group::GroupState;
use crate::pins::host_layer::HostLayer;
use crate::stop::Stop;
use crate::wire::slot::Start;

/// How members enter a group's slots.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admission<'a> {
    pub(super) request: &'a Attach,
    /// The program that will decide.
    pub(super) program: Program,
    /// What members have already, in a state that this one replaces.
    pub(super) known: &'a [(Cookie, Record)],
    /// Whether newcomers wait, and for what; `None`: as in the state.
    pub(super) hold_new: Option<HoldNew>,
    /// What those on trial got in a state that this one replaces.
    pub(super) trial: Option<Percent>,
}

impl<'a> Admission<'a> {
    /// Into the slots of a new program.
    pub(super) fn new(request: &'a Attach, build: &'a Build) -> Self {
        let (known, hold_new) = (&build.kept.members, Some(build.kept.hold_new));
        let hold_new = request.hold_new.or(hold_new);
        Self { request, program: build.program.kind(), known, hold_new, trial: build.kept.trial }
    }

    /// Into the slots that there are.
    pub(super) fn again(request: &'a Attach, program: Program) -> Self {
        Self { request, program, known: &[], hold_new: request.hold_new, trial: None }
    }
}

/// Changes a group's state and the host-wide layer.
pub(crate) struct Enroller<'a> {
    pub(crate) group: &'a Group,
    pub(crate) state: &'a mut GroupState,
    /// `None`: open connections are not counted.
    pub(crate) layer: Option<&'a mut HostLayer>,
    pub(crate) stop: &'a Stop,
    /// How least-loaded starts with newcomers.
    pub(crate) start: Start,
    pub(crate) wishes: Wishes<'a>,
    /// Whether to go on without members that cannot be borrowed.
    pub(crate) partial: bool,
    pub(crate) observer: &'a Observer,
}

/// A member that is to get a slot.
struct Arrival<'g> {
    member: &'g Member,
    cookie: Cookie,
    /// Its index and epoch in the host-wide layer.
    counted: Option<(u32, u32)>,
    /// The slot that it is in.
    filled: Option<Slot>,
}

impl<'a> Enroller<'a> {
    /// Frees the slots of members that are gone, and puts newcomers into slots. They are in the announced table: the
    /// caller puts it into force. If that or this fails, [settling](GroupState::settle) takes them out again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Full`] before anything is changed.
    pub(crate) fn sync(&mut self) -> Result<Changes> {
        check_room(self.group, self.state)?;
        let Enrolment { leaving, returning, newcomers, kept } = self.plan()?;
        let mut changes = Changes { kept, ..Changes::default() };
        if self.state.occupied().count() > leaving.len() {
            self.start = Start::Slow;
        }
        for (slot, member) in returning {
            self.refill(slot, member, &mut changes)?;
        }
        if changes.kept == 0 && changes.enrolled.is_empty() {
            can_be_borrowed(self.group, &newcomers)?;
        }
        self.release(leaving, &mut changes)?;
        self.enter(&newcomers, &mut changes)?;
        Ok(changes)
    }

    /// Who leaves, who stays, and who is to get a slot. The walk that listed the group may have missed members, if
    /// sockets moved in the kernel's tables: a second one has to agree before a slot is freed.
    fn plan(&self) -> Result<Enrolment<'a>> {
        let group = self.group;
        let slots = self.state.content().map_err(|error| {
            Error::new(ErrorKind::System, format!("cannot read the slots of {}", group.key))
                .because(error)
        })?;
        let mut enrolment = plan::enrolment(group, &slots, self.state.sockets.emptied());
        if !enrolment.leaving.is_empty()
            && group.complete
            && let Some(listed) = self.observer.listed(&group.key)?
        {
            let still = listed.cookies();
            enrolment.leaving.retain(|(_, cookie)| !still.contains(cookie));
        }
        Ok(enrolment)
    }

    /// The layer in which this group's connections are counted.
    pub(super) fn counting(&mut self) -> Option<&mut HostLayer> {
        let layer = self.layer.as_deref_mut()?;
        self.state.is_in_layer(layer.id()).then_some(layer)
    }

    /// Takes all sockets out of the array. The program must not decide. Slots, weights and states stay for
    /// a later [`sync`](Self::sync), which puts the sockets back.
    pub(crate) fn empty(&mut self) -> Result<()> {
        let occupied: Vec<(Slot, Cookie)> =
            self.state.occupied().map(|(slot, cookie, _)| (slot, cookie)).collect();
        if !self.state.sockets.is_readable() {
            // An empty slot of this array looks like any other one: the members are enrolled anew.
            return self.release(occupied, &mut Changes::default());
        }
        for (slot, cookie) in occupied {
            self.state.empty_slot(slot, cookie);
        }
        Ok(())
    }

    /// Takes members out of the table, waits until no program reads the old one, and frees their slots.
    fn release(&mut self, gone: Vec<(Slot, Cookie)>, changes: &mut Changes) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        let before = self.state.instance.roster.clone();
        let mut roster = before.clone();
        let slots: Vec<Slot> = gone.iter().map(|(slot, _)| *slot).collect();
        roster.leave(&slots, since_boot());
        table::commit(self.state, roster)?;
        for (slot, cookie) in gone {
            self.state.empty_slot_of(self.group, slot, cookie);
            if let Some(maps) = &mut self.state.policy_maps {
                maps.clear_slot(slot);
            }
            if let (Some(index), Some(layer)) = (before.record(slot).host_member, self.counting()) {
                layer.release(index);
            }
            changes.released.push(cookie);
        }
        Ok(())
    }

    /// Puts newcomers into slots, and announces the table with them and with what the request wants of the others.
    fn enter(&mut self, newcomers: &[&'a Member], changes: &mut Changes) -> Result<()> {
        let mut arrivals = self.identify(newcomers, changes)?;
        let entered = self.enter_all(&mut arrivals, changes);
        if entered.is_err() && !self.state.sockets.is_readable() {
            // Settling cannot tell whether they are in their slots, or sockets of another group.
            self.withdraw(&mut arrivals)?;
        }
        entered
    }

    fn enter_all(&mut self, arrivals: &mut Vec<Arrival<'_>>, changes: &mut Changes) -> Result<()> {
        let now = since_boot();
        let awaited = self.awaited(arrivals)?;
        loop {
            let Draft { roster, entering, taken_in } = self.draft(arrivals, &awaited, now);
            arrivals.truncate(entering.len());
            if arrivals.is_empty() && changes.kept == 0 && changes.enrolled.is_empty() {
                // They have gone since.
                if let Some(LeftOut { why, .. }) = changes.left_out.pop() {
                    return Err(why);
                }
            }
            let announced = self.state.instance.next_roster();
            if announced.is_some() || roster != self.state.instance.roster {
                table::announce(self.state, roster.clone())?;
            }
            let mut left = self.fill_all(arrivals, &entering, &roster, changes)?;
            if left.is_empty() {
                left = self.connected(arrivals);
            }
            if left.is_empty() {
                changes.enrolled.extend(arrivals.iter().map(|arrival| arrival.cookie));
                let inherited = |one: &Entering| Inherited {
                    cookie: one.cookie,
                    slot: one.slot,
                    weight: one.role.weight,
                    state: one.role.state,
                };
                let inherits = entering.iter().filter(|one| one.inherits);
                changes.inherited.extend(inherits.map(inherited));
                let entered = |as_what| {
                    let those = entering.iter().filter(move |one| one.standing == as_what);
                    those.map(|one| one.cookie)
                };
                changes.on_standby.extend(entered(Standing::Standby));
                changes.held.extend(entered(Standing::Held));
                changes.taken_in = taken_in;
                changes.still_held = held::sockets(&roster, self.group);
                return Ok(());
            }
            for arrival in arrivals.iter_mut().filter(|arrival| left.contains(&arrival.cookie)) {
                self.take_out(arrival)?;
                if let (Some((index, _)), Some(layer)) = (arrival.counted, self.counting()) {
                    layer.release(index);
                }
            }
            arrivals.retain(|arrival| !left.contains(&arrival.cookie));
        }
    }

    /// Takes the arrivals out again, and drops the announced table.
    fn withdraw(&mut self, arrivals: &mut [Arrival<'_>]) -> Result<()> {
        arrivals.iter_mut().try_for_each(|arrival| self.take_out(arrival))?;
        self.state.withdraw()
    }

    /// The newcomers and the members that are held for which a thread waits, if that decides whether they serve.
    fn awaited(&self, arrivals: &[Arrival<'_>]) -> Result<Vec<Cookie>> {
        let roster = &self.state.instance.roster;
        let hold_new = self.wishes.hold_new.unwrap_or(roster.hold_new());
        if hold_new != HoldNew::Accepting {
            return Ok(Vec::new());
        }
        let mut sockets = held::sockets(roster, self.group);
        let newcomers = arrivals.iter();
        sockets.extend(newcomers.map(|arrival| (arrival.cookie, arrival.member.sock_address)));
        let seen = match sockets.is_empty() {
            true => Vec::new(),
            false => self.observer.awaited(&sockets)?,
        };
        // A thread that was seen a moment ago may be at work now.
        Ok([&seen, self.wishes.awaited].concat())
    }

    fn draft(&self, arrivals: &[Arrival<'_>], awaited: &[Cookie], now: u64) -> Draft {
        let newcomers: Vec<Newcomer> = arrivals
            .iter()
            .map(|arrival| Newcomer {
                cookie: arrival.cookie,
                host_member: arrival.counted.map(|(index, _)| index),
                began: Began::of(arrival.member),
            })
            .collect();
        let server = |member: &Member| Some((member.cookie?, Began::of(member)?));
        let servers: Vec<(Cookie, Began)> = self.group.members.iter().filter_map(server).collect();
        let wishes = Wishes { servers: &servers, awaited, ..self.wishes };
        plan::draft(&self.state.instance.roster, &newcomers, wishes, now)
    }

    /// The newcomers with their cookies, and with indices in the host-wide layer.
    fn identify<'g>(
        &mut self,
        newcomers: &[&'g Member],
        changes: &mut Changes,
    ) -> Result<Vec<Arrival<'g>>> {
        let mut arrivals = Vec::with_capacity(newcomers.len());
        for member in newcomers {
            // The kernel makes a cookie when it is first asked for.
            let cookie = match member.cookie {
                Some(cookie) => Ok(cookie),
                None => borrow::borrow(member).and_then(borrow::cookie_of),
            };
            match cookie {
                Ok(cookie) => {
                    let counted = self.counting().and_then(|layer| layer.allocate());
                    arrivals.push(Arrival { member, cookie, counted, filled: None });
                }
                Err(why) if self.goes_on_without(&why) => {
                    changes.left_out.push(LeftOut::new(member, why));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(arrivals)
    }

    /// Puts the arrivals into their slots. Returns those that it goes on without.
    fn fill_all(
        &mut self,
        arrivals: &mut [Arrival<'_>],
        entering: &[Entering],
        roster: &Roster,
        changes: &mut Changes,
    ) -> Result<Vec<Cookie>> {
        let moves = |(arrival, one): &(&mut Arrival<'_>, &Entering)| {
            arrival.filled.is_some_and(|slot| slot != one.slot)
        };
        for (arrival, _) in arrivals.iter_mut().zip(entering).filter(moves) {
            self.take_out(arrival)?;
        }
        let mut left = Vec::new();
        let missing = |(arrival, _): &(&mut Arrival<'_>, &Entering)| arrival.filled.is_none();
        for (arrival, Entering { slot, .. }) in arrivals.iter_mut().zip(entering).filter(missing) {
            let stopped = self.stop.check("enrolling members");
            let epoch = roster.record(*slot).epoch;
            let admitted = stopped.and_then(|()| self.admit(arrival, *slot, epoch));
            match admitted {
                Ok(()) => arrival.filled = Some(*slot),
                Err(why) if self.goes_on_without(&why) => {
                    changes.left_out.push(LeftOut::new(arrival.member, why));
                    left.push(arrival.cookie);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(left)
    }

    /// Marks a member's socket and puts it into its slot, which no table in force names.
    fn admit(&mut self, arrival: &Arrival<'_>, slot: Slot, epoch: u32) -> Result<()> {
        let member = arrival.member;
        let socket = borrow::borrow(member)?;
        let mut steps = || -> Result<(), MapError> {
            if let (Some((index, epoch)), Some(layer)) = (arrival.counted, self.counting()) {
                layer.mark(socket.as_fd(), index, epoch)?;
            }
            if let Some(maps) = &mut self.state.policy_maps {
                maps.reset_slot(slot, epoch, member.sock_address.0)?;
            }
            self.make_room(slot, arrival.cookie);
            self.fill(slot, socket.as_fd())
        };
        steps().map_err(|error| {
            self.make_room(slot, arrival.cookie);
            self.unmark(socket.as_fd());
            self.failed(member, error)
        })
    }

    /// Takes an arrival out of its slot and removes its mark.
    fn take_out(&mut self, arrival: &mut Arrival<'_>) -> Result<()> {
        let Some(slot) = arrival.filled.take() else { return Ok(()) };
        if !self.state.empty_slot(slot, arrival.cookie) {
            return Err(Error::new(ErrorKind::System, format!("cannot empty slot {slot}")));
        }
        // A closed socket has no mark.
        if let Ok(socket) = borrow::borrow(arrival.member) {
            self.unmark(socket.as_fd());
        }
        Ok(())
    }

    fn unmark(&mut self, socket: BorrowedFd<'_>) {
        if let Some(layer) = self.counting() {
            layer.unmark(socket);
        }
    }

    /// Whether a member that could not be enrolled for this reason is left out, and the others are enrolled.
    pub(super) fn goes_on_without(&self, why: &Error) -> bool {
        match why.kind() {
            ErrorKind::Vanished => true,
            ErrorKind::Denied | ErrorKind::Unsupported => self.partial,
            _ => false,
        }
    }

    /// UDP sockets that were connected since they were listed. A server may bind a socket and
    /// connect it to one client: it must not get what others send.
    fn connected(&self, arrivals: &[Arrival<'_>]) -> Vec<Cookie> {
        let group = self.group;
        // Sockets that the tables do not show cannot be missed there.
        if arrivals.is_empty() || !group.complete || group.key.protocol != Protocol::Udp {
            return Vec::new();
        }
        // Without the right to look there would be no list either.
        let Ok(Some(listed)) = self.observer.listed(&group.key) else { return Vec::new() };
        let left = arrivals.iter().filter(|arrival| !listed.has(arrival.member));
        left.map(|arrival| arrival.cookie).collect()
    }

    /// Empties a slot: the operation that freed it did so, unless that failed. A user's own map whose values
    /// have 4 bytes does not tell whether the socket in it is another group's, which stays.
    pub(super) fn make_room(&mut self, slot: Slot, cookie: Cookie) {
        if self.state.policy_maps.is_some() || self.state.sockets.is_readable() {
            self.state.empty_slot(slot, cookie);
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
                    _ => caps::SOCKET_MAPS,
                };
                caps::failed(&failed, error, needed)
            }
        }
    }
}
