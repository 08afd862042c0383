//! How a group's state changes: a table or a program is pinned next to the present one, comes into force in one
//! step, and only then takes its name. [`GroupState::settle`] completes a change that took effect, and drops all that
//! is pinned of one that did not: after a failure, and in the next command after a kill.

use std::collections::HashSet;

use sk_reuseport::programs::SkReuseport;

use super::followed;
use super::group::GroupState;
use super::instance::{self, Instance};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::caps;
use crate::model::group::Group;
use crate::model::id::{Cookie, Slot};
use crate::model::roster::{Record, Roster};
use crate::model::table::Table;
use crate::wire::header::SCHEMA;
use crate::wire::setup::Setup;

/// What [`GroupState::settle`] dropped.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    /// Members that were taken out of the socket array.
    pub(crate) members: Vec<Cookie>,
    /// Members that have lost an index in a host-wide layer, which the setup names.
    pub(crate) host_members: Vec<(Setup, u32, Cookie)>,
}

impl GroupState {
    /// Pins a table that is to take the place of the present one. Its members may enter the socket array then.
    pub(crate) fn announce(&mut self, roster: Roster, table: &Table) -> Result<()> {
        let (base, capacity) = (self.pins(), self.capacity());
        self.instance.announce(&base, capacity, roster, table)
    }

    /// Puts the announced table into force. When this returns, no program reads the old one.
    pub(crate) fn swap(&mut self) -> Result<()> {
        // Newcomers have entered already, and those who leave are still there.
        let next = self.instance.next_roster().unwrap_or(&self.instance.roster);
        followed::tell(&self.followed, next)?;
        let swapped = self.instance.swap();
        swapped.map_err(|error| caps::failed("cannot change the table", error, caps::LOADING))
    }

    /// Puts the announced table into force, for good.
    pub(crate) fn commit(&mut self) -> Result<()> {
        self.swap()?;
        self.adopt();
        Ok(())
    }

    /// Drops the announced table, none of whose members has entered.
    pub(crate) fn withdraw(&mut self) -> Result<()> {
        let base = self.pins();
        self.instance.take_back(&base)
    }

    /// Makes the announced table the present one.
    pub(crate) fn adopt(&mut self) {
        let base = self.pins();
        // If its pin cannot be renamed this time, the next command does it.
        if let Err(error) = self.instance.adopt(&base) {
            tracing::debug!("{}", error.report());
        }
    }

    /// The number of another instance.
    pub(crate) fn next_number(&self) -> u32 {
        self.instances().map(Instance::number).max().unwrap_or(0) + 1
    }

    /// Pins another instance next to the present one. It is the present one as soon as its program is attached.
    pub(crate) fn add(&mut self, mut instance: Instance, program: &mut SkReuseport) -> Result<()> {
        let base = self.pins();
        // Maps that the state lacked are the program's from here on.
        let maps = self.policy_maps.as_ref().map_or(Ok(()), |maps| maps.pin(&base));
        maps.map_err(|error| {
            Error::new(ErrorKind::System, "cannot pin the state of the group").because(error)
        })?;
        let pinned = instance.pin(&base, program);
        self.others.push(instance);
        pinned
    }

    /// Makes the state that of the `attached` program: its instance is the present one, and of its tables the one in
    /// force. Drops the rest: its pins, and the members that entered the socket array for it. Without the program
    /// attached, that is what a change began.
    pub(crate) fn settle(&mut self, group: &Group, attached: Option<u32>) -> Result<Dropped> {
        const FAILED: &str = "cannot settle the state of the group";

        let failed = |error| caps::failed(FAILED, error, caps::LOADING);
        let base = self.pins();
        let is_attached = |i: &Instance| attached.is_some() && i.program_id() == attached;
        if let Some(at) = self.others.iter().rposition(is_attached)
            && (!is_attached(&self.instance) || self.others[at].number() > self.instance.number())
        {
            std::mem::swap(&mut self.instance, &mut self.others[at]);
        }
        if is_attached(&self.instance) {
            self.instance.show_in_force().map_err(failed)?;
        }
        self.instance.adopt_shown(&base)?;
        // Before members leave the array, as in every change.
        if self.is_trusted() {
            followed::tell(&self.followed, &self.instance.roster)?;
        }
        // While a member is in the array, a pinned table says so.
        let host_members = self.dropped_host_members();
        let members = self.take_out_dropped(group)?;
        self.instance.take_back(&base)?;
        for other in std::mem::take(&mut self.others) {
            other.unpin(&base)?;
        }
        instance::remove_incomplete(&base)?;
        if self.header.schema != SCHEMA && !self.instance.is_of_previous_schema() {
            let header = self.header.converted();
            self.header_map.set(0, header, 0).map_err(failed)?;
            self.header = header;
        }
        Ok(Dropped { members, host_members })
    }

    /// The instances and rosters that are not in force.
    fn dropped(&self) -> impl Iterator<Item = (&Instance, &Roster)> {
        let others = self.others.iter().flat_map(|other| other.rosters().map(move |r| (other, r)));
        others.chain(self.instance.next_roster().map(|roster| (&self.instance, roster)))
    }

    fn dropped_host_members(&self) -> Vec<(Setup, u32, Cookie)> {
        let index_of =
            |(_, cookie, record): (Slot, Cookie, Record)| Some((record.host_member?, cookie));
        let present: HashSet<u32> =
            self.instance.roster.occupied().filter_map(index_of).map(|(index, _)| index).collect();
        let dropped = self.dropped().flat_map(|(instance, roster)| {
            let indices = roster.occupied().filter_map(index_of);
            indices.map(|(index, cookie)| (instance.setup, index, cookie))
        });
        let is_present = |(setup, index, _): &(Setup, u32, Cookie)| {
            present.contains(index) && setup.same_layer(&self.instance.setup)
        };
        dropped.filter(|one| !is_present(one)).collect()
    }

    /// Takes members out of the socket array that the table in force does not name.
    fn take_out_dropped(&mut self, group: &Group) -> Result<Vec<Cookie>> {
        let present = &self.instance.roster;
        let mut entered: Vec<_> =
            self.dropped().flat_map(|(_, roster)| roster.not_in(present)).collect();
        entered.retain(|(slot, _)| present.record(*slot).cookie.is_none());
        for (slot, cookie) in &entered {
            if !self.empty_slot_of(group, *slot, *cookie) {
                return Err(Error::new(ErrorKind::System, format!("cannot empty slot {slot}")));
            }
        }
        Ok(entered.into_iter().map(|(_, cookie)| cookie).collect())
    }
}
