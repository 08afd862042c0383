//! The way back, after a failure and after a kill: what did not come into force is dropped.

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use super::request::Changes;
use super::transaction::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::borrow;
use crate::model::id::{Cookie, Slot};
use crate::pins::commit::Dropped;
use crate::pins::group::GroupState;
use crate::pins::leftover;

impl Transaction<'_> {
    /// Completes or takes back a change that was interrupted. The `attached` program stays.
    pub(super) fn settle(&mut self, state: &mut GroupState, attached: Option<u32>) -> Result<()> {
        if attached.is_some_and(|id| state.has_program(id)) {
            // This tool's program is attached: a takeover is complete.
            state.forget_replaced();
        }
        let Dropped { members, host_members } = state.settle(&self.group, attached)?;
        if members.is_empty() && host_members.is_empty() {
            return Ok(());
        }
        let group = Arc::clone(&self.group);
        let Some(layer) = self.locked.present_layer()? else { return Ok(()) };
        let counted: HashSet<Cookie> = state
            .occupied()
            .filter(|(.., record)| record.host_member.is_some())
            .map(|(_, cookie, _)| cookie)
            .collect();
        let unmarked = members.iter().chain(host_members.iter().map(|(.., cookie)| cookie));
        let unmarked: HashSet<&Cookie> = unmarked.filter(|one| !counted.contains(one)).collect();
        for member in unmarked.into_iter().filter_map(|cookie| group.member(*cookie)) {
            // A closed socket has no mark.
            if let Ok(socket) = borrow::borrow(member) {
                layer.unmark(socket.as_fd());
            }
        }
        for (setup, index, _) in host_members {
            if setup.is_in_layer(layer.id()) {
                layer.release(index);
            }
        }
        Ok(())
    }

    /// The same after a failure. What cannot be taken back now, the next command takes back.
    pub(super) fn fall_back(&mut self, state: &mut GroupState) {
        if let Err(error) = self.settle(state, self.group.attached_id()) {
            self.warn_unsettled(&error);
        }
        self.collect();
    }

    /// The same after a failure of an operation that had made these changes: members that it put back into their slots
    /// leave them again.
    pub(super) fn fall_back_from(&mut self, state: &mut GroupState, changes: &Changes) {
        let refilled =
            |(slot, cookie, _)| changes.refilled.contains(&cookie).then_some((slot, cookie));
        let refilled: Vec<(Slot, Cookie)> = state.occupied().filter_map(refilled).collect();
        for (slot, cookie) in refilled {
            state.empty_slot(slot, cookie);
        }
        self.fall_back(state);
    }

    /// Warns of what could not be taken back: the group is not as it was.
    pub(super) fn warn_unsettled(&mut self, error: &Error) {
        self.unsettled = true;
        error.report().warn();
    }

    /// The error of an operation that failed, with what became of the group: it is as it was if what the operation had
    /// begun was taken back, and the same program decides.
    pub(super) fn told(&self, error: Error) -> Error {
        let is_as_before =
            || !self.unsettled && self.is_decided_as_before().is_ok_and(|is_same| is_same);
        match error.kind() == ErrorKind::System && is_as_before() {
            true => error.and_unchanged(),
            false => error,
        }
    }

    /// Frees indices of the host-wide layer that no member has.
    pub(super) fn collect(&self) {
        if let Some(layer) = &self.locked.layer {
            leftover::release_indices(&self.locked.root, layer);
        }
    }
}
