//! One operation on a group, under the [lock](super::locked).
//!
//! It holds the group as it was last seen: what follows needs no other name of it.
//!
//! Every step that can fail comes before the one that counts, which is one call: swapping the table, attaching or
//! detaching the program. [Settling](super::settle) drops the steps before it if a step fails, and completes those
//! after it.

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::enrol::{Admission, Enroller};
use super::locked::Locked;
use super::request::Changes;
use crate::error::{ErrorKind, Result};
use crate::kernel::caps;
use crate::model::group::{AttachedProgram, Group, GroupKey};
use crate::model::id::Cookie;
use crate::model::plan::Wishes;
use crate::model::refusal::{changed_meanwhile, vanished};
use crate::model::split;
use crate::pins::bpffs::Root;
use crate::pins::group::{self, GroupState};
use crate::pins::host_layer::HostLayer;
use crate::pins::place::Place;
use crate::pins::steering::claim;
use crate::stop::Stop;
use crate::wire::slot::Start;

/// Keeps a group's state while the server restarts, until the returned file is dropped. `None` if
/// there is no state.
pub(crate) fn watch_over(place: &Place, key: &GroupKey) -> Result<Option<File>> {
    let Some(root) = Root::existing(place)? else { return Ok(None) };
    match group::watch(&root, key) {
        Err(error) if caps::os_error(&error) == Some(Errno::NOENT) => Ok(None),
        result => result.map(Some),
    }
}

/// The pause between two looks of [`LOOKS`](super::locked::LOOKS).
pub(super) const PAUSE: Duration = Duration::from_millis(15);

/// Who has the slots of a group.
#[derive(Debug, Default)]
pub(crate) struct SlotOwners {
    /// The members in slots.
    pub(crate) in_slots: HashSet<Cookie>,
    /// The members in the table: these, and those whose slots the kernel has emptied.
    pub(crate) enrolled: HashSet<Cookie>,
}

/// One operation on a group.
pub(crate) struct Transaction<'l> {
    pub(super) locked: &'l mut Locked,
    /// The group that it is about.
    pub(super) group: Arc<Group>,
    /// The same as it was when the operation began.
    begun: Arc<Group>,
    /// Whether what a failed step left could not be taken back.
    pub(super) unsettled: bool,
}

impl Locked {
    /// An operation on the group that the key means.
    pub(crate) fn transaction(&mut self, key: &GroupKey) -> Result<Transaction<'_>> {
        self.begin();
        let group = split::named(key, &self.groups, |group| claim(group, Some(&self.root)))?;
        let group = Arc::new(group.clone());
        Ok(Transaction { locked: self, begun: Arc::clone(&group), group, unsettled: false })
    }
}

