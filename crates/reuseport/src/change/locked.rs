//! What operations on groups need, under the lock: the listing and the layers. One of these serves one
//! [transaction](super::transaction), or several in turn ([`batch`](super::batch)).

use std::sync::Arc;

use super::ahead::{Ahead, Guess};
use crate::error::{ErrorKind, Result};
use crate::kernel::observe::{Extent, Observer};
use crate::model::degraded::Degraded;
use crate::model::group::Group;
use crate::model::status::Uncounted;
use crate::pins::bpffs::{self, Lock, Root};
use crate::pins::group;
use crate::pins::host_layer::HostLayer;
use crate::pins::leftover;
use crate::pins::place::Place;
use crate::stop::Stop;

/// How often to look again for what a listing may have missed, such as the holder of a member, which may be on its way
/// from one process to another, or closing.
pub(super) const LOOKS: u32 = 3;

/// The lock, the groups as they were when it was acquired, and the layers.
pub(crate) struct Locked {
    pub(super) root: Root,
    /// Opened on first use: a refused request creates no state.
    pub(super) layer: Option<HostLayer>,
    /// Whether the present layer is one to put members into, and not one to take them out of alone.
    is_complete: bool,
    /// Whether an operation created it.
    made_layer: bool,
    pub(super) groups: Vec<Group>,
    /// Whether these are all groups of the host.
    is_whole: bool,
    pub(super) observer: Arc<Observer>,
    /// What the transaction after the present one will prepare.
    pub(super) next: Option<Guess>,
    /// What was prepared for the present transaction.
    pub(super) ahead: Option<Ahead>,
    _lock: Lock,
}

/// Removes a host-wide layer that serves no group.
impl Drop for Locked {
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

impl Locked {
    /// Waits for the lock, and removes what interrupted commands left. `extent`: what to list of the host.
    pub(crate) fn new(
        observer: Arc<Observer>,
        place: &Place,
        stop: &Stop,
        extent: &Extent,
    ) -> Result<Self> {
        let root = Root::create(place)?;
        let lock = root.lock(stop)?;
        let (mut groups, mut is_whole) = observer.groups_near(extent)?;
        leftover::clear_unfinished(&root)?;
        leftover::bring_back(&root)?;
        let mut dead = leftover::dead(&root, &groups)?;
        for _ in 0..LOOKS {
            if dead.is_empty() {
                break;
            }
            // A listing misses a group if others join while its last members leave.
            (groups, is_whole) = (observer.groups()?, true);
            leftover::keep_missing(&mut dead, &groups);
        }
        leftover::remove(&root, dead)?;
        Ok(Self {
            root,
            layer: None,
            is_complete: false,
            made_layer: false,
            groups,
            is_whole,
            observer,
            next: None,
            ahead: None,
            _lock: lock,
        })
    }

    /// Between two operations: what one takes members out of, the next one may put members into.
    pub(super) fn begin(&mut self) {
        if !self.is_complete {
            self.layer = None;
        }
    }

    /// Whether the listing is of the whole host.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Begins to prepare what the next transaction will need, if that is known.
    pub(super) fn look_ahead(&mut self) {
        let Some(guess) = self.next.take() else { return };
        // Another policy makes no layer.
        let shared = || self.layer.as_ref().filter(|_| self.is_complete)?.shared().ok();
        let layer = guess.is_counted().then(shared);
        if layer.as_ref().is_none_or(Option::is_some) {
            self.ahead = Ahead::begin(guess, layer.flatten());
        }
    }

    /// The host-wide layer, created if necessary.
    pub(super) fn layer(&mut self) -> Result<&mut HostLayer> {
        let layer = match self.layer.take() {
            Some(layer) if self.is_complete => layer,
            _ => {
                let layer = self.open_layer()?;
                // Interrupted commands leave indices that no member has.
                leftover::release_indices(&self.root, &layer);
                layer
            }
        };
        self.is_complete = true;
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
}
