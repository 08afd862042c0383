//! Prepares the attachment of the next group in a thread, while the present one is put into force: loading a program is
//! work for the verifier, and a table in force is a wait for a grace period.
//!
//! It is a guess. A transaction takes what was prepared if that is what it needs, and else prepares itself.

use std::thread::{self, JoinHandle};

use super::prepared::{Prepared, capacity, prepare_selection};
use super::request::Attach;
use crate::kernel::sockets::SocketsKind;
use crate::model::group::{Group, GroupKey};
use crate::model::plan::{self, AttachPlan, Build, Observed};
use crate::model::selection::{Program, Selection, Steering};
use crate::pins::bpffs::Root;
use crate::pins::group;
use crate::pins::host_layer::SharedLayer;

/// What a transaction prepares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Guess {
    pub(super) key: GroupKey,
    pub(super) selection: Selection,
    pub(super) slots: u32,
}

/// What a thread prepares.
pub(super) struct Ahead {
    guess: Guess,
    /// The host-wide layer that the program reads.
    layer: Option<u32>,
    /// `None` after an error, which the transaction will meet, too.
    thread: Option<JoinHandle<Option<Prepared>>>,
}

impl Guess {
    /// What attaching to this group probably prepares; `None` if that is not simple: other steps come first where a
    /// program decides already or state is pinned.
    pub(super) fn of(
        root: &Root,
        groups: &[Group],
        (key, attach): &(GroupKey, Attach),
    ) -> Option<Self> {
        let mut named = groups.iter().filter(|group| group.key.has_name_of(key));
        let (Some(group), None) = (named.next(), named.next()) else { return None };
        if group.program.is_some() || group::is_pinned(root, &group.key) {
            return None;
        }
        let build = planned(group, attach)?;
        let Program::Selection(selection) = build.program else { return None };
        let slots = capacity(group, build.slots).ok()?;
        Some(Self { key: group.key.clone(), selection, slots })
    }

    /// Whether the program reads the host-wide layer.
    pub(super) fn is_counted(&self) -> bool {
        self.selection.policy.counts_open(self.key.protocol)
    }
}

/// What the plan makes of a group without program and state.
fn planned(group: &Group, attach: &Attach) -> Option<Build> {
    let (key, steering) = (&group.key, Steering::KernelHash);
    let observed = Observed { key, program: None, steering, namesake: None };
    match plan::attach(observed, None, attach.wanted()) {
        Ok(AttachPlan::Build(build)) => Some(build),
        _ => None,
    }
}

impl Ahead {
    /// Begins to prepare.
    pub(super) fn begin(guess: Guess, layer: Option<SharedLayer>) -> Option<Self> {
        let Guess { key, selection, slots } = guess.clone();
        let id = layer.as_ref().map(|layer| layer.id);
        let prepare = move || {
            prepare_selection(&key, selection, SocketsKind::Array, slots, layer.as_ref()).ok()
        };
        let thread = thread::Builder::new().name("reuseport-load".into()).spawn(prepare).ok()?;
        Some(Self { guess, layer: id, thread: Some(thread) })
    }

    /// Waits for what was prepared, if it is this.
    pub(super) fn take(mut self, wanted: &Guess, layer: Option<&SharedLayer>) -> Option<Prepared> {
        let prepared = self.thread.take()?.join().ok()?;
        prepared.filter(|_| self.guess == *wanted && self.layer == layer.map(|layer| layer.id))
    }
}

/// What nothing takes is let go of before the operation ends.
impl Drop for Ahead {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
