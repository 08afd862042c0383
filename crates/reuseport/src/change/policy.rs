//! Changes the program of a group for which this tool's program decides: another policy, another host-wide layer,
//! the state of an earlier version. The new program is an instance of its own over the same sockets; attaching it is
//! the one step that counts, which is atomic in the kernel.

use std::collections::{HashMap, HashSet};

use super::prepared::{NewTable, program_id};
use super::reach::attach_to;
use super::request::{PolicySet, SetPolicy};
use super::table;
use super::transaction::Transaction;
use crate::error::Result;
use crate::kernel::caps;
use crate::kernel::cpus;
use crate::kernel::owners::{self, Placed};
use crate::kernel::program::{self, Config, Loaded};
use crate::kernel::tables::Length;
use crate::model::degraded::Degraded;
use crate::model::id::Cookie;
use crate::model::plan::{self, Operation, Placement, Wishes};
use crate::model::policy::CpuList;
use crate::model::refusal::not_attached;
use crate::model::roster::Roster;
use crate::model::selection::{Program, Selection};
use crate::model::table::Table;
use crate::pins::group::GroupState;
use crate::pins::host_layer::HostLayer;
use crate::wire::setup::Setup;

const FAILED: &str = "cannot change the policy";

impl Transaction<'_> {
    /// Sets the policy.
    pub(crate) fn set_policy(mut self, request: &SetPolicy) -> Result<PolicySet> {
        let set = self.try_set_policy(request);
        set.map_err(|error| self.told(error))
    }

    fn try_set_policy(&mut self, request: &SetPolicy) -> Result<PolicySet> {
        let (policy, cpus) = (request.policy, request.cpus.as_ref());
        cpus.map_or(Ok(()), cpus::check)?;
        let present = self.find_deciding()?;
        let selection = self.plan(Operation::SetPolicy, &present, |observed, recorded| {
            plan::set_policy(observed, recorded, policy)
        })?;
        let Some(mut state) = present.state else { return Err(not_attached(&self.group.key)) };
        let set = self.choose(&mut state, selection, cpus);
        if set.is_err() {
            self.fall_back(&mut state);
        }
        set
    }

    fn choose(
        &mut self,
        state: &mut GroupState,
        selection: Selection,
        cpus: Option<&CpuList>,
    ) -> Result<PolicySet> {
        let placement = self.placement(state, selection.into(), cpus);
        let wishes = Wishes { cpus: placement.as_ref(), ..Wishes::default() };
        let roster = plan::draft(&state.instance.roster, &[], wishes, 0).roster;
        let changes = state.program_kind() != Program::Selection(selection);
        if changes || self.should_reload(state)? {
            let unread = self.change_program(state, selection, roster)?;
            let counts = selection.policy.counts_open(self.group.key.protocol);
            let uncounted = self.locked.uncounted(counts);
            return Ok(PolicySet { degraded: unread.into_iter().chain(uncounted).collect() });
        }
        if roster != state.instance.roster {
            table::commit(state, roster)?;
        }
        Ok(PolicySet::default())
    }

    /// Puts what was announced into force, with this program. Returns why it cannot read queues, if a new one was
    /// loaded that cannot.
    pub(super) fn enforce(
        &mut self,
        state: &mut GroupState,
        selection: Option<Selection>,
    ) -> Result<Option<Degraded>> {
        let selection = match selection {
            Some(selection)
                if state.program_kind() != selection.into() || self.should_reload(state)? =>
            {
                selection
            }
            _ => {
                state.commit()?;
                return Ok(None);
            }
        };
        let next = state.instance.next_roster().unwrap_or(&state.instance.roster).clone();
        self.change_program(state, selection, next)
    }

    /// Loads another instance of the program, with this roster, and replaces the attachment.
    fn change_program(
        &mut self,
        state: &mut GroupState,
        selection: Selection,
        roster: Roster,
    ) -> Result<Option<Degraded>> {
        let failed = |error| caps::failed(FAILED, error, caps::LOADING);
        let counts = selection.policy.counts_open(self.group.key.protocol);
        let joins = counts && self.must_join_layer(state)?;
        let roster = match (counts, joins) {
            (true, true) => self.join_layer(&roster)?,
            (true, false) => roster,
            (false, _) => roster.uncounted(),
        };
        let roster = table::with_picks(state, roster, true);
        let table = table::table(state, &roster, selection.policy);
        let maps = state.policy_maps.as_ref().ok_or_else(|| not_attached(&self.group.key))?;
        let length = Length::of_policy(state.capacity());
        let joined = if joins { Some(roster.clone()) } else { None };
        let table = NewTable::new(length, &table, roster).map_err(failed)?;
        let config = Config {
            policy: selection.policy,
            seed: state.seed(),
            protocol: self.group.key.protocol,
        };
        let layer = if counts { Some(&*self.locked.layer()?) } else { None };
        let members = layer.map(HostLayer::members_map);
        let Loaded { mut program, degraded } =
            program::load_over(config, &state.sockets, &table.tables, members, maps)?;
        let setup = Setup::new(selection.into(), degraded.is_none(), layer.map(HostLayer::id));
        let instance = table.instance(state.next_number(), setup).map_err(failed)?;
        state.bind(&program, &instance)?;
        let id = program_id(&program)?;
        state.add(instance, &mut program)?;
        joined.map_or(Ok(()), |roster| self.mark_members(&roster))?;
        self.refuse_if_changed()?;
        if self.group.attached_id().is_some() {
            attach_to(&self.group, &program)?;
        }
        // If this fails, the next command does it.
        if let Err(error) = self.settle(state, Some(id)) {
            tracing::debug!("{}", error.report());
        }
        Ok(degraded)
    }

    /// Puts a roster into force. A program that would misread its table is replaced in the same step.
    pub(super) fn put_into_force(&mut self, state: &mut GroupState, roster: Roster) -> Result<()> {
        match state.program_kind() {
            Program::Selection(selection) if state.instance.is_of_earlier_version() => {
                self.change_program(state, selection, roster).map(|_| ())
            }
            _ => table::commit(state, roster),
        }
    }

    /// Converts the state of an earlier version: a new instance of the same program. Weights and states stay.
    pub(super) fn convert(&mut self, state: &mut GroupState) -> Result<()> {
        if !state.instance.is_of_earlier_version() {
            return Ok(());
        }
        let converted = match state.program_kind() {
            Program::Selection(selection) => {
                let roster = state.instance.roster.clone();
                self.change_program(state, selection, roster).map(|_| ())
            }
            Program::Object(()) => self.convert_object(state),
        };
        if converted.is_err() {
            self.fall_back(state);
        }
        converted
    }

    /// Another instance of a user's own program, which stays the same.
    fn convert_object(&mut self, state: &mut GroupState) -> Result<()> {
        let failed = |error| caps::failed(FAILED, error, caps::LOADING);
        let roster = state.instance.roster.clone().uncounted();
        let Some(mut program) = state.open_program()? else {
            return Err(not_attached(&self.group.key));
        };
        let length = Length::of_object(roster.records().len());
        let table = NewTable::new(length, &Table::default(), roster).map_err(failed)?;
        let setup = Setup::new(Program::Object(()), false, None);
        let instance = table.instance(state.next_number(), setup).map_err(failed)?;
        state.bind(&program, &instance)?;
        let id = program_id(&program)?;
        state.add(instance, &mut program)?;
        self.settle(state, Some(id))
    }

    /// Whether another instance of the program does more: it reads queues, which the present one cannot, or
    /// sees the host-wide layer that counts now.
    pub(super) fn should_reload(&mut self, state: &GroupState) -> Result<bool> {
        let reads = caps::has(caps::TRACING) && !state.instance.setup.reads_queues();
        Ok(reads || state.counts_open() && self.must_join_layer(state)?)
    }

    /// How members get their CPUs, with a policy that needs them.
    pub(super) fn placement(
        &self,
        state: &GroupState,
        program: Program,
        given: Option<&CpuList>,
    ) -> Option<Placement> {
        program.selection().filter(|selection| selection.policy.places_on_cpus())?;
        let occupied = state.instance.roster.occupied();
        let placed: HashSet<Cookie> = occupied
            .filter(|(.., record)| record.cpu.is_some() && !record.guessed)
            .map(|(_, cookie, _)| cookie)
            .collect();
        let is_placed = |cookie: Cookie| placed.contains(&cookie);
        let all_placed =
            self.group.members.iter().all(|member| member.cookie.is_some_and(is_placed));
        let mut bound = HashMap::new();
        if given.is_none() && !all_placed {
            // Without the right to look for owners, no member has one.
            let owners =
                owners::to_place(&self.locked.observer, &self.group).unwrap_or_else(|error| {
                    tracing::debug!("{}", error.report());
                    Default::default()
                });
            let bound_to = |(cookie, placed): (_, Placed)| Some((cookie, placed.cpu?.bound()?));
            bound = owners.into_iter().filter_map(bound_to).collect();
        }
        Some(Placement { given: given.cloned(), bound, online: cpus::online() })
    }
}
