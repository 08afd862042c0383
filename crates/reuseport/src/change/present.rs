//! What an operation finds of a group: the kernel's view and the pinned state, as the [plan](crate::model::plan)
//! sees them.

use super::transaction::Transaction;
use crate::error::Result;
use crate::kernel::recognise::refuse_unknown;
use crate::model::group::{Group, GroupKey};
use crate::model::plan::{Observed, Operation, Recorded, Refusal};
use crate::model::selection::Steering;
use crate::pins::group::GroupState;
use crate::pins::steering::steering;

/// A group as an operation finds it.
pub(super) struct Present {
    pub(super) steering: Steering,
    /// What is pinned under its name.
    pub(super) state: Option<GroupState>,
    namesake: Option<GroupKey>,
    is_current: bool,
    has_replaced: bool,
}

impl Transaction<'_> {
    /// Looks at what decides for the group, and at what is pinned under its name.
    pub(super) fn find(&self) -> Result<Present> {
        let mut present = self.deciding()?;
        if present.state.is_none() {
            present.state = GroupState::of(&self.locked.root, &self.group)?;
            let user = present.state.as_ref().and_then(|state| self.user_of(state));
            present.namesake = user.map(|other| other.key.clone());
        }
        Ok(present)
    }

    /// Looks at what decides for the group, to change that: this tool's state is settled, and what is pinned and does
    /// not decide is not looked at.
    pub(super) fn find_deciding(&mut self) -> Result<Present> {
        let mut present = self.deciding()?;
        self.settle_found(&mut present)?;
        Ok(present)
    }

    fn deciding(&self) -> Result<Present> {
        let (steering, state) = steering(&self.group, Some(&self.locked.root))?;
        let (namesake, is_current, has_replaced) = (None, true, false);
        Ok(Present { steering, state, namesake, is_current, has_replaced })
    }

    /// The group for which the program of this state decides, if there is one.
    fn user_of(&self, state: &GroupState) -> Option<&Group> {
        let uses = |group: &&Group| group.attached_id().is_some_and(|id| state.has_program(id));
        self.locked.groups.iter().find(uses)
    }

    /// Settles the state that was found, and looks at it closely if it does not decide.
    pub(super) fn settle_found(&mut self, present: &mut Present) -> Result<()> {
        let Present { steering, state: Some(state), namesake: None, .. } = present else {
            return Ok(());
        };
        if !state.is_trusted() {
            return Ok(());
        }
        self.settle(state, self.group.attached_id())?;
        if !steering.is_ours() {
            present.has_replaced = state.has_replaced();
            present.is_current = state.open_program()?.is_some() && !self.should_reload(state)?;
        }
        Ok(())
    }

    /// The plan that this makes of the group, or the error of its refusal.
    pub(super) fn plan<T>(
        &self,
        operation: Operation,
        present: &Present,
        plan: impl FnOnce(Observed<'_>, Option<Recorded<'_>>) -> Result<T, Refusal>,
    ) -> Result<T> {
        let observed = Observed {
            key: &self.group.key,
            program: self.group.program.as_ref(),
            steering: present.steering,
            namesake: present.namesake.as_ref(),
        };
        plan(observed, present.recorded()).map_err(|refusal| {
            let key = &self.group.key;
            let unknown = match &refusal {
                Refusal::AnotherProgram { program, steering: Steering::Foreign, .. } => {
                    refuse_unknown(key, Some(program)).err()
                }
                _ => None,
            };
            unknown.unwrap_or_else(|| refusal.error(operation, key))
        })
    }
}

impl Present {
    /// The state that the program which decides displaced, if it did: that state is still pinned.
    pub(super) fn displaced(self) -> Option<GroupState> {
        self.state.filter(|_| !self.steering.is_ours() && self.namesake.is_none())
    }

    fn recorded(&self) -> Option<Recorded<'_>> {
        self.state.as_ref().map(|state| Recorded {
            owner: state.owner(),
            is_trusted: state.is_trusted(),
            program: state.program_kind(),
            slots: state.capacity(),
            roster: &state.instance.roster,
            is_current: self.is_current,
            has_replaced: self.has_replaced,
        })
    }
}
