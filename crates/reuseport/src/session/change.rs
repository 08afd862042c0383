//! Changing what decides for a group that is steered: another policy, other weights, or a program
//! with maps of its own.

use sk_reuseport::programs::SkReuseport;

use super::prepare::{Kind, prepare, program_id};
use super::reach::{attach_to, detach_from};
use super::settle::settle;
use super::{Session, not_attached, steering_by};
use crate::balancer::{Attach, Attached, Decide};
use crate::enrol;
use crate::group::{Group, GroupKey};
use crate::host::steering;
use crate::id::{Slot, Weight};
use crate::policy::{Policy, Stickiness};
use crate::state::group::GroupState;
use crate::state::layout::Decider;
use crate::steer::{self, Config};
use crate::stop::Stop;
use crate::{Error, ErrorKind, Result};

impl Session {
    /// Loads another instance over the same maps and replaces the attachment, which is atomic in
    /// the kernel. The table is filled for the new policy just before: for the moment between, the
    /// old policy picks from it, by its own kind of key.
    pub(super) fn change_policy(
        &mut self,
        group: &Group,
        state: &mut GroupState,
        policy: Policy,
    ) -> Result<()> {
        let unreadable =
            |error| Error::new(ErrorKind::System, "cannot change the policy").because(error);
        let mut header = state.header().map_err(unreadable)?;
        let config = Config { policy, seed: header.seed };
        let maps = state.policy_maps.as_ref().ok_or_else(|| not_attached(&group.key))?;
        let mut program = steer::load_over(config, &state.sockets, maps)?;
        let id = program_id(&program)?;
        let stickiness = match header.decider() {
            Some(Decider::Policy { stickiness, .. }) => stickiness,
            _ => Stickiness::default(),
        };
        header.announce(id, policy, stickiness);
        let mut steps = || -> Result<()> {
            state.pin_next(&mut program)?;
            state.set_header(&header).map_err(unreadable)?;
            enrol::swap_table(state, policy)?;
            self.refuse_if_changed(group)?;
            attach_to(group, &program)
        };
        let result = steps();
        // If this fails, the next command does it.
        let done = result.as_ref().map_or(None, |()| Some(id));
        if let Err(error) = settle(state, done) {
            tracing::debug!("{error}");
        }
        result
    }

    /// Gives members other shares: all or none.
    pub(crate) fn set_weights(self, key: &GroupKey, weights: &[(Slot, Weight)]) -> Result<()> {
        let group = self.group(key)?.clone();
        let (_, state) = steering(&group, Some(&self.root))?;
        let mut state = state.ok_or_else(|| not_attached(key))?;
        settle(&mut state, group.attached_id())?;
        let tried = || format!("cannot set weights in {key}");
        let Some(Decider::Policy { policy, .. }) = state.decider()? else {
            return Err(Error::new(ErrorKind::Invalid, tried())
                .because("the user's own program decides there, and it knows no weights"));
        };
        let mut records = Vec::new();
        for (slot, weight) in weights {
            let old = state.record(*slot);
            if old.cookie().is_none() {
                return Err(Error::new(ErrorKind::NotFound, tried())
                    .because(format!("slot {slot} has no member")));
            }
            let mut new = old;
            new.set_weight(*weight);
            records.push((*slot, old, new));
        }
        records.iter().for_each(|(slot, _, new)| state.set_record(*slot, *new));
        let result = enrol::swap_table(&mut state, policy);
        if result.is_err() {
            records.iter().for_each(|(slot, old, _)| state.set_record(*slot, *old));
        }
        result
    }

    /// Puts a program with maps of its own in the place of ours. A socket is in one array only: the
    /// new one can be filled when the old one is empty, and in between the kernel's hash decides.
    pub(super) fn replace(
        &mut self,
        group: &Group,
        attach: &Attach,
        decide: &Decide,
        mut old: GroupState,
    ) -> Result<Attached> {
        let mut old_program = old.program()?;
        // Whatever is wrong with the new one shows before anything is touched.
        let prepared = prepare(group, attach, decide, Kind::Array)?;
        enrol::check_room(group, &prepared.1)?;
        self.layer()?;
        self.refuse_if_changed(group)?;
        detach_from(group)?;
        let bare = Group { program: None, ..group.clone() };
        let unpinned = old.unpin(&self.root);
        match unpinned.and_then(|()| self.build_either(&bare, attach, decide, prepared)) {
            Ok(changes) => {
                self.release_members(&old);
                Ok(Attached { steering: steering_by(decide), changes, replaced: None })
            }
            Err(error) => {
                if let Err(second) = self.put_back(group, &mut old, &mut old_program) {
                    tracing::warn!("{second}");
                }
                Err(error)
            }
        }
    }

    /// Attaches again what [`replace`](Self::replace) took away.
    fn put_back(
        &mut self,
        group: &Group,
        old: &mut GroupState,
        program: &mut SkReuseport,
    ) -> Result<()> {
        old.stage(&self.root, program)?;
        let stop = Stop::default();
        self.enroller(old, &stop)?.refill_all(group)?;
        old.place(&self.root, &group.key)?;
        attach_to(group, program)
    }
}
