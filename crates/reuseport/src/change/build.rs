//! Builds a group's state in staging, and attaches its program.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use sk_reuseport::programs::{ProgramFd, SkReuseport};

use super::check::check_room;
use super::prepare::{Prepared, prepare};
use super::reach::{attach_to, detach_from};
use super::refill::unborrowable;
use super::request::{Attach, Attached, Changes};
use super::transaction::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::sockets::SocketsKind;
use crate::model::degraded::Degraded;
use crate::model::group::Group;
use crate::model::id::Cookie;
use crate::model::refusal::{changed_meanwhile, vanished};
use crate::model::selection::{ObjectSpec, Program, Steering};
use crate::pins::group::GroupState;
use crate::stop::Stop;

pub(super) const TAKE_OUT: &str = "a socket can be in only one socket array, and is in another program's: \
                        take it out there, or restart the server";

/// How long to wait for the kernel to free an array.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

impl Transaction {
    /// Builds with a socket array or, if a socket is in another program's socket map, with a socket map,
    /// which accepts it.
    ///
    /// Neither accepts a socket that is in another array. The kernel frees an array only some time
    /// after its last user is gone (`bpf_map_put`), so this retries for the given time.
    pub(super) fn build_either(
        &mut self,
        group: &Group,
        request: &Attach,
        program: &Program<ObjectSpec>,
        mut prepared: Prepared,
        patience: Duration,
    ) -> Result<(Changes, Option<Degraded>)> {
        const PAUSE: Duration = Duration::from_millis(10);

        let end = Instant::now() + patience;
        loop {
            let busy = match self.build(group, request, prepared) {
                Err(error) if error.kind() == ErrorKind::Busy => error,
                result => return result,
            };
            if program.selection().is_some() {
                let second = prepare(group, request, program, SocketsKind::Map, self.layer()?)
                    .and_then(|prepared| self.build(group, request, prepared));
                match second {
                    Err(error) if error.kind() == ErrorKind::Busy => {}
                    result => return result,
                }
            }
            if Instant::now() >= end {
                return Err(busy.with_hint(TAKE_OUT));
            }
            std::thread::sleep(PAUSE);
            prepared = prepare(group, request, program, SocketsKind::Array, self.layer()?)?;
        }
    }

    /// Pins the state, fills it, attaches the program. A failure leaves no state.
    pub(super) fn build(
        &mut self,
        group: &Group,
        request: &Attach,
        prepared: Prepared,
    ) -> Result<(Changes, Option<Degraded>)> {
        let Prepared { mut program, mut state, degraded, pins } = prepared;
        match self.commit(group, request, &mut program, &mut state) {
            Ok(changes) => {
                pins.keep();
                Ok((changes, degraded))
            }
            Err(error) => {
                if let Err(error) = self.remove_state(group, state) {
                    error.report().warn();
                }
                Err(error)
            }
        }
    }

    fn commit(
        &mut self,
        group: &Group,
        request: &Attach,
        program: &mut SkReuseport,
        state: &mut GroupState,
    ) -> Result<Changes> {
        state.stage(&self.root, program)?;
        let changes = self.enrol(group, request, state)?;
        if changes.enrolled.is_empty() {
            return Err(vanished(&group.key));
        }
        self.place_on_cpus(group, state, request.cpus.as_ref())?;
        request.stop.check(&format!("attaching to {}", group.key))?;
        state.place(&self.root, &group.key)?;
        self.refuse_if_changed(group)?;
        attach_to(group, program)?;
        Ok(changes)
    }

