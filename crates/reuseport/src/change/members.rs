//! Changes the weights and states of members.

use super::request::MemberChange;
use super::settle::settle;
use super::table;
use super::transaction::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::model::group::GroupKey;
use crate::model::id::{Cookie, Slot, Weight};
use crate::model::refusal::{another_program, another_users_state, not_attached};
use crate::model::selection::Program;
use crate::model::table::Share;
use crate::pins::group::GroupState;
use crate::pins::steering::steering;
use crate::wire::slot::SlotRecord;

impl Transaction {
    /// Changes weights and states, all or none, in one step for the traffic. Returns the new weights and
    /// states of all members.
    pub(crate) fn change_members(
        self,
        key: &GroupKey,
        changes: &[MemberChange],
    ) -> Result<Vec<Share>> {
        let group = self.group(key)?.clone();
        let (steering, state) = steering(&group, Some(&self.root))?;
        let failed = || format!("cannot change the members of {key}");
        let mut state = match (steering, state, &group.program) {
            (_, Some(state), _) if !state.is_trusted() => {
                return Err(another_users_state(key, state.owner(), "change the members of"));
            }
            (_, Some(state), _) => state,
            (now, None, Some(program)) => {
                return Err(another_program(key, &now, program, "change the members of"));
            }
            _ => return Err(not_attached(key)),
        };
        settle(&mut state, group.attached_id())?;
        let Some(Program::Selection(selection)) = state.program_kind()? else {
            return Err(Error::new(ErrorKind::Invalid, failed()).because(
                "the user's own program decides there, and it knows neither weights nor states",
            ));
        };
        let mut records: Vec<(Slot, SlotRecord, SlotRecord)> = Vec::new();
        for MemberChange { slot, member, weight, state: to } in changes {
            let old = state.record(*slot);
            if old.cookie().is_none() {
                return Err(Error::new(ErrorKind::NotFound, failed())
                    .because(format!("slot {slot} has no member"))
                    .with_hint(format!(
                        "`reuseport show {key}` lists the members with their slots"
                    )));
            }
            if let Some(member) = member
                && old.cookie() != Some(*member)
            {
                return Err(Error::new(ErrorKind::Vanished, failed())
                    .because(format!("slot {slot} went to another member meanwhile"))
                    .with_hint("nothing was changed; try again"));
            }
            if !records.iter().any(|(known, ..)| known == slot) {
                records.push((*slot, old, old));
            }
            for (_, _, new) in records.iter_mut().filter(|(known, ..)| known == slot) {
                weight.iter().for_each(|weight| new.set_weight(*weight));
                to.iter().for_each(|to| new.set_state(*to));
            }
        }
        records.iter().for_each(|(slot, _, new)| state.set_record(*slot, *new));
        let result = table::swap(&mut state, selection.policy);
        if result.is_err() {
            records.iter().for_each(|(slot, old, _)| state.set_record(*slot, *old));
        }
        result.map(|()| table::shares(&state))
    }

    /// Applies the weights of an attachment to members that have a slot. Returns the records that it
    /// changed, as they were.
    pub(super) fn set_weights(
        state: &mut GroupState,
        weights: &[(Cookie, Weight)],
    ) -> Result<Vec<(Slot, SlotRecord)>> {
        if weights.is_empty() {
            return Ok(Vec::new());
        }
        let Some(Program::Selection(selection)) = state.program_kind()? else {
            return Ok(Vec::new());
        };
        let wanted = |cookie| Some(weights.iter().find(|(of, _)| *of == cookie)?.1);
        let changed: Vec<(Slot, SlotRecord, Weight)> = state
            .occupied()
            .filter_map(|(slot, cookie, record)| Some((slot, record, wanted(cookie)?)))
            .filter(|(_, record, weight)| record.weight() != *weight)
            .collect();
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        for (slot, record, weight) in &changed {
            let mut record = *record;
            record.set_weight(*weight);
            state.set_record(*slot, record);
        }
        let result = table::swap(state, selection.policy);
        if result.is_err() {
            changed.iter().for_each(|(slot, old, _)| state.set_record(*slot, *old));
        }
        result.map(|()| changed.into_iter().map(|(slot, old, _)| (slot, old)).collect())
    }
}
