//! Members back into slots that they have: their records stayed, and the slots are empty.

use std::collections::HashSet;
use std::os::fd::AsFd as _;

use sk_reuseport::maps::MapError;

use super::enrol::Enroller;
use super::request::{Changes, LeftOut};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::borrow::{self, Borrowed};
use crate::model::group::{Group, Member};
use crate::model::id::{Cookie, Slot};

/// The members that live and cannot be borrowed by the caller: no array could take them.
pub(super) fn unborrowable(group: &Group) -> HashSet<Cookie> {
    let is_unborrowable = |member: &&Member| {
        borrow::borrow(member)
            .is_err_and(|why| matches!(why.kind(), ErrorKind::Denied | ErrorKind::Unsupported))
    };
    group.members.iter().filter(is_unborrowable).filter_map(|member| member.cookie).collect()
}

impl Enroller<'_> {
    /// Puts the members back into the slots that their records name, marks included: all but those that
    /// `stayed` there. Goes on without members that cannot be put back, and returns why.
    ///
    /// # Errors
    ///
    /// If no member is in its slot then.
    pub(crate) fn refill_all(&mut self, stayed: &HashSet<Cookie>) -> Result<Vec<Error>> {
        let occupied: Vec<(Slot, Cookie)> =
            self.state.occupied().map(|(slot, cookie, _)| (slot, cookie)).collect();
        let (mut changes, mut failures) = (Changes::default(), Vec::new());
        for (slot, cookie) in occupied {
            let Some(member) = self.group.member(cookie) else { continue };
            if stayed.contains(&cookie) {
                changes.kept += 1;
                continue;
            }
            self.make_room(slot, cookie);
            let refilled = self.refill(slot, member, &mut changes);
            failures.extend(refilled.err());
        }
        if changes.kept == 0
            && changes.enrolled.is_empty()
            && let Some(last) = failures.pop()
        {
            return Err(last);
        }
        Ok(failures)
    }

    /// Puts a member back into its slot, which is empty.
    pub(super) fn refill(
        &mut self,
        slot: Slot,
        member: &Member,
        changes: &mut Changes,
    ) -> Result<()> {
        let refilled = self
            .borrow_listed(member)
            .and_then(|socket| self.put_back(slot, &socket).map_err(|e| self.failed(member, e)));
        match refilled {
            Ok(()) => {
                changes.enrolled.extend(member.cookie);
                changes.refilled.extend(member.cookie);
            }
            Err(why) if self.goes_on_without(&why) => {
                changes.left_out.push(LeftOut::new(member, why));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn put_back(&mut self, slot: Slot, socket: &Borrowed) -> Result<(), MapError> {
        let record = self.state.record(slot);
        if let Some(layer) = self.counting()
            && let Some(index) = record.host_member
        {
            let epoch = layer.epoch(index);
            layer.mark(socket.as_fd(), index, epoch)?;
        }
        if let Some(maps) = &self.state.policy_maps {
            maps.reports.set_epoch(slot, record.epoch);
        }
        self.fill(slot, socket.as_fd())
    }

    /// Borrows a member that had its slot when the group was listed. If no process held it, none says that it has
    /// closed since: the kernel's tables do.
    fn borrow_listed(&self, member: &Member) -> Result<Borrowed> {
        borrow::borrow(member).map_err(|error| match self.observer.listed(&self.group.key) {
            Ok(Some(listed)) if member.holders.is_empty() && !listed.has(member) => {
                Error::new(ErrorKind::Vanished, format!("cannot enrol {}", member.label()))
                    .because("it has closed")
            }
            _ => error,
        })
    }
}
