//! One operation on a group, from the lock to the last step.
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
use super::request::Changes;
use crate::error::{ErrorKind, Result};
use crate::kernel::caps;
use crate::kernel::observe::{Extent, Observer};
use crate::model::degraded::Degraded;
use crate::model::group::{AttachedProgram, Group, GroupKey};
use crate::model::id::Cookie;
use crate::model::plan::Wishes;
use crate::model::refusal::{changed_meanwhile, vanished};
use crate::model::split;
use crate::model::status::Uncounted;
use crate::pins::bpffs::{self, Lock, Root};
use crate::pins::group::{self, GroupState};
use crate::pins::host_layer::HostLayer;
use crate::pins::leftover;
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

/// How often, and after which pause, to look again for the holder of a member, which may be on its way from one
/// process to another, or closing.
pub(super) const LOOKS: u32 = 3;
pub(super) const PAUSE: Duration = Duration::from_millis(15);

/// Who has the slots of a group.
#[derive(Debug, Default)]
pub(crate) struct SlotOwners {
    /// The members in slots.
    pub(crate) in_slots: HashSet<Cookie>,
    /// The members in the table: these, and those whose slots the kernel has emptied.
    pub(crate) enrolled: HashSet<Cookie>,
}

/// One operation: the lock, the groups as they were when it was acquired, and the layers.
pub(crate) struct Transaction {
    pub(super) root: Root,
    /// The group that it is about.
    pub(super) group: Arc<Group>,
    /// The same as it was when the operation began.
    begun: Arc<Group>,
    /// Opened on first use: a refused request creates no state.
    pub(super) layer: Option<HostLayer>,
    /// Whether this operation created it.
    made_layer: bool,
    pub(super) groups: Vec<Group>,
    pub(super) observer: Arc<Observer>,
    /// Whether what a failed step left could not be taken back.
    pub(super) unsettled: bool,
    _lock: Lock,
}

/// Removes a host-wide layer that serves no group.
impl Drop for Transaction {
    fn drop(&mut self) {
        let in_vain = self.layer.as_ref().is_none_or(HostLayer::is_unused);
        let next = self.layer.take_if(|layer| layer.is_next(&self.root));
        let done = match next {
            Some(layer) if !in_vain => layer.take_place(&self.root),
            Some(_) => HostLayer::remove_next(&self.root),
            None => Ok(()),
        };
        let unused = in_vain
            && self.root.host().exists()
            && (self.made_layer || !group::any_is_counted(&self.root));
        let removed = if unused { HostLayer::remove(&self.root) } else { Ok(()) };
        for error in [done, removed].into_iter().filter_map(Result::err) {
            error.report().warn();
        }
    }
}

impl Transaction {
    /// Waits for the lock, removes what interrupted commands left, and finds the group that the key means, in a
    /// listing that is perhaps of a part of the host. Returns also whether it is of the whole one.
    pub(crate) fn begin(
        observer: Arc<Observer>,
        place: &Place,
        key: &GroupKey,
        stop: &Stop,
        extent: &Extent,
    ) -> Result<(Self, bool)> {
        let root = Root::create(place)?;
        let lock = root.lock(stop)?;
        let (mut groups, mut whole) = observer.groups_near(extent)?;
        leftover::clear_unfinished(&root)?;
        leftover::bring_back(&root)?;
        let mut dead = leftover::dead(&root, &groups)?;
        for _ in 0..LOOKS {
            if dead.is_empty() {
                break;
            }
            // A listing misses a group if others join while its last members leave.
            (groups, whole) = (observer.groups()?, true);
            leftover::keep_missing(&mut dead, &groups);
        }
        leftover::remove(&root, dead)?;
        let group = split::named(key, &groups, |group| claim(group, Some(&root)))?;
        let group = Arc::new(group.clone());
        let this = Self {
            root,
            begun: Arc::clone(&group),
            group,
            layer: None,
            made_layer: false,
            groups,
            observer,
            unsettled: false,
            _lock: lock,
        };
        Ok((this, whole))
    }

