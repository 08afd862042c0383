//! Changes the weights and states of members: carries out what is [planned](crate::model::plan::change_members).

use super::request::MemberChange;
use super::table;
use super::transaction::Transaction;
use crate::error::Result;
use crate::model::plan::{self, Operation, RoleChange};
use crate::model::refusal::not_attached;
use crate::model::table::Share;

impl Transaction<'_> {
    /// Changes weights and states, all or none, in one step for the traffic. Returns the new weights and
    /// states of all members.
    pub(crate) fn change_members(mut self, changes: &[MemberChange]) -> Result<Vec<Share>> {
        let shares = self.try_change_members(changes);
        shares.map_err(|error| self.told(error))
    }

    fn try_change_members(&mut self, changes: &[MemberChange]) -> Result<Vec<Share>> {
        let changes: Vec<RoleChange> =
            changes.iter().map(|c| (c.slot, c.member, c.weight, c.state)).collect();
        let present = self.find_deciding()?;
        let roles = self.plan(Operation::ChangeMembers, &present, |observed, recorded| {
            plan::change_members(observed, recorded, &changes)
        })?;
        let Some(mut state) = present.state else { return Err(not_attached(&self.group.key)) };
        self.convert(&mut state)?;
        let mut roster = state.instance.roster.clone();
        roster.assign_all(&roles);
        match table::commit(&mut state, roster) {
            Ok(()) => Ok(state.instance.roster.shares()),
            Err(error) => {
                self.fall_back(&mut state);
                Err(error)
            }
        }
    }
}
