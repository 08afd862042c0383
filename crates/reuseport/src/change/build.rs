//! Builds a group's state in staging, and attaches its program.

use std::time::{Duration, Instant};

use sk_reuseport::programs::SkReuseport;

use super::check::check_room;
use super::prepare::{Prepared, prepare};
use super::reach::{attach_to, detach_from};
use super::request::{Attach, Attached, Changes};
use super::transaction::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::sockets::SocketsKind;
use crate::model::group::Group;
use crate::model::refusal::vanished;
use crate::model::selection::{ObjectSpec, Program, Steering};
use crate::pins::group::GroupState;
use crate::stop::Stop;

pub(super) const TAKE_OUT: &str = "a socket can be in only one socket array, and is in another program's: \
                        take it out there, or restart the server";

/// How long to wait for the kernel to free an array.
pub(super) const PATIENCE: Duration = Duration::from_millis(250);

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
    ) -> Result<(Changes, Option<Error>)> {
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
    ) -> Result<(Changes, Option<Error>)> {
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
        mut old: GroupState,
    ) -> Result<Attached> {
        let mut old_program = old.program()?;
        let owner = old.owner();
        // Errors of the new program show before anything changes.
        let prepared = prepare(group, request, program, SocketsKind::Array, self.layer()?)?;
        check_room(group, &prepared.state)?;
        self.refuse_if_changed(group)?;
        detach_from(group)?;
        let bare = Group { program: None, ..group.clone() };
        let unpinned = old.unpin(&self.root);
        match unpinned.and_then(|()| self.build_either(&bare, request, program, prepared, PATIENCE))
        {
            Ok((changes, degraded)) => {
                self.release_members(&old);
                let steering = Steering::Ours(program.kind());
                Ok(Attached { steering, changes, replaced: None, degraded })
            }
            Err(error) => {
                if let Err(second) = self.put_back(group, &mut old, &mut old_program, owner) {
                    second.report().warn();
                }
                Err(error)
            }
        }
    }

    /// Attaches the program again that [`replace`](Self::replace) detached.
    fn put_back(
        &mut self,
        group: &Group,
        old: &mut GroupState,
        program: &mut SkReuseport,
        owner: u32,
    ) -> Result<()> {
        old.stage(&self.root, program)?;
        old.give_to(owner)?;
        let stop = Stop::default();
        self.enroller(old, &stop)?.refill_all(group)?;
        old.place(&self.root, &group.key)?;
        attach_to(group, program)
    }
}

/// The same error, with this hint if a socket is busy.
pub(super) fn if_busy(error: Error, hint: &'static str) -> Error {
    if error.kind() == ErrorKind::Busy { error.with_hint(hint) } else { error }
}
