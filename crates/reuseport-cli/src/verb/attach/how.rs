//! How `attach` attaches to a group.

use anyhow::Result;
use reuseport::group::GroupKey;
use reuseport::id::{Cookie, Weight};
use reuseport::status::GroupStatus;
use reuseport::{Attach, HoldNew, Host, ObjectSpec, Policy, Program, Stop};

use crate::policy::PolicyOptions;
use crate::select::{self, WeightOf};
use crate::tell::words::note;

/// How to attach, to whatever group.
pub(super) struct How {
    pub(super) policy: Option<Policy>,
    pub(super) options: PolicyOptions,
    pub(super) weights: Vec<WeightOf>,
    pub(super) object: Option<ObjectSpec>,
    pub(super) force: bool,
    pub(super) slots: Option<u32>,
    pub(super) partial: bool,
    pub(super) hold_new: Option<HoldNew>,
    pub(super) stop: Stop,
}

impl How {
    /// The request for a group; some options depend on its current state.
    pub(super) fn request(&self, host: &Host, key: &GroupKey) -> Result<Attach> {
        let policy = self.options.decide(self.policy, key, || Ok(host.status(key)?.steering))?;
        let program = policy.map(Program::from).or(self.object.clone().map(Into::into));
        let weights = match self.weights.is_empty() {
            true => Vec::new(),
            false => weigh(&self.weights, &host.status(key)?)?,
        };
        let mut attach = Attach::default();
        attach.program = program;
        let attach = attach.force(self.force).partial(self.partial).slots(self.slots);
        let attach = attach.hold_new(self.hold_new);
        Ok(attach.weights(weights).cpus(self.options.cpus.clone()).stop(self.stop.clone()))
    }
}

impl How {
    /// What is worth knowing about the user's object.
    pub(super) fn notes(&self) -> String {
        // It could be used a moment ago.
        let notes = self.object.as_ref().and_then(|object| object.notes().ok()).unwrap_or_default();
        notes.iter().map(|text| note(&text.to_string())).collect()
    }
}

/// Weights by cookie.
fn weigh(weights: &[WeightOf], group: &GroupStatus) -> Result<Vec<(Cookie, Weight)>> {
    let weights = select::weights(&weights.iter().collect::<Vec<_>>(), group)?;
    Ok(weights
        .into_iter()
        .filter_map(|(member, weight)| Some((member.member.cookie?, weight)))
        .collect())
}
