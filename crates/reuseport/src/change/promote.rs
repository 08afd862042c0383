//! Lets another generation serve: carries out what is planned ([`plan::promote`], [`plan::rollback`]).

use super::request::Promoted;
use super::table;
use super::transaction::Transaction;
use crate::error::Result;
use crate::model::generation;
use crate::model::id::Cookie;
use crate::model::lineage::Standing;
use crate::model::plan::{self, Observed, Operation, Recorded, Refusal};
use crate::model::refusal::not_attached;
use crate::model::roster::Roster;

impl Transaction {
    /// Lets the newest generation serve, alone, in one step for the traffic.
    pub(crate) fn promote(self) -> Result<Promoted> {
        self.switch(Operation::Promote)
    }

    /// Lets the generation before the one that serves do so again, alone, in one step for the traffic.
    pub(crate) fn rollback(self) -> Result<Promoted> {
        self.switch(Operation::Rollback)
    }

    fn switch(mut self, operation: Operation) -> Result<Promoted> {
        let switched = self.try_switch(operation);
        switched.map_err(|error| self.told(error))
    }

    fn try_switch(&mut self, operation: Operation) -> Result<Promoted> {
        let present = self.find_deciding()?;
        let members = self.group.members.len();
        let plan =
            |observed: Observed<'_>, recorded: Option<Recorded<'_>>| -> Result<Roster, Refusal> {
                let enrolled = recorded.map_or(0, |recorded| recorded.roster.occupied().count());
                match operation {
                    Operation::Rollback => plan::rollback(observed, recorded),
                    _ => plan::promote(observed, recorded, members.saturating_sub(enrolled)),
                }
            };
        let roster = self.plan(operation, &present, plan)?;
        let Some(mut state) = present.state else { return Err(not_attached(&self.group.key)) };
        match table::commit(&mut state, roster) {
            Ok(()) => Ok(promoted(&state.instance.roster)),
            Err(error) => {
                self.fall_back(&mut state);
                Err(error)
            }
        }
    }
}

fn promoted(roster: &Roster) -> Promoted {
    let of = |standing: Standing| -> Vec<Cookie> {
        let members = roster.occupied().filter(|(.., record)| record.standing == standing);
        members.map(|(_, cookie, _)| cookie).collect()
    };
    Promoted {
        generation: generation::serving(roster).unwrap_or(0),
        serving: of(Standing::Serving),
        retired: of(Standing::Retired),
        on_standby: of(Standing::Standby),
    }
}
