//! Changes the weights and states of members: carries out what is [planned](crate::model::plan::change_members).

use super::request::MemberChange;
use super::table;
use super::transaction::Transaction;
use crate::error::Result;
use crate::model::group::GroupKey;
use crate::model::plan::{self, Operation, RoleChange};
use crate::model::refusal::not_attached;
use crate::model::table::Share;

impl Transaction {
    /// Changes weights and states, all or none, in one step for the traffic. Returns the new weights and
    /// states of all members.
    pub(crate) fn change_members(
        mut self,
        key: &GroupKey,
        changes: &[MemberChange],
    ) -> Result<Vec<Share>> {
        let group = self.group(key)?.clone();
        let changes: Vec<RoleChange> =
            changes.iter().map(|c| (c.slot, c.member, c.weight, c.state)).collect();
        let present = self.find_deciding(&group)?;
        let roles = present.plan(Operation::ChangeMembers, |observed, recorded| {
            plan::change_members(observed, recorded, &changes)
        })?;
        let Some(mut state) = present.state else { return Err(not_attached(key)) };
        self.convert(&group, &mut state)?;
        let mut roster = state.instance.roster.clone();
        roster.assign_all(&roles);
        match table::commit(&mut state, roster) {
            Ok(()) => Ok(state.instance.roster.shares()),
            Err(error) => {
                self.fall_back(&group, &mut state);
                Err(error)
            }
        }
    }
}
