//! Builds a group's state in staging, and attaches its program.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sk_reuseport::programs::SkReuseport;

use super::check::check_room;
use super::enrol::Admission;
use super::prepared::Prepared;
use super::reach::{attach_to, detach_from};
use super::refill::unborrowable;
use super::request::{Attach, Changes};
use super::transaction::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::sockets::SocketsKind;
use crate::model::degraded::Degraded;
use crate::model::group::Group;
use crate::model::id::Cookie;
use crate::model::plan::Build;
use crate::model::refusal::{changed_meanwhile, vanished};
use crate::pins::bpffs::Root;
use crate::pins::group::GroupState;
use crate::stop::Stop;

pub(super) const TAKE_OUT: &str = "a socket can be in only one socket array, and is in another program's: \
                        take it out there, or restart the server";

/// What became of the members, and what the program cannot do.
pub(super) type Done = (Changes, Option<Degraded>);

/// How long to wait for the kernel to free an array.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

impl Transaction<'_> {
    /// Builds with a socket array or, if a socket is in another program's socket map, with a socket map,
    /// which accepts it.
    ///
    /// Neither accepts a socket that is in another array. The kernel frees an array only some time
    /// after its last user is gone (`bpf_map_put`), so this retries for the given time.
    pub(super) fn build_either(
        &mut self,
        request: &Attach,
        build: &Build,
        mut prepared: Prepared,
        patience: Duration,
    ) -> Result<Done> {
        const PAUSE: Duration = Duration::from_millis(10);

        let end = Instant::now() + patience;
        loop {
            let busy = match self.build(request, build, prepared) {
                Err(error) if error.kind() == ErrorKind::Busy => error,
                result => return result,
            };
            if build.program.selection().is_some() {
                let second = self
                    .prepare(build, SocketsKind::Map)
                    .and_then(|prepared| self.build(request, build, prepared));
                match second {
                    Err(error) if error.kind() == ErrorKind::Busy => {}
                    result => return result,
                }
            }
            if Instant::now() >= end {
                return Err(busy.with_hint(TAKE_OUT));
            }
            std::thread::sleep(PAUSE);
            prepared = self.prepare(build, SocketsKind::Array)?;
        }
    }

    /// Pins the state, fills it, attaches the program. A failure leaves no state.
    pub(super) fn build(
        &mut self,
        request: &Attach,
        build: &Build,
        prepared: Prepared,
    ) -> Result<Done> {
        let Prepared { mut program, mut state, degraded, pins } = prepared;
        let admission = Admission::new(request, build);
        match self.commit(admission, &mut program, &mut state) {
            Ok(changes) => {
                pins.keep();
                Ok((changes, degraded))
            }
            Err(error) => {
                self.remove_failed(state);
                Err(error)
            }
        }
    }

    /// Removes a state whose program could not be attached.
    pub(super) fn remove_failed(&mut self, state: GroupState) {
        if let Err(error) = self.remove_state(state) {
            self.warn_unsettled(&error);
        }
        self.collect();
    }

    fn commit(
        &mut self,
        admission: Admission<'_>,
        program: &mut SkReuseport,
        state: &mut GroupState,
    ) -> Result<Changes> {
        state.stage(&self.locked.root, program)?;
        let changes = self.enrol(admission, state)?;
        if changes.enrolled.is_empty() {
            return Err(vanished(&self.group.key));
        }
        state.commit()?;
        admission.request.stop.check(&format!("attaching to {}", self.group.key))?;
        state.place(&self.locked.root, &self.group.key)?;
        self.refuse_if_changed()?;
        attach_to(&self.group, program)?;
        Ok(changes)
    }

    /// Replaces this tool's program by one with other maps. A socket fits one array only, so the old array is
    /// emptied before the new one is filled; in between the kernel's hash decides.
    pub(super) fn replace(
        &mut self,
        request: &Attach,
        build: &Build,
        old: GroupState,
    ) -> Result<Done> {
        let Some(old_program) = old.open_program()? else {
            return Err(changed_meanwhile(&self.group.key));
        };
        // Errors of the new program show before anything changes.
        let prepared = self.prepare(build, SocketsKind::Array)?;
        check_room(&self.group, &prepared.state)?;
        self.refuse_if_changed()?;
        detach_from(&self.group)?;
        self.group = Arc::new(Group { program: None, ..Group::clone(&self.group) });
        let replaced = match Aside::put(&self.locked.root, &self.group, old) {
            Ok(mut old) => match self.build_either(request, build, prepared, PATIENCE) {
                Ok(done) => {
                    self.discard(old);
                    return Ok(done);
                }
                Err(error) => (error, self.restore(&mut old, true)),
            },
            Err(error) => (error, Ok(())),
        };
        let (error, restored) = replaced;
        if let Err(second) = restored.and_then(|()| attach_to(&self.group, &old_program)) {
            self.unsettled = true;
            second.report().warn_that(format_args!("{} is not steered now", self.group.key));
        }
        Err(error)
    }

    /// Builds a new state in place of one whose program is attached nowhere: with `build`. If that fails, the
    /// old state comes back, with its weights and drains.
    pub(super) fn build_in_place_of<T>(
        &mut self,
        old: GroupState,
        build: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        // The next `attach` fills empty slots, which it cannot see in a user's own map whose values have 4 bytes.
        // Root fills no map of another user's.
        let fill = !old.sockets.is_readable() && old.is_trusted();
        let mut old = Aside::put(&self.locked.root, &self.group, old)?;
        let built = build(self);
        if built.is_ok() {
            self.discard(old);
            return built;
        }
        // What an interrupted takeover left is for the next command.
        if let Ok(None) = GroupState::of(&self.locked.root, &self.group)
            && let Err(error) = self.restore(&mut old, fill)
        {
            self.warn_unsettled(&error);
        }
        built
    }

    /// Moves a state back into its place, and with `fill` puts the members back into its slots. It is in its place
    /// also if members cannot be put back: the next `attach` goes on from there.
    fn restore(&mut self, old: &mut Aside, fill: bool) -> Result<()> {
        let stop = Stop::default();
        let filled = match fill {
            true => self
                .enroller(&mut old.state, &stop)
                .and_then(|mut enroller| enroller.refill_all(&old.stay)),
            false => Ok(Vec::new()),
        };
        old.state.place(&self.locked.root, &self.group.key)?;
        filled?.iter().for_each(|missing| self.warn_unsettled(missing));
        Ok(())
    }

    /// Removes a state that another one has replaced.
    fn discard(&mut self, mut old: Aside) {
        self.release_members(&old.state);
        // If this fails, the next command does it.
        if let Err(error) = old.state.unpin(&self.locked.root) {
            tracing::debug!("{}", error.report());
        }
    }
}

/// A state that gives way to a new one and may have to come back.
struct Aside {
    state: GroupState,
    /// The members that are still in its array.
    stay: HashSet<Cookie>,
}

impl Aside {
    /// Moves a state aside, and takes the members out of its array, except those that the new one cannot take either:
    /// they could not be put back.
    fn put(root: &Root, group: &Group, mut state: GroupState) -> Result<Self> {
        let stay = unborrowable(group);
        state.put_aside(root)?;
        state.empty_except(group, &stay);
        Ok(Self { state, stay })
    }
}

/// The same error, with this hint if a socket is busy.
pub(super) fn if_busy(error: Error, hint: &'static str) -> Error {
    if error.kind() == ErrorKind::Busy { error.with_hint(hint) } else { error }
}
