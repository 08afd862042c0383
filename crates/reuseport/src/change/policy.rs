//! Changes the policy of a group for which this tool's program decides.

use super::prepare::program_id;
use super::reach::attach_to;
use super::request::{Attach, PolicySet, SetPolicy};
use super::settle::settle;
use super::table;
use super::transaction::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::caps;
use crate::kernel::cpus;
use crate::kernel::program::{self, Config, Loaded};
use crate::model::degraded::Degraded;
use crate::model::group::{Group, GroupKey};
use crate::model::policy::{CpuList, Policy};
use crate::model::refusal::{another_program, another_users_state, not_attached};
use crate::model::selection::{Selection, Steering};
use crate::pins::group::GroupState;
use crate::pins::steering::steering;
use crate::stop::Stop;
use crate::wire::slot::SlotRecord;

impl Transaction {
    /// Sets the policy.
    pub(crate) fn set_policy(mut self, key: &GroupKey, request: &SetPolicy) -> Result<PolicySet> {
        let (policy, cpus) = (request.policy, request.cpus.as_ref());
        cpus.map_or(Ok(()), cpus::check)?;
        let group = self.group(key)?.clone();
        let (now, state) = steering(&group, Some(&self.root))?;
        match (now.selection(), state) {
            (_, Some(state)) if !state.is_trusted() => {
                Err(another_users_state(key, state.owner(), "change the policy of"))
            }
            (Some(old), Some(mut state)) => {
                settle(&mut state, group.attached_id())?;
                if old.policy != policy || self.should_reload(&state)? {
                    let unread = self.change_policy(&group, &mut state, policy, cpus)?;
                    let uncounted = self.uncounted(key.protocol);
                    return Ok(PolicySet {
                        degraded: unread.into_iter().chain(uncounted).collect(),
                    });
                }
                if cpus.is_some() {
                    self.place_on_cpus(&group, &mut state, cpus)?;
                }
                Ok(PolicySet::default())
            }
            _ if now.is_ours() => {
                Err(Error::new(ErrorKind::Invalid, format!("cannot change the policy of {key}"))
                    .because("the user's own program decides there")
                    .with_hint("`attach --policy` puts a policy in its place"))
            }
            _ => match &group.program {
                Some(program) => Err(another_program(key, &now, program, "change the policy of")),
                None => Err(not_attached(key)),
            },
        }
    }

    /// Applies an attachment's CPUs, weights and policy to a steered group. If it fails, weights and policy
    /// are as before.
    pub(super) fn update_program(
        &mut self,
        group: &Group,
        request: &Attach,
        now: &Steering,
        state: &mut GroupState,
    ) -> Result<(Steering, Option<Degraded>)> {
        self.place_on_cpus(group, state, request.cpus.as_ref())?;
        let before = Self::set_weights(state, &request.weights)?;
        let Some(old) = now.selection() else {
            if self.has_left_layer(state)? {
                self.move_to_layer(group, state)?;
            }
            return Ok((*now, None));
        };
        let requested = request.program.as_ref().and_then(|program| program.selection());
        let policy = requested.unwrap_or(old).policy;
        if policy == old.policy && !self.should_reload(state)? {
            return Ok((*now, None));
        }
        match self.change_policy(group, state, policy, request.cpus.as_ref()) {
            Ok(degraded) => Ok((Steering::Ours(Selection { policy, ..old }.into()), degraded)),
            Err(error) => {
                if !before.is_empty() {
                    before.iter().for_each(|(slot, record)| state.set_record(*slot, *record));
                    if let Err(second) = table::swap(state, old.policy) {
                        second.report().warn();
                    }
                }
                Err(error)
            }
        }
    }

