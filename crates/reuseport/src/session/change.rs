//! Changing what decides for a group that is steered: another policy, other weights, or a program
//! with maps of its own.

use sk_reuseport::programs::SkReuseport;

use super::prepare::{Kind, prepare, program_id};
use super::reach::{attach_to, detach_from};
use super::settle::settle;
use super::{Session, foreign_program, not_attached, steering_by};
use crate::balancer::{Attach, Attached, Decide, MemberChange};
use crate::cpus::CpuList;
use crate::enrol;
use crate::group::{Group, GroupKey};
use crate::host::steering;
use crate::id::{Cookie, Slot, Weight};
use crate::policy::{Policy, Stickiness};
use crate::state::group::GroupState;
use crate::state::layout::{Decider, SlotRecord};
use crate::status::Steering;
use crate::steer::{self, Config, Loaded};
use crate::stop::Stop;
use crate::table::Share;
use crate::{Error, ErrorKind, Result, rights};

impl Session {
    /// Loads another instance over the same maps and replaces the attachment, which is atomic in
    /// the kernel. The table is filled for the new policy just before: for the moment between, the
    /// old policy picks from it, by its own kind of key.
    pub(super) fn change_policy(
        &mut self,
        group: &Group,
        state: &mut GroupState,
        policy: Policy,
        cpus: Option<&CpuList>,
    ) -> Result<Option<Error>> {
        policy.check(group.key.protocol)?;
        if policy == Policy::Cpu {
            self.assign_cpus(group, state, cpus)?;
        }
        let unreadable =
            |error| Error::new(ErrorKind::System, "cannot change the policy").because(error);
        let mut header = state.header().map_err(unreadable)?;
        let config = Config { policy, seed: header.seed, protocol: group.key.protocol };
        let maps = state.policy_maps.as_ref().ok_or_else(|| not_attached(&group.key))?;
        let members = self.layer()?.members_map();
        let Loaded { mut program, lost } = steer::load_over(config, &state.sockets, members, maps)?;
        let id = program_id(&program)?;
        let stickiness = match header.decider() {
            Some(Decider::Policy { stickiness, .. }) => stickiness,
            _ => Stickiness::default(),
        };
        header.announce(id, policy, stickiness, lost.is_none());
        let mut steps = || -> Result<()> {
            state.pin_next(&mut program)?;
            state.set_header(&header).map_err(unreadable)?;
            self.refuse_if_changed(group)?;
            enrol::swap_table(state, policy)?;
            attach_to(group, &program)
        };
        let result = steps();
        // If this fails, the next command does it.
        let done = result.as_ref().map_or(None, |()| Some(id));
        if let Err(error) = settle(state, done) {
            tracing::debug!("{error}");
        }
        result.map(|()| lost)
    }

    /// What an attachment asks for beside newcomers, in a group that is steered already: CPUs,
    /// shares, another policy. If it fails, shares and policy are as they were.
    pub(super) fn reconsider(
        &mut self,
        group: &Group,
        attach: &Attach,
        now: &Steering,
        state: &mut GroupState,
    ) -> Result<(Steering, Option<Error>)> {
        self.place_on_cpus(group, state, attach.cpus.as_ref())?;
        let before = Self::weigh(state, &attach.weights)?;
        let Steering::Policy { policy: old, stickiness } = now else {
            return Ok((now.clone(), None));
        };
        let policy = match &attach.decide {
            Some(Decide::Policy(policy)) => policy,
            _ => old,
        };
        if policy == old && !self.may_read_more(state)? {
            return Ok((now.clone(), None));
        }
        match self.change_policy(group, state, *policy, attach.cpus.as_ref()) {
            Ok(lost) => Ok((Steering::Policy { policy: *policy, stickiness: *stickiness }, lost)),
            Err(error) => {
                if !before.is_empty() {
                    before.iter().for_each(|(slot, record)| state.set_record(*slot, *record));
                    if let Err(second) = enrol::swap_table(state, *old) {
                        tracing::warn!("{second}");
                    }
                }
                Err(error)
            }
        }
    }