impl Transaction<'_> {
    /// The group that the operation is about, as it was last seen.
    pub(crate) fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// The same operation, on what the caller makes of the group: without sockets that are not to be enrolled yet.
    pub(crate) fn on(mut self, group: Group) -> Self {
        self.group = Arc::new(group);
        self
    }

    /// Who has the group's slots; `None` if no state of the group is pinned.
    pub(crate) fn slot_owners(&self) -> Option<SlotOwners> {
        match GroupState::existing(&self.locked.root, &self.group.key, None) {
            // The operation that follows says what it is about.
            Err(_) => Some(SlotOwners::default()),
            Ok(state) => state.map(|state| SlotOwners {
                in_slots: state.in_slots(),
                enrolled: state.occupied().map(|(_, cookie, _)| cookie).collect(),
            }),
        }
    }

    /// The group as it is now.
    pub(super) fn look_again(&self) -> Result<Group> {
        self.among(&self.locked.observer.groups()?)
    }

    /// The group, in a new listing.
    fn among(&self, groups: &[Group]) -> Result<Group> {
        split::again(&self.group, groups).cloned().ok_or_else(|| vanished(&self.group.key))
    }

    /// Fails if another process attached or detached a program since the operation began.
    pub(super) fn refuse_if_changed(&self) -> Result<()> {
        match self.has_program_of(&self.group)? {
            true => Ok(()),
            false => Err(changed_meanwhile(&self.group.key)),
        }
    }

    /// Whether the same program decides as when the operation began.
    pub(super) fn is_decided_as_before(&self) -> Result<bool> {
        self.has_program_of(&self.begun)
    }

    /// Whether the group's program is now the one that it had then.
    fn has_program_of(&self, then: &Group) -> Result<bool> {
        // Where the kernel's tables tell, no descriptor does.
        let listed = if then.complete { self.locked.observer.groups_at(&then.key)? } else { None };
        let now = match listed {
            Some(groups) => self.among(&groups)?,
            None => self.look_again()?,
        };
        Ok(now.attached_id() == then.attached_id()
            && now.program.is_some() == then.program.is_some())
    }

    pub(super) fn enroller<'a>(
        &'a mut self,
        state: &'a mut GroupState,
        stop: &'a Stop,
    ) -> Result<Enroller<'a>> {
        let counts = state.counts_open() && state.instance.setup.is_counted();
        if counts {
            self.locked.layer()?;
        }
        Ok(Enroller {
            group: &self.group,
            state,
            layer: self.locked.layer.as_mut().filter(|_| counts),
            stop,
            start: Start::Together,
            wishes: Wishes::default(),
            partial: false,
            observer: &self.locked.observer,
        })
    }

    /// Gives the group's members slots in this state: in the announced table, which the caller puts into force.
    pub(super) fn enrol(
        &mut self,
        admission: Admission<'_>,
        state: &mut GroupState,
    ) -> Result<Changes> {
        let Admission { request, program, known, hold_new, trial } = admission;
        let cpus = self.placement(state, program, request.cpus.as_ref());
        let mut enroller = self.enroller(state, &request.stop)?;
        // A user's own program knows none of them.
        if program.selection().is_some() {
            enroller.wishes = Wishes {
                weights: &request.weights,
                generations: &request.generations,
                known,
                hold_new,
                awaited: &request.awaited,
                trial,
                follows: request.follows,
                cpus: cpus.as_ref(),
                ..Wishes::default()
            };
        }
        enroller.partial = request.partial;
        enroller.sync()
    }

    /// The state that another owner's program displaced; `None` if none did, or if it cannot be read.
    fn displaced(&self) -> Result<Option<GroupState>> {
        if self.group.program.is_none() {
            return Ok(None);
        }
        match self.find() {
            Ok(present) => Ok(present.displaced()),
            Err(error) if matches!(error.kind(), ErrorKind::Schema | ErrorKind::Denied) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The program that displaced this tool's; `None` if none did.
    pub(crate) fn displaced_by(&self) -> Result<Option<AttachedProgram>> {
        Ok(self.displaced()?.and_then(|_| self.group.program.clone()))
    }

    /// Takes the sockets out of the array of displaced state, and keeps the rest for the watcher. The owner of the
    /// program that decides may then use the sockets in an array of its own.
    pub(crate) fn give_way(&mut self) -> Result<()> {
        let Some(mut state) = self.displaced()? else { return Ok(()) };
        let stop = Stop::default();
        self.settle(&mut state, self.group.attached_id())?;
        self.enroller(&mut state, &stop)?.empty()
    }

    /// The host-wide layer, if the state's members have indices in it. What another user may write names none.
    pub(super) fn layer_of(&mut self, state: &GroupState) -> Option<&mut HostLayer> {
        let counted = |layer: &&mut HostLayer| state.is_trusted() && state.is_in_layer(layer.id());
        self.locked.layer.as_mut().filter(counted)
    }

    /// Returns the members' indices to the host-wide layer.
    pub(super) fn release_members(&mut self, state: &GroupState) {
        let Some(layer) = self.layer_of(state) else { return };
        state.host_members().into_iter().for_each(|index| layer.release(index));
    }
}
