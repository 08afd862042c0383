//! Lets another generation serve: carries out what is planned ([`plan::promote`], [`plan::rollback`]).

use super::request::Promoted;
use super::transaction::Transaction;
use crate::error::Result;
use crate::model::generation;
use crate::model::held;
use crate::model::id::{Cookie, Percent, State};
use crate::model::lineage::Standing;
use crate::model::plan::{self, Observed, Operation, Recorded, Refusal};
use crate::model::refusal::not_attached;
use crate::model::roster::Roster;

/// What is to serve.
#[derive(Debug, Clone, Copy)]
enum To {
    Newest(Option<u32>),
    Trial(Option<u32>, Percent),
    Before,
}

impl Transaction<'_> {
    /// Lets the newest generation serve, alone, in one step for the traffic; `only` if it is this one.
    pub(crate) fn promote(self, only: Option<u32>) -> Result<Promoted> {
        self.switch(To::Newest(only))
    }

    /// Lets the generation before the one that serves do so again, alone, in one step for the traffic.
    pub(crate) fn rollback(self) -> Result<Promoted> {
        self.switch(To::Before)
    }

    /// Lets the newest generation have this part of all picks, in one step for the traffic; `only` if it is this one.
    pub(crate) fn try_out(self, only: Option<u32>, share: Percent) -> Result<Promoted> {
        self.switch(To::Trial(only, share))
    }

    fn switch(mut self, to: To) -> Result<Promoted> {
        let switched = self.try_switch(to);
        switched.map_err(|error| self.told(error))
    }

    fn try_switch(&mut self, to: To) -> Result<Promoted> {
        let present = self.find_deciding()?;
        let members = self.group.members.len();
        let plan = |observed: Observed<'_>,
                    recorded: Option<Recorded<'_>>|
         -> Result<Roster, Refusal> {
            let enrolled = recorded.map_or(0, |recorded| recorded.roster.occupied().count());
            let unsteered = members.saturating_sub(enrolled);
            match to {
                To::Newest(only) => plan::promote(observed, recorded, only, unsteered),
                To::Trial(only, share) => plan::try_out(observed, recorded, only, share, unsteered),
                To::Before => plan::rollback(observed, recorded),
            }
        };
        let operation = match to {
            To::Newest(_) | To::Trial(..) => Operation::Promote,
            To::Before => Operation::Rollback,
        };
        let roster = self.plan(operation, &present, plan)?;
        let Some(mut state) = present.state else { return Err(not_attached(&self.group.key)) };
        let before = state.instance.roster.clone();
        match self.put_into_force(&mut state, roster) {
            Ok(()) => Ok(promoted(&state.instance.roster, &before, to)),
            Err(error) => {
                self.fall_back(&mut state);
                Err(error)
            }
        }
    }
}

fn promoted(roster: &Roster, before: &Roster, to: To) -> Promoted {
    let joins = matches!(to, To::Newest(_)) && held::promotion_joins(before);
    let joined = roster.occupied().filter(|(slot, _, record)| {
        joins
            && record.standing == Standing::Serving
            && record.state() == State::Active
            && record.standing != before.record(*slot).standing
    });
    let of = |standing: Standing| -> Vec<Cookie> {
        let members = roster.occupied().filter(|(.., record)| record.standing == standing);
        members.map(|(_, cookie, _)| cookie).collect()
    };
    let trial = roster.occupied().filter(|(.., record)| record.standing == Standing::Trial);
    let serving = match to {
        // Newer ones may serve next to the one that was on trial.
        To::Newest(_) => generation::next(before),
        To::Trial(..) | To::Before => generation::serving(roster),
    };
    Promoted {
        generation: serving.unwrap_or(0),
        serving: of(Standing::Serving),
        on_trial: of(Standing::Trial),
        trial: trial.map(|(.., record)| record.generation).max(),
        retired: of(Standing::Retired),
        on_standby: of(Standing::Standby),
        joined: joined.map(|(_, cookie, _)| cookie).collect(),
    }
}
