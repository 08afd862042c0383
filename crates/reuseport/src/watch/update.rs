//! Updates of groups: several that are due share a lock and a listing.

use std::sync::Arc;
use std::time::Instant;

use super::Watch;
use crate::change::batch::{Share, let_others};
use crate::change::locked::Locked;
use crate::change::request::Attach;
use crate::change::transaction::{Transaction, watch_over};
use crate::error::{ErrorKind, Result};
use crate::follow::seen::{Done, Found, Seen, Step};
use crate::kernel::observe::Extent;
use crate::look::counted;
use crate::model::degraded::Degraded;
use crate::model::group::{Group, GroupKey};
use crate::model::refusal::not_attached;

impl Watch {
    /// Updates this group, and others of which the update needs as much of the host.
    pub(super) fn update_each(&mut self, first: GroupKey, extent: &Extent) {
        // Before the lock, which removes what belongs to no group and is not watched.
        self.watch_over_present(&first);
        let others: Vec<GroupKey> = self.follower.due_updates(extent).cloned().collect();
        others.iter().for_each(|key| self.watch_over_present(key));
        let at = Instant::now();
        let mut locked = match self.host.lock_near(&self.stop, extent) {
            Ok(locked) => locked,
            Err(error) => return self.follower.updated(at, &first, Err(error)),
        };
        let mut share = Share::new();
        let mut keys = [first].into_iter().chain(others);
        for key in keys.by_ref() {
            self.follower.begin_update(&key);
            let outcome = self.update(&mut locked, at, &key);
            let goes_on = share.goes_on_after(&outcome) && !self.stop.is_set();
            self.follower.updated(Instant::now(), &key, outcome);
            if !goes_on {
                break;
            }
        }
        drop(locked);
        if keys.next().is_some() {
            let_others();
        }
    }

    /// Updates the group as a transaction finds it, which removes the state of a group that is not there unless
    /// it is watched. `at`: when the groups were listed.
    fn update(&mut self, locked: &mut Locked, at: Instant, key: &GroupKey) -> Result<Done> {
        let whole = locked.is_whole();
        let mut transaction = match locked.transaction(key) {
            // Nothing is pinned under the name: it was detached, whatever group it means now.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Ambiguous)
                    && !self.is_kept(key) =>
            {
                return Err(not_attached(key));
            }
            begun => begun?,
        };
        let slots = transaction.slot_owners().ok_or_else(|| not_attached(key))?;
        let group = Group::clone(transaction.group());
        let displaced_by = transaction.displaced_by()?;
        let counted = self.counting(key, &group).is_in(counted::layer(self.host.place()));
        let seen = Seen::new(&group, counted, whole);
        let found = Found { slots, group, seen, displaced_by };
        loop {
            match self.follower.plan(at, key, &found)? {
                Step::Rest => return Ok(Done::Rested),
                Step::LookAtAll => return Ok(Done::SawTooLittle),
                Step::GiveWay => {
                    // Another process may have attached anew since the last look.
                    self.watch_over_present(key);
                    transaction.give_way()?;
                    self.follower.gave_way(key);
                }
                Step::Attach { group, force, awaited } => {
                    let how = Attach { force, awaited, ..self.how_to_update(key) };
                    return self.attach(transaction.on(*group), key, &how, whole);
                }
            }
        }
    }

    fn how_to_update(&self, key: &GroupKey) -> Attach {
        self.watched.get(key).map(|watched| watched.attach.clone()).unwrap_or_default()
    }

    fn attach(
        &mut self,
        transaction: Transaction<'_>,
        key: &GroupKey,
        how: &Attach,
        whole: bool,
    ) -> Result<Done> {
        let group = Arc::clone(transaction.group());
        let attached = transaction.attach(how)?;
        if let Some(watched) = self.watched.get_mut(key) {
            watched.keep = watch_over(self.host.place(), key)?;
        }
        // As the operation left it: what changed since is for the next look.
        let counted = !attached.degraded.iter().any(|what| matches!(what, Degraded::Uncounted(_)));
        let seen = Seen::new(&group, counted, whole);
        Ok(Done::Attached(Box::new(attached), seen))
    }
}
