//! Members into slots and out of them, and the table that follows from it.
//!
//! Coming: mark, record, socket array, and only then the table. Going: the table first, then, once
//! no program reads the old one, the rest. The caller has the lock.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd as _;

use sk_reuseport::maps::MapError;

use crate::foreign;
use crate::group::{Group, Member};
use crate::id::{Cookie, Slot, Weight};
use crate::state::group::GroupState;
use crate::state::host::HostLayer;
use crate::state::layout::{Decider, NO_HOST_MEMBER, SlotRecord};
use crate::steer::Occupant;
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
}

impl Enroller<'_> {
    /// Makes the slots agree with the group as it is: newcomers get one, gone members free theirs.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Full`] before anything is changed; any other one after newcomers were taken
    /// out again.
    pub(crate) fn sync(&mut self, group: &Group) -> Result<Changes> {
        let capacity = self.state.all_slots().count();
        if group.members.len() > capacity {
            return Err(Error::new(
                ErrorKind::Full,
                format!("cannot enrol the members of {}", group.key),
            )
            .because(format!("{} members, {capacity} slots", group.members.len()))
            .remedy("choose a larger `--slots`; a group that is attached must be detached first"));
        }
        let mut changes = Changes::default();
        let mut gone = self.gone(group);
        let newcomers = self.newcomers(group, &mut changes)?;
        if newcomers.len() > capacity - self.state.occupied().count() {
            // Their slots are needed.
            self.release(std::mem::take(&mut gone), &mut changes)?;
        }
        self.enrol_all(&newcomers, &mut changes)?;
        self.release(gone, &mut changes)?;
        Ok(changes)
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
            match self.state.sockets.occupant(*slot).map_err(|error| failed(member, error))? {
                Occupant::Nobody => self.refill(*slot, member, changes)?,
                Occupant::Socket(_) | Occupant::Unknown => changes.kept += 1,
            }
        }
        Ok(newcomers)
    }

    fn refill(&mut self, slot: Slot, member: &Member, changes: &mut Changes) -> Result<()> {
        match foreign::borrow(member) {
            Ok(socket) => {
                self.state
                    .sockets
                    .set(slot, socket.as_fd())
                    .map_err(|error| failed(member, error))?;
                changes.enrolled.push(member.cookie);
            }
            Err(why) if why.kind() == ErrorKind::Vanished => {
                changes.left_out.push(LeftOut { cookie: member.cookie, why });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Gives each a slot, and puts them into the table together.
    fn enrol_all(&mut self, newcomers: &[&Member], changes: &mut Changes) -> Result<()> {
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
                Ok(()) => enrolled.push((slot, member.cookie)),
                Err(why) if why.kind() == ErrorKind::Vanished => {
                    changes.left_out.push(LeftOut { cookie: member.cookie, why });
                }
                Err(error) => {
                    self.take_back(&enrolled);
                    return Err(error);
                }
            }
        }
        if let Err(error) = self.swap_table() {
            self.take_back(&enrolled);
            return Err(error);
        }
        changes.enrolled.extend(enrolled.iter().map(|(_, cookie)| *cookie));
        Ok(())
    }

    fn enrol(&mut self, slot: Slot, member: &Member) -> Result<()> {
        let socket = foreign::borrow(member)?;
        let generation = self.state.header().map_err(|error| failed(member, error))?.generation;
        let epoch = self.state.record(slot).epoch.wrapping_add(1);
        let (host_member, host_epoch) = self.layer.allocate().unwrap_or((NO_HOST_MEMBER, 0));
        let record =
            SlotRecord::occupied(member.cookie, epoch, host_member, generation, Weight::DEFAULT);
        let mut steps = || -> Result<(), MapError> {
            if host_member != NO_HOST_MEMBER {
                self.layer.mark(socket.as_fd(), host_member, host_epoch)?;
            }
            if let Some(maps) = &mut self.state.policy_maps {
                maps.forget_picks(slot)?;
            }
            self.state.set_address(slot, member.sock_address)?;
            self.state.set_record(slot, record);
            self.state.sockets.set(slot, socket.as_fd())
        };
        steps().map_err(|error| {
            self.vacate(slot);
            self.layer.unmark(socket.as_fd());
            failed(member, error)
        })
    }

    /// Undoes enrolments that never got into the table.
    fn take_back(&mut self, enrolled: &[(Slot, Cookie)]) {
        for (slot, _) in enrolled {
            self.vacate(*slot);
        }
    }

    /// Takes members out of the table, waits, and frees their slots.
    fn release(&mut self, gone: Vec<(Slot, Cookie)>, changes: &mut Changes) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        let leaving: HashSet<Slot> = gone.iter().map(|(slot, _)| *slot).collect();
        self.swap_table_without(&leaving)?;
        for (slot, cookie) in gone {
            self.vacate(slot);
            changes.released.push(cookie);
        }
        Ok(())
    }

    /// Frees a slot that no table names.
    fn vacate(&mut self, slot: Slot) {
        let record = self.state.record(slot);
        self.state.sockets.clear(slot);
        // Nothing is behind that address any more; a failure leaves it for the next member to
        // overwrite.
        let _ = self.state.set_address(slot, 0);
        if record.cookie().is_some() && record.host_member != NO_HOST_MEMBER {
            self.layer.release(record.host_member);
        }
        self.state.set_record(slot, SlotRecord::free(record.epoch));
    }

    /// Builds the table that follows from the records and puts it into force.
    pub(crate) fn swap_table(&mut self) -> Result<()> {
        self.swap_table_without(&HashSet::new())
    }

    fn swap_table_without(&mut self, leaving: &HashSet<Slot>) -> Result<()> {
        let tried = "cannot change the table";
        let header = self
            .state
            .header()
            .map_err(|error| Error::new(ErrorKind::System, tried).because(error))?;
        let Some(Decider::Policy { policy, .. }) = header.decider() else { return Ok(()) };
        let shares: Vec<Share> = self
            .state
            .occupied()
            .filter(|(slot, ..)| !leaving.contains(slot))
            .map(|(slot, _, record)| Share { slot, weight: record.weight(), state: record.state() })
            .collect();
        let table = Table::build(&shares, policy.fill(header.seed), self.state.capacity());
        match &mut self.state.policy_maps {
            Some(maps) => {
                maps.swap_in(&table).map_err(|error| rights::failed(tried, error, rights::LOADING))
            }
            None => Ok(()),
        }
    }
}

/// Why a member could not be enrolled, with what can be done about it.
fn failed(member: &Member, error: MapError) -> Error {
    use rustix::io::Errno;

    let tried = format!("cannot enrol socket {}", member.cookie);
    match rights::os_error(&error) {
        Some(Errno::BUSY) => Error::new(ErrorKind::Busy, tried).because(error),
        // It stopped listening, or was closed, between listing and enrolment.
        Some(Errno::INVAL) => Error::new(ErrorKind::Vanished, tried).because(error),
        _ => rights::failed(&tried, error, rights::SOCKET_MAPS),
    }
}