    /// The group that the operation is about, as it was last seen.
    pub(crate) fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// The same operation, on what the caller makes of the group: without sockets that are not to be enrolled yet.
    pub(crate) fn on(mut self, group: Group) -> Self {
        self.group = Arc::new(group);
        self
    }

    /// The host-wide layer, created if necessary.
    pub(super) fn layer(&mut self) -> Result<&mut HostLayer> {
        let layer = match self.layer.take() {
            Some(layer) => layer,
            None => {
                let layer = self.open_layer()?;
                // Interrupted commands leave indices that no member has.
                leftover::release_indices(&self.root, &layer);
                layer
            }
        };
        Ok(self.layer.insert(layer))
    }

    fn open_layer(&mut self) -> Result<HostLayer> {
        let layer = match HostLayer::existing(&self.root) {
            // Root does not use it, and replaces it only if the operation succeeds.
            _ if bpffs::own_uid() == 0 && HostLayer::is_of_another_user(&self.root) => {
                HostLayer::create_next(&self.root)?
            }
            Ok(Some(layer)) if !layer.is_trusted() => return HostLayer::unpinned(),
            Ok(Some(layer)) if layer.counts() => layer,
            // It was created without the right to count.
            Ok(Some(_)) => HostLayer::create(&self.root)?,
            Ok(None) => {
                self.made_layer = true;
                HostLayer::create(&self.root)?
            }
            Err(error) if error.kind() == ErrorKind::Denied => {
                error.report().warn_that("open connections will not be counted");
                return HostLayer::unpinned();
            }
            Err(error) => return Err(error),
        };
        // Another user who may write to the root directory made it again meanwhile.
        if !layer.is_trusted() {
            return HostLayer::unpinned();
        }
        layer.recount();
        Ok(layer)
    }

    /// The host-wide layer if there is one, to take members out of it.
    pub(super) fn present_layer(&mut self) -> Result<Option<&mut HostLayer>> {
        if self.layer.is_none() {
            self.layer = match HostLayer::existing(&self.root) {
                // Another user's: it does not count this group.
                Err(error) if error.kind() == ErrorKind::Denied => None,
                result => result?.filter(HostLayer::is_trusted),
            };
        }
        Ok(self.layer.as_mut())
    }

    /// Why open connections are not counted in the layer that this operation used, if a program `counts` them.
    pub(super) fn uncounted(&self, counts: bool) -> Option<Degraded> {
        let layer = self.layer.as_ref().filter(|_| counts)?;
        match (layer.counts(), layer.is_pinned()) {
            (true, _) => None,
            (false, true) => Some(Degraded::Uncounted(Uncounted::NotAttached)),
            // The one that is pinned is another user's.
            (false, false) => Some(Degraded::Uncounted(Uncounted::Unreadable)),
        }
    }

    /// Who has the group's slots; `None` if no state of the group is pinned.
    pub(crate) fn slot_owners(&self) -> Option<SlotOwners> {
        match GroupState::existing(&self.root, &self.group.key, None) {
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
        self.among(&self.observer.groups()?)
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
        let listed = if then.complete { self.observer.groups_at(&then.key)? } else { None };
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
            self.layer()?;
        }
        Ok(Enroller {
            group: &self.group,
            state,
            layer: self.layer.as_mut().filter(|_| counts),
            stop,
            start: Start::Together,
            wishes: Wishes::default(),
            partial: false,
            observer: &self.observer,
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
        self.layer.as_mut().filter(counted)
    }

    /// Returns the members' indices to the host-wide layer.
    pub(super) fn release_members(&mut self, state: &GroupState) {
        let Some(layer) = self.layer_of(state) else { return };
        state.host_members().into_iter().for_each(|index| layer.release(index));
    }
}
