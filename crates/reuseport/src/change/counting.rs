//! Which groups have marked members: those of which the program compares open connections. A group joins the host-wide
//! layer with the program that does, and leaves it when another one is settled.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use super::transaction::Transaction;
use crate::error::Result;
use crate::kernel::borrow;
use crate::kernel::caps;
use crate::model::roster::{Record, Roster};
use crate::pins::group::GroupState;

impl Transaction<'_> {
    /// Whether the group's connections are not counted in the present layer although they could be.
    pub(super) fn must_join_layer(&mut self, state: &GroupState) -> Result<bool> {
        let layer = self.locked.layer()?;
        let left = layer.is_pinned() && !state.is_in_layer(layer.id());
        Ok(left || !state.instance.setup.is_counted())
    }

    /// The same members with new indices in the layer.
    pub(super) fn join_layer(&mut self, roster: &Roster) -> Result<Roster> {
        let group = Arc::clone(&self.group);
        let layer = self.locked.layer()?;
        let mut joined = roster.clone();
        for (slot, cookie, record) in roster.occupied() {
            // One that cannot be borrowed is not counted.
            let member = group.member(cookie).filter(|member| borrow::borrow(member).is_ok());
            let host_member = member.and_then(|_| Some(layer.allocate()?.0));
            joined.set(slot, Record { host_member, ..record });
        }
        Ok(joined)
    }

    /// Marks the members with their indices in the layer. A pinned table has them, so that the marks are found after an
    /// interruption.
    pub(super) fn mark_members(&mut self, roster: &Roster) -> Result<()> {
        let group = Arc::clone(&self.group);
        let layer = self.locked.layer()?;
        for (_, cookie, record) in roster.occupied() {
            if let (Some(index), Some(member)) = (record.host_member, group.member(cookie))
                && let Ok(socket) = borrow::borrow(member)
            {
                let epoch = layer.epoch(index);
                layer.mark(socket.as_fd(), index, epoch).map_err(|error| {
                    let failed = format!("cannot count the connections of {}", member.label());
                    caps::failed(&failed, error, caps::LOADING)
                })?;
            }
        }
        Ok(())
    }
}