    /// Loads another instance over the same maps and replaces the attachment, which is atomic in the
    /// kernel. The table is filled for the new policy just before: for a moment, the old policy picks
    /// from the new table.
    fn change_policy(
        &mut self,
        group: &Group,
        state: &mut GroupState,
        policy: Policy,
        cpus: Option<&CpuList>,
    ) -> Result<Option<Degraded>> {
        policy.check(group.key.protocol)?;
        if policy.places_on_cpus() {
            self.assign_cpus(group, state, cpus)?;
        }
        let unreadable =
            |error| Error::new(ErrorKind::System, "cannot change the policy").because(error);
        let mut header = state.header().map_err(unreadable)?;
        let config = Config { policy, seed: header.seed, protocol: group.key.protocol };
        let moves = self.has_left_layer(state)?;
        let maps = state.policy_maps.as_ref().ok_or_else(|| not_attached(&group.key))?;
        let members = self.layer()?.members_map();
        let Loaded { mut program, degraded } =
            program::load_over(config, &state.sockets, members, maps)?;
        state.bind(&program)?;
        let id = program_id(&program)?;
        let old = header.program().and_then(|program| program.selection());
        let selection = Selection { policy, ..old.unwrap_or(policy.into()) };
        header.announce(id, selection, degraded.is_none());
        let mut steps = || -> Result<()> {
            state.pin_next(&mut program)?;
            state.set_header(&header).map_err(unreadable)?;
            self.refuse_if_changed(group)?;
            if moves {
                self.mark_again(group, state)?;
            }
            table::swap(state, policy)?;
            attach_to(group, &program)
        };
        let result = steps();
        // If this fails, the next command does it.
        let done = result.as_ref().map_or(None, |()| Some(id));
        if let Err(error) = settle(state, done) {
            tracing::debug!("{}", error.report());
        }
        result?;
        if moves {
            let layer = self.layer()?.id();
            state.join_layer(layer)?;
        }
        Ok(degraded)
    }

    /// Whether another instance of the program does more: it reads queues, which the present one cannot, or
    /// sees the host-wide layer that counts now.
    pub(super) fn should_reload(&mut self, state: &GroupState) -> Result<bool> {
        let reads = caps::has(caps::TRACING) && !state.read_header()?.reads_queues();
        Ok(reads || self.has_left_layer(state)?)
    }

    /// Whether the group's connections are counted in a host-wide layer that is no longer in force.
    pub(super) fn has_left_layer(&mut self, state: &GroupState) -> Result<bool> {
        let layer = self.layer()?;
        Ok(layer.is_pinned() && !state.is_in_layer(layer.id()))
    }

    /// Counts the members' connections in the present layer. A policy's program is loaded again for that
    /// ([`change_policy`](Self::change_policy)); a user's own does not read it.
    fn move_to_layer(&mut self, group: &Group, state: &mut GroupState) -> Result<()> {
        self.mark_again(group, state)?;
        let layer = self.layer()?.id();
        state.join_layer(layer)
    }

    fn mark_again(&mut self, group: &Group, state: &mut GroupState) -> Result<()> {
        self.enroller(state, &Stop::default())?.mark_again(group)
    }

    /// With a policy that needs CPUs: gives one to members without one, or to all if some are `given`.
    pub(super) fn place_on_cpus(
        &self,
        group: &Group,
        state: &mut GroupState,
        given: Option<&CpuList>,
    ) -> Result<()> {
        let selection = state.program_kind()?.and_then(|program| program.selection());
        match selection {
            Some(Selection { policy, .. }) if policy.places_on_cpus() => {
                self.assign_cpus(group, state, given)?;
                table::swap(state, policy)
            }
            _ => Ok(()),
        }
    }

    /// Gives members their CPUs: those that are `given`, in the order of the slots and repeated; else a
    /// member without a CPU gets the one to which its owner is bound, or the one with the fewest members.
    fn assign_cpus(
        &self,
        group: &Group,
        state: &GroupState,
        given: Option<&CpuList>,
    ) -> Result<()> {
        let assign = |slot, mut record: SlotRecord, cpu| {
            record.set_cpu(cpu);
            state.set_record(slot, record);
        };
        if let Some(given) = given {
            cpus::check(given)?;
            state.occupied().zip(given.as_slice().iter().cycle()).for_each(
                |((slot, _, record), cpu)| {
                    assign(slot, record, *cpu);
                },
            );
            return Ok(());
        }
        // Without the right to look for owners, no member has one.
        let owners = self.observer.owners(group).unwrap_or_else(|error| {
            tracing::debug!("{}", error.report());
            Default::default()
        });
        for (slot, cookie, record) in state.occupied().filter(|(.., record)| record.cpu().is_none())
        {
            let bound = owners.get(&cookie).copied().and_then(cpus::only_cpu_of);
            let used = state.occupied().filter_map(|(.., record)| record.cpu());
            assign(slot, record, bound.unwrap_or_else(|| cpus::least_used(used)));
        }
        Ok(())
    }
}