    /// Gives members that were there before the shares that an attachment asks for. Returns the
    /// records that it changed, as they were.
    pub(super) fn weigh(
        state: &mut GroupState,
        weights: &[(Cookie, Weight)],
    ) -> Result<Vec<(Slot, SlotRecord)>> {
        if weights.is_empty() {
            return Ok(Vec::new());
        }
        let Some(Decider::Policy { policy, .. }) = state.decider()? else {
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
        let result = enrol::swap_table(state, policy);
        if result.is_err() {
            changed.iter().for_each(|(slot, old, _)| state.set_record(*slot, *old));
        }
        result.map(|()| changed.into_iter().map(|(slot, old, _)| (slot, old)).collect())
    }

    /// Gives members other shares or states: all or none, in one step for the traffic.
    ///
    /// Returns the state of the members afterwards.
    pub(crate) fn change_members(
        self,
        key: &GroupKey,
        changes: &[MemberChange],
    ) -> Result<Vec<Share>> {
        let group = self.group(key)?.clone();
        let (steering, state) = steering(&group, Some(&self.root))?;
        let tried = || format!("cannot change the members of {key}");
        let mut state = match (steering, state, &group.program) {
            (_, Some(state), _) => state,
            (Steering::Foreign, None, Some(program)) => {
                return Err(foreign_program(key, program, "change the members of"));
            }
            _ => return Err(not_attached(key)),
        };
        settle(&mut state, group.attached_id())?;
        let Some(Decider::Policy { policy, .. }) = state.decider()? else {
            return Err(Error::new(ErrorKind::Invalid, tried()).because(
                "the user's own program decides there, and it knows neither weights nor states",
            ));
        };
        let mut records: Vec<(Slot, SlotRecord, SlotRecord)> = Vec::new();
        for MemberChange { slot, member, weight, state: to } in changes {
            let old = state.record(*slot);
            if old.cookie().is_none() {
                return Err(Error::new(ErrorKind::NotFound, tried())
                    .because(format!("slot {slot} has no member"))
                    .remedy(format!("`reuseport show {key}` lists the members with their slots")));
            }
            if let Some(member) = member
                && old.cookie() != Some(*member)
            {
                return Err(Error::new(ErrorKind::Vanished, tried())
                    .because(format!("slot {slot} went to another member meanwhile"))
                    .remedy("nothing was changed; try again"));
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
        let result = enrol::swap_table(&mut state, policy);
        if result.is_err() {
            records.iter().for_each(|(slot, old, _)| state.set_record(*slot, *old));
        }
        result.map(|()| enrol::shares(&state))
    }

    /// Lets another policy decide for a group that one decides for already.
    pub(crate) fn set_policy(
        mut self,
        key: &GroupKey,
        policy: Policy,
        cpus: Option<&CpuList>,
    ) -> Result<Option<Error>> {
        cpus.map_or(Ok(()), CpuList::check)?;
        let group = self.group(key)?.clone();
        match steering(&group, Some(&self.root))? {
            (Steering::Policy { policy: old, .. }, Some(mut state)) => {
                settle(&mut state, group.attached_id())?;
                if old != policy || self.may_read_more(&state)? {
                    return self.change_policy(&group, &mut state, policy, cpus);
                }
                if cpus.is_some() {
                    self.place_on_cpus(&group, &mut state, cpus)?;
                }
                Ok(None)
            }
            (Steering::Object, _) => {
                Err(Error::new(ErrorKind::Invalid, format!("cannot change the policy of {key}"))
                    .because("the user's own program decides there")
                    .remedy("`attach --policy` puts a policy in its place"))
            }
            _ => match &group.program {
                Some(program) => Err(foreign_program(key, program, "change the policy of")),
                None => Err(not_attached(key)),
            },
        }
    }

    /// Whether the group's program cannot read queues, and another one could.
    pub(super) fn may_read_more(&self, state: &GroupState) -> Result<bool> {
        let unreadable =
            |error| Error::new(ErrorKind::System, "cannot read a group's state").because(error);
        Ok(rights::has(rights::TRACING) && !state.header().map_err(unreadable)?.reads_queues())
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
        let prepared = prepare(group, attach, decide, Kind::Array, self.layer()?)?;
        enrol::check_room(group, &prepared.state)?;
        self.refuse_if_changed(group)?;
        detach_from(group)?;
        let bare = Group { program: None, ..group.clone() };
        let unpinned = old.unpin(&self.root);
        match unpinned.and_then(|()| self.build_either(&bare, attach, decide, prepared)) {
            Ok((changes, lost)) => {
                self.release_members(&old);
                Ok(Attached { steering: steering_by(decide), changes, replaced: None, lost })
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
