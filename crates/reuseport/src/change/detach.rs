//! Detaches: carries out what is [planned](crate::model::plan::detach).

use std::os::fd::AsFd as _;
use std::sync::Arc;

use super::locked::LOOKS;
use super::reach::{Detaching, detach_if_reachable};
use super::request::Detached;
use super::table;
use super::transaction::{PAUSE, Transaction};
use crate::error::Result;
use crate::kernel::borrow;
use crate::kernel::recognise::Recognised;
use crate::model::plan::{self, DetachPlan, Operation};
use crate::model::refusal::not_attached;
use crate::pins::group::GroupState;

impl Transaction<'_> {
    /// Detaches this tool's program and removes the group's state, or what another owner's program that
    /// replaced it left.
    pub(crate) fn detach(mut self) -> Result<Detached> {
        let detached = self.try_detach();
        detached.map_err(|error| self.told(error))
    }

    fn try_detach(&mut self) -> Result<Detached> {
        let present = self.find()?;
        let plan = self.plan(Operation::Detach, &present, plan::detach)?;
        let (before, state) = (present.steering, present.state);
        let mut detached = Detached { before, left_attached: None, displaced_by: None };
        match plan {
            DetachPlan::Detach => {
                self.locked.present_layer()?;
                self.refuse_if_changed()?;
                detached.left_attached = self.detach_or_leave()?.left_attached();
                let Some(mut state) = state else { return Ok(detached) };
                if detached.left_attached.is_some() && state.policy_maps.is_some() {
                    table::clear(&mut state)?;
                }
                self.remove_state(state)?;
            }
            DetachPlan::LetGo { is_pinned } => {
                let known = self.group.attached_id().and_then(Recognised::of);
                self.refuse_if_changed()?;
                detached.left_attached = self.detach_or_leave()?.left_attached();
                if let Some(mut known) = known {
                    known.let_go(&self.group);
                }
                self.discard_state(state.filter(|_| is_pinned))?;
            }
            DetachPlan::Discard => {
                self.discard_state(state)?;
                detached.displaced_by.clone_from(&self.group.program);
            }
            DetachPlan::CleanUp => {
                self.discard_state(state)?;
                return Err(not_attached(&self.group.key));
            }
        }
        Ok(detached)
    }

    /// Detaches the program, unless no member can be borrowed, by anyone.
    ///
    /// A member without a holder may be closing, and others may have come since: this looks again for a moment.
    fn detach_or_leave(&mut self) -> Result<Detaching> {
        for _ in 0..LOOKS {
            match detach_if_reachable(&self.group)? {
                Detaching::Done => return Ok(Detaching::Done),
                Detaching::OutOfReach(error) => tracing::debug!("{}", error.report()),
            }
            std::thread::sleep(PAUSE);
            self.group = Arc::new(self.look_again()?);
        }
        detach_if_reachable(&self.group)
    }

    /// Removes a state without making a host-wide layer for it.
    fn discard_state(&mut self, state: Option<GroupState>) -> Result<()> {
        let Some(state) = state else { return Ok(()) };
        self.locked.present_layer()?;
        self.remove_state(state)
    }

    /// Removes a state whose program is attached nowhere, and the marks of its members.
    pub(super) fn remove_state(&mut self, mut state: GroupState) -> Result<()> {
        let group = Arc::clone(&self.group);
        if let Some(layer) = self.layer_of(&state) {
            for member in state.enrolled().iter().filter_map(|cookie| group.member(*cookie)) {
                if let Ok(socket) = borrow::borrow(member) {
                    layer.unmark(socket.as_fd());
                }
            }
        }
        self.release_members(&state);
        state.empty(&group);
        state.unpin(&self.locked.root)
    }
}