    /// Replaces this tool's program by one with other maps. A socket fits one array only, so the old array is
    /// emptied before the new one is filled; in between the kernel's hash decides.
    pub(super) fn replace(
        &mut self,
        group: &Group,
        request: &Attach,
        program: &Program<ObjectSpec>,
        old: GroupState,
    ) -> Result<Attached> {
        let attached = group.attached_id().map(|id| old.program_with_id(id)).transpose()?;
        let Some(old_program) = attached.flatten() else {
            return Err(changed_meanwhile(&group.key));
        };
        // Errors of the new program show before anything changes.
        let prepared = prepare(group, request, program, SocketsKind::Array, self.layer()?)?;
        check_room(group, &prepared.state)?;
        self.refuse_if_changed(group)?;
        detach_from(group)?;
        let bare = Group { program: None, ..group.clone() };
        let mut old = Aside::put(group, old, old_program);
        let unpinned = old.state.unpin(&self.root);
        match unpinned.and_then(|()| self.build_either(&bare, request, program, prepared, PATIENCE))
        {
            Ok((changes, degraded)) => {
                self.release_members(&old.state);
                let steering = Steering::Ours(program.kind());
                Ok(Attached {
                    steering,
                    changes,
                    replaced: None,
                    degraded: degraded.into_iter().collect(),
                })
            }
            Err(error) => {
                let restored = self.restore(group, &mut old, true);
                let attached = restored.and_then(|()| attach_to(group, &old.program));
                if let Err(second) = attached {
                    second.report().warn_that(format_args!("{} is not steered now", group.key));
                }
                Err(error)
            }
        }
    }

    /// Removes a state whose program is attached nowhere and builds a new one: with `build`. If that fails, the
    /// old state comes back, with its weights and drains.
    pub(super) fn build_in_place_of<T>(
        &mut self,
        group: &Group,
        old: GroupState,
        replaced: Option<&ProgramFd>,
        build: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        // The next `attach` fills empty slots, which it cannot see in a user's own map whose values have 4 bytes.
        // Root fills no map of another user's.
        let fill = !old.sockets.is_readable() && old.is_trusted();
        let Some(program) = old.program_if_pinned()? else {
            // It is incomplete.
            return self.remove_state(group, old).and_then(|()| build(self));
        };
        let mut old = Aside::put(group, old, program);
        let built = old.state.unpin(&self.root).and_then(|()| build(self));
        if built.is_ok() {
            self.release_members(&old.state);
            return built;
        }
        // What an interrupted takeover left is for the next command.
        if let Ok(None) = GroupState::existing(&self.root, &group.key) {
            let restored = self.restore(group, &mut old, fill);
            let pinned = replaced.map_or(Ok(()), |program| old.state.pin_replaced(program));
            for error in [restored, pinned].into_iter().filter_map(Result::err) {
                error.report().warn();
            }
        }
        built
    }

    /// Pins a state again, and with `fill` puts the members back into its slots. It is in its place also if
    /// members cannot be put back: the next `attach` goes on from there.
    fn restore(&mut self, group: &Group, old: &mut Aside, fill: bool) -> Result<()> {
        old.state.stage(&self.root, &mut old.program)?;
        old.state.give_to(old.owner)?;
        let stop = Stop::default();
        let filled = match fill {
            true => self
                .enroller(&mut old.state, &stop)
                .and_then(|mut enroller| enroller.refill_all(group, &old.stay)),
            false => Ok(()),
        };
        old.state.place(&self.root, &group.key)?;
        filled
    }
}

/// A state that gives way to a new one and may have to come back.
struct Aside {
    state: GroupState,
    program: SkReuseport,
    owner: u32,
    /// The members that are still in its array.
    stay: HashSet<Cookie>,
}

impl Aside {
    /// Takes the members out of a state's array, except those that the new one cannot take either: they could
    /// not be put back.
    fn put(group: &Group, mut state: GroupState, program: SkReuseport) -> Self {
        let stay = unborrowable(group);
        state.empty_except(group, &stay);
        Self { owner: state.owner(), state, program, stay }
    }
}

/// The same error, with this hint if a socket is busy.
pub(super) fn if_busy(error: Error, hint: &'static str) -> Error {
    if error.kind() == ErrorKind::Busy { error.with_hint(hint) } else { error }
}
