//! Changes the weights and states of members.

use super::request::MemberChange;
use super::table;
use super::transaction::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::model::group::GroupKey;
use crate::model::plan::{self, Refused};
use crate::model::refusal::{another_program, another_users_state, not_attached};
use crate::model::selection::Program;
use crate::model::table::Share;
use crate::pins::steering::steering;

impl Transaction {
    /// Changes weights and states, all or none, in one step for the traffic. Returns the new weights and
    /// states of all members.
    pub(crate) fn change_members(
        mut self,
        key: &GroupKey,
        changes: &[MemberChange],
    ) -> Result<Vec<Share>> {
        let group = self.group(key)?.clone();
        let (steering, state) = steering(&group, Some(&self.root))?;
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
        self.settle(&group, &mut state, group.attached_id())?;
        if let Program::Object(()) = state.program_kind() {
            return Err(Error::new(ErrorKind::Invalid, failed(key)).because(
                "the user's own program decides there, and it knows neither weights nor states",
            ));
        }
        let changes = changes.iter().map(|c| (c.slot, c.member, c.weight, c.state));
        let changes: Vec<_> = changes.collect();
        let changed = |state: &_| plan::change(state, changes.iter().copied());
        // What is refused converts nothing.
        changed(&state.instance.roster).map_err(|refused| refusal(key, refused))?;
        self.convert(&group, &mut state)?;
        let roster = changed(&state.instance.roster).map_err(|refused| refusal(key, refused))?;
        match table::commit(&mut state, roster) {
            Ok(()) => Ok(state.instance.roster.shares()),
            Err(error) => {
                self.fall_back(&group, &mut state);
                Err(error)
            }
        }
    }
}

fn refusal(key: &GroupKey, refused: Refused) -> Error {
    match refused {
        Refused::NoMember(slot) => Error::new(ErrorKind::NotFound, failed(key))
            .because(format!("slot {slot} has no member"))
            .with_hint(format!("`reuseport show {key}` lists the members with their slots")),
        Refused::AnotherMember(slot) => Error::new(ErrorKind::Vanished, failed(key))
            .because(format!("slot {slot} went to another member meanwhile"))
            .with_hint("nothing was changed; try again"),
    }
}

fn failed(key: &GroupKey) -> String {
    format!("cannot change the members of {key}")
}
