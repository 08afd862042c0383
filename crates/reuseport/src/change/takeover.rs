//! Takes a group over from another owner's program whose array holds the sockets.
//!
//! A socket fits one array only, so the sockets have to leave that array before they enter this tool's. In
//! between, the kernel's hash decides: a program with an empty array might drop what it cannot select.
//!
//! | step | after an interruption |
//! |---|---|
//! | pin the state, and the other program in it | that program decides |
//! | detach it | the kernel's hash decides; the next `attach` goes on from here |
//! | move the sockets | the same |
//! | attach this tool's program | it decides |
//! | forget the other one | the next command does it |
//!
//! If a step fails, the sockets go back and the other program is attached again: not if it did not decide any
//! more, because an earlier attempt was interrupted. Its array may then be empty, and the kernel's hash goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sk_reuseport::maps::MapError;
use sk_reuseport::programs::{ProgramError, SkReuseport};

use super::build::{Done, PATIENCE, TAKE_OUT};
use super::check::check_room;
use super::enrol::Admission;
use super::prepared::Prepared;
use super::reach::{attach_foreign, attach_to, detach_from};
use super::request::{Attach, Changes};
use super::transaction::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::caps;
use crate::kernel::foreign::{Foreign, Place};
use crate::kernel::sockets::SocketsKind;
use crate::model::group::{Group, GroupKey};
use crate::model::plan::Build;
use crate::model::refusal::vanished;
use crate::pins::group::GroupState;

