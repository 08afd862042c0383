//! Attaches to a group, or updates an attachment: carries out what is [planned](crate::model::plan::attach).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sk_reuseport::programs::SkReuseport;

use super::build::{Done, PATIENCE, if_busy};
use super::check::check_room;
use super::enrol::Admission;
use super::locked::LOOKS;
use super::prepared::Prepared;
use super::reach::attach_to;
use super::request::{Attach, Attached};
use super::transaction::{PAUSE, Transaction};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::caps;
use crate::kernel::cpus;
use crate::kernel::foreign::Foreign;
use crate::kernel::sockets::SocketsKind;
use crate::model::group::{GroupKey, Unborrowable};
use crate::model::hold_new::HoldNew;
use crate::model::id::Cookie;
use crate::model::membership::{refuse_to_starve, starving, without_newborn};
use crate::model::plan::{self, AttachPlan, Build, InPlaceOf, Observed, Operation, Recorded};
use crate::model::refusal::{not_attached, vanished};
use crate::model::selection::{Program, Steering};
use crate::pins::group::GroupState;

const DETACH_FIRST: &str = "`reuseport detach` the group and attach to it again, with a socket map: \
                            it accepts sockets that are in another program's socket map";

impl Transaction<'_> {
    pub(crate) fn attach(mut self, request: &Attach) -> Result<Attached> {
        let attached = self.try_attach(request);
        attached.map_err(|error| self.told(error))
    }

    fn try_attach(&mut self, request: &Attach) -> Result<Attached> {
        request.cpus.as_ref().map_or(Ok(()), cpus::check)?;
        let mut present = self.find()?;
        let wanted = |observed: Observed<'_>, recorded: Option<Recorded<'_>>| {
            plan::attach(observed, recorded, request.wanted())
        };
        if request.hold_new == Some(HoldNew::Accepting) {
            self.locked.observer.can_see_waiters()?;
        }
        // What is refused changes nothing.
        self.plan(Operation::Attach, &present, wanted)?;
        self.settle_found(&mut present)?;
        let plan = self.plan(Operation::Attach, &present, wanted)?;
        let replaced = self.group.program.clone().filter(|_| !present.steering.is_ours());
        let state = present.state;
        let slots = state.as_ref().filter(|_| plan.keeps_slots()).map(GroupState::in_slots);
        self.look_until_enrollable(request, &slots.unwrap_or_default())?;
        let known = |state: Option<GroupState>| state.ok_or_else(|| not_attached(&self.group.key));
        let (program, (changes, degraded)) = match plan {
            AttachPlan::Update(program) => {
                let state = known(state)?;
                (program, self.update(request, program, state)?)
            }
            AttachPlan::Resume { goes_on } => {
                let state = known(state)?;
                let replaces = replaced.is_some();
                (state.program_kind(), self.resume(request, state, goes_on, replaces)?)
            }
            AttachPlan::Build(build) => {
                (build.program.kind(), self.build_as_planned(request, &build, state)?)
            }
        };
        let uncounted = self.locked.uncounted(program.counts_open(self.group.key.protocol));
        let degraded = degraded.into_iter().chain(uncounted).collect();
        let steering = Steering::Ours(program);
        Ok(Attached { steering, changes, replaced, degraded, delay: None })
    }

    /// Looks at the group again for a moment while a member has no holder: it may be on its way from one process to
    /// another. `slots` are the members that keep their slot: they need no holder.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Starved`] if members cannot be given a slot, unless that is accepted.
    fn look_until_enrollable(&mut self, request: &Attach, slots: &HashSet<Cookie>) -> Result<()> {
        for _ in 0..LOOKS {
            let starving = starving(&self.group, |cookie| slots.contains(&cookie));
            if starving.iter().all(|(_, why)| *why != Unborrowable::NoHolder) {
                break;
            }
            std::thread::sleep(PAUSE);
            self.group = Arc::new(without_newborn(&self.group, self.look_again()?));
            if self.group.members.is_empty() {
                return Err(vanished(&self.group.key));
            }
        }
        let starving = starving(&self.group, |cookie| slots.contains(&cookie));
        match starving.is_empty() || request.partial {
            true => Ok(()),
            false => Err(refuse_to_starve(&self.group.key, &starving)),
        }
    }

    /// Gives slots to newcomers, and changes the policy, under traffic.
    fn update(
        &mut self,
        request: &Attach,
        program: Program,
        mut state: GroupState,
    ) -> Result<Done> {
        self.convert(&mut state)?;
        let admission = Admission::again(request, program);
        let changes = match self.enrol(admission, &mut state) {
            Ok(changes) => changes,
            Err(error) => {
                self.fall_back(&mut state);
                return Err(if_busy(error, DETACH_FIRST));
            }
        };
        match self.enforce(&mut state, program.selection()) {
            Ok(degraded) => Ok((changes, degraded)),
            Err(error) => {
                self.fall_back_from(&mut state, &changes);
                Err(error)
            }
        }
    }

    fn build_as_planned(
        &mut self,
        request: &Attach,
        build: &Build,
        state: Option<GroupState>,
    ) -> Result<Done> {
        let state = match (build.in_place_of, state) {
            (InPlaceOf::Deciding, Some(old)) => return self.replace(request, build, old),
            (_, state) => state,
        };
        // Errors of the new program show before the old state goes.
        let new = self.prepare(build, SocketsKind::Array)?;
        let Some(old) = state else { return self.build_over(request, build, new) };
        check_room(&self.group, &new.state)?;
        let foreign = match build.in_place_of {
            InPlaceOf::Takeover => interrupted_takeover(&self.group.key, &old)?,
            _ => None,
        };
        match foreign {
            Some(foreign) => self.take_over_again(request, build, new, old, foreign),
            None => self.build_in_place_of(old, |this| this.build_over(request, build, new)),
        }
    }

    /// Builds new state and attaches, perhaps in place of another owner's program, which decides until then.
    fn build_over(&mut self, request: &Attach, build: &Build, prepared: Prepared) -> Result<Done> {
        if !build.replaces {
            return self.build_either(request, build, prepared, PATIENCE);
        }
        let busy = match self.build(request, build, prepared) {
            Err(error) if error.kind() == ErrorKind::Busy => error,
            result => return result,
        };
        let foreign = self.foreign(busy);
        let prepared = self.prepare(build, SocketsKind::Array)?;
        match foreign {
            Ok(mut foreign) => self.take_over_anew(request, build, prepared, &mut foreign),
            // The sockets may be in a socket map.
            Err(refusal) => {
                let built = self.build_either(request, build, prepared, Duration::ZERO);
                built.map_err(|error| match error.kind() {
                    ErrorKind::Busy | ErrorKind::Denied => refusal,
                    _ => error,
                })
            }
        }
    }

    /// Attaches the pinned program: the server restarted, which ended the group and its attachment, or a
    /// command was interrupted just before it attached.
    fn resume(
        &mut self,
        request: &Attach,
        mut state: GroupState,
        goes_on: bool,
        replaces: bool,
    ) -> Result<Done> {
        let interrupted =
            if goes_on { interrupted_takeover(&self.group.key, &state)? } else { None };
        self.convert(&mut state)?;
        let admission = Admission::again(request, state.program_kind());
        let Some(program) = state.open_program()? else {
            return Err(Error::new(
                ErrorKind::System,
                format!("cannot attach to {}", self.group.key),
            )
            .because("the program in its state is missing")
            .with_hint(format!("`reuseport detach {}` removes that state", self.group.key)));
        };
        let enrolled = match interrupted {
            Some(foreign) => Err(foreign),
            None => match self.enrol(admission, &mut state) {
                Err(busy) if busy.kind() == ErrorKind::Busy && replaces => {
                    self.fall_back(&mut state);
                    Err(self.foreign(busy)?)
                }
                Err(error) => {
                    self.fall_back(&mut state);
                    return Err(if_busy(error, DETACH_FIRST));
                }
                Ok(changes) => Ok(changes),
            },
        };
        let changes = match enrolled {
            Ok(changes) => match self.attach_again(&mut state, &program) {
                Ok(()) => changes,
                Err(error) => {
                    self.fall_back_from(&mut state, &changes);
                    return Err(error);
                }
            },
            Err(mut foreign) => self.take_over(admission, &mut state, &program, &mut foreign)?,
        };
        Ok((changes, None))
    }

    /// The members have their slots: attaches the program. Its table is in force before.
    fn attach_again(&mut self, state: &mut GroupState, program: &SkReuseport) -> Result<()> {
        state.swap()?;
        self.refuse_if_changed()?;
        attach_to(&self.group, program)?;
        state.adopt();
        Ok(())
    }
}

/// The program of the interrupted takeover that this state is of.
fn interrupted_takeover(key: &GroupKey, state: &GroupState) -> Result<Option<Foreign>> {
    state.replaced()?.as_ref().map(Foreign::of).transpose().map_err(|error| {
        let failed = format!("cannot go on to attach to {key}");
        caps::failed(&failed, error, caps::TAKING_OVER)
    })
}