impl Transaction<'_> {
    /// Opens the program that decides for the group, to take over from it. `busy` is the error that made
    /// this necessary: it comes back if the sockets are not in that program's arrays.
    pub(super) fn foreign(&self, busy: Error) -> Result<Foreign> {
        let group = &self.group;
        let Some(id) = group.attached_id() else { return Err(busy) };
        let foreign = Foreign::open(id).map_err(|error| cannot_open(&group.key, error))?;
        refuse_unless_movable(group, foreign, busy)
    }

    /// Goes on with a takeover that was interrupted, with new state in place of what it left.
    pub(super) fn take_over_again(
        &mut self,
        request: &Attach,
        build: &Build,
        prepared: Prepared,
        left: GroupState,
        mut foreign: Foreign,
    ) -> Result<Done> {
        self.build_in_place_of(left, |this| {
            this.take_over_patiently(request, build, prepared, &mut foreign)
        })
    }

    /// The kernel frees the array of the old state only some time after its pins are gone, so this retries for a
    /// moment.
    fn take_over_patiently(
        &mut self,
        request: &Attach,
        build: &Build,
        mut prepared: Prepared,
        foreign: &mut Foreign,
    ) -> Result<Done> {
        const PAUSE: Duration = Duration::from_millis(10);

        let end = Instant::now() + PATIENCE;
        loop {
            match self.take_over_anew(request, build, prepared, foreign) {
                Err(error) if error.kind() == ErrorKind::Busy && Instant::now() < end => {}
                result => return result,
            }
            if let Some(left) = GroupState::of(&self.locked.root, &self.group)? {
                self.remove_state(left)?;
            }
            std::thread::sleep(PAUSE);
            self.group = Arc::new(self.look_again()?);
            prepared = self.prepare(build, SocketsKind::Array)?;
        }
    }

    /// Builds new state and takes the group over.
    pub(super) fn take_over_anew(
        &mut self,
        request: &Attach,
        build: &Build,
        mut prepared: Prepared,
        foreign: &mut Foreign,
    ) -> Result<Done> {
        check_room(&self.group, &prepared.state)?;
        let placed = prepared
            .state
            .stage(&self.locked.root, &mut prepared.program)
            .and_then(|()| self.refuse_if_changed())
            .and_then(|()| prepared.state.place(&self.locked.root, &self.group.key));
        let result = placed.and_then(|()| {
            let admission = Admission::new(request, build);
            self.take_over(admission, &mut prepared.state, &prepared.program, foreign)
        });
        match result {
            Ok(changes) => {
                prepared.pins.keep();
                Ok((changes, prepared.degraded))
            }
            // The next command completes what could not be taken back.
            Err(error) if prepared.state.has_replaced() => Err(error),
            Err(error) => {
                self.remove_failed(prepared.state);
                Err(error)
            }
        }
    }

    /// Takes the group over with a state that is in its place.
    pub(super) fn take_over(
        &mut self,
        admission: Admission<'_>,
        state: &mut GroupState,
        program: &SkReuseport,
        foreign: &mut Foreign,
    ) -> Result<Changes> {
        let group = Arc::clone(&self.group);
        let places = foreign.places(&group).map_err(|error| cannot_read(&group.key, error))?;
        // Otherwise this goes on from an interrupted takeover.
        let decides = group.attached_id().is_some();
        let pinned = state.pin_replaced(&foreign.program);
        let detached = pinned.and_then(|()| {
            admission.request.stop.check(&format!("attaching to {}", group.key))?;
            detach_from(&group)
        });
        if let Err(error) = detached {
            if decides {
                state.forget_replaced();
            }
            return Err(error);
        }
        foreign.clear(&places);
        let result = self.move_in(admission, state, program);
        match &result {
            Ok(_) => state.forget_replaced(),
            Err(_) => {
                self.fall_back(state);
                state.empty(&group);
                if decides {
                    self.give_back(state, foreign, &places);
                }
            }
        }
        result
    }

    /// The sockets are in no array, and no program is attached.
    fn move_in(
        &mut self,
        admission: Admission<'_>,
        state: &mut GroupState,
        program: &SkReuseport,
    ) -> Result<Changes> {
        let changes = self.enrol(admission, state)?;
        if changes.enrolled.is_empty() && changes.kept == 0 {
            return Err(vanished(&self.group.key));
        }
        state.swap()?;
        attach_to(&self.group, program)?;
        state.adopt();
        Ok(changes)
    }

    /// Puts the members back into the other program's arrays and attaches it again, unless none of them could be
    /// put back: with an empty array it might drop everything. The next command then completes the takeover.
    fn give_back(&mut self, state: &GroupState, foreign: &mut Foreign, places: &[Place<'_>]) {
        for missing in foreign.put_back(places) {
            self.warn_unsettled(&missing);
        }
        let group = &self.group;
        let holds_any = foreign.holds_any(group).map_err(|error| cannot_read(&group.key, error));
        let given_back = match holds_any {
            Ok(true) => attach_foreign(group, &foreign.program),
            Ok(false) => Err(vanished(&group.key)),
            Err(error) => Err(error),
        };
        match given_back {
            Ok(()) => state.forget_replaced(),
            Err(error) => self.warn_unsettled(&error),
        }
    }
}

/// Refuses before anything is touched if moving the sockets out of the program's arrays would not help, or
/// could not be taken back.
fn refuse_unless_movable(group: &Group, foreign: Foreign, busy: Error) -> Result<Foreign> {
    if foreign.is_unreadable() {
        return Err(busy.with_hint(
            "they are in an array of the program to replace, whose values have 4 bytes, so that it does \
             not show which socket is where: take them out there, or restart the server",
        ));
    }
    match foreign.places(group).map_err(|error| cannot_read(&group.key, error))?.is_empty() {
        true => Err(busy.with_hint(TAKE_OUT)),
        false => Ok(foreign),
    }
}

fn cannot_open(key: &GroupKey, error: ProgramError) -> Error {
    let failed = format!("cannot take {key} over from the program that decides");
    caps::failed(&failed, error, caps::TAKING_OVER)
}

fn cannot_read(key: &GroupKey, error: MapError) -> Error {
    let failed = format!("cannot move the sockets of {key} between arrays");
    Error::new(ErrorKind::System, failed).because(error)
}
