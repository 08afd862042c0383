//! Attaches to a group, or updates an attachment.

use std::collections::HashSet;
use std::time::Duration;

use sk_reuseport::programs::SkReuseport;

use super::build::{PATIENCE, if_busy};
use super::check::check_room;
use super::prepare::Prepared;
use super::reach::attach_to;
use super::request::{Attach, Attached, Changes};
use super::transaction::{LOOKS, PAUSE, Transaction};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::caps;
use crate::kernel::cpus;
use crate::kernel::foreign::Foreign;
use crate::kernel::sockets::SocketsKind;
use crate::model::degraded::Degraded;
use crate::model::group::{AttachedProgram, Group, Unborrowable};
use crate::model::id::Cookie;
use crate::model::membership::{refuse_to_starve, starving, without_newborn};
use crate::model::policy::Policy;
use crate::model::refusal::{another_program, another_users_state, vanished};
use crate::model::selection::{ObjectSpec, Program, Selection, Steering};
use crate::pins::group::GroupState;
use crate::pins::steering::steering;

const DETACH_FIRST: &str = "`reuseport detach` the group and attach to it again, with a socket map: \
                            it accepts sockets that are in another program's socket map";

/// For state that another owner's program displaced.
const DISPLACED: &str = "`attach --force` replaces it, for good: it cannot be put back; `detach` removes the \
                         state that it displaced, and lets its owner use the sockets";

impl Transaction {
    pub(crate) fn attach(mut self, group: &Group, request: &Attach) -> Result<Attached> {
        request.cpus.as_ref().map_or(Ok(()), cpus::check)?;
        let (now, state) = steering(group, Some(&self.root))?;
        let mut attached = match state {
            Some(state) if !state.is_trusted() => self.rebuild(group, request, &now, state),
            Some(state) => self.update(group, request, &now, state),
            None => self.attach_anew(group, request, now),
        }?;
        let program = attached.steering.program();
        let counts = program.is_some_and(|program| program.counts_open(group.key.protocol));
        attached.degraded.extend(self.uncounted(counts));
        Ok(attached)
    }

    /// The group as it is to be enrolled.
    ///
    /// A member without a holder may be on its way from one process to another, so this looks again for a
    /// moment. `slots` are the members that keep their slot: they need no holder.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Starved`] if members cannot be given a slot, unless that is accepted.
    fn enrollable(
        &self,
        group: &Group,
        request: &Attach,
        slots: &HashSet<Cookie>,
    ) -> Result<Group> {
        let mut group = group.clone();
        for _ in 0..LOOKS {
            let starving = starving(&group, |cookie| slots.contains(&cookie));
            if starving.iter().all(|(_, why)| *why != Unborrowable::NoHolder) {
                break;
            }
            std::thread::sleep(PAUSE);
            group = without_newborn(&group, self.look_again(&group)?);
            if group.members.is_empty() {
                return Err(vanished(&group.key));
            }
        }
        let starving = starving(&group, |cookie| slots.contains(&cookie));
        match starving.is_empty() || request.partial {
            true => Ok(group),
            false => Err(refuse_to_starve(&group.key, &starving)),
        }
    }

    /// This tool's program decides already.
    fn update(
        &mut self,
        group: &Group,
        request: &Attach,
        now: &Steering,
        mut state: GroupState,
    ) -> Result<Attached> {
        self.settle(group, &mut state, group.attached_id())?;
        let replacement = match &request.program {
            Some(program @ Program::Object(_)) => Some(program),
            Some(program @ Program::Selection(_)) if now.selection().is_none() => Some(program),
            _ => None,
        };
        // Another program has other maps: every member needs a slot there.
        let slots = if replacement.is_some() { HashSet::new() } else { state.in_slots() };
        let group = &self.enrollable(group, request, &slots)?;
        if let Some(program) = replacement {
            return self.replace(group, request, program, state);
        }
        if request.slots.is_some_and(|slots| slots != state.capacity()) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("cannot change the slots of {}", group.key),
            )
            .because(format!("it has {}, fixed while it is attached", state.capacity()))
            .with_hint("`reuseport detach` it first, or leave out --slots"));
        }
        let requested = request.program.as_ref().and_then(Program::selection);
        let selection = match (now.selection(), requested) {
            (Some(old), Some(Selection { policy, .. })) => {
                policy.check(group.key.protocol)?;
                Some(Selection { policy, ..old })
            }
            (old, _) => old,
        };
        self.convert(group, &mut state)?;
        let program = selection.map_or(Program::Object(()), Program::Selection);
        let changes = match self.enrol(group, request, program, &mut state) {
            Ok(changes) => changes,
            Err(error) => {
                self.fall_back(group, &mut state);
                return Err(if_busy(error, DETACH_FIRST));
            }
        };
        match self.enforce(group, &mut state, selection) {
            Ok(degraded) => {
                let steering = Steering::Ours(program);
                let degraded = degraded.into_iter().collect();
                Ok(Attached { steering, changes, replaced: None, degraded })
            }
            Err(error) => {
                self.fall_back_from(group, &mut state, &changes);
                Err(error)
            }
        }
    }

    /// This tool's program decides, and another user may open it and its maps: puts a new one over new maps
    /// in its place, with the same weights and states.
    fn rebuild(
        &mut self,
        group: &Group,
        request: &Attach,
        now: &Steering,
        old: GroupState,
    ) -> Result<Attached> {
        if request.program.is_none() && now.selection().is_none() {
            return Err(another_users_state(&group.key, old.owner(), "attach to")
                .with_hint("name what is to decide: `--policy`, or `--object` with the file"));
        }
        let default = Policy::default_for(group.key.protocol).into();
        let present = now.selection().map(Program::Selection);
        let program = request.program.clone().or(present).unwrap_or(default);
        let slots = request.slots.or_else(|| Some(old.capacity()));
        let request = Attach { slots, ..request.clone() };
        let group = &self.enrollable(group, &request, &HashSet::new())?;
        self.keep_roles(&program, &old);
        self.replace(group, &request, &program, old)
    }

    /// Members have the weights and states of `old` in the state that replaces it. A user's own program knows
    /// neither.
    fn keep_roles(&mut self, program: &Program<ObjectSpec>, old: &GroupState) {
        if program.selection().is_some() {
            self.roles =
                old.occupied().map(|(_, cookie, record)| (cookie, record.role())).collect();
        }
    }

    /// Another owner's program decides, or none.
    fn attach_anew(&mut self, group: &Group, request: &Attach, now: Steering) -> Result<Attached> {
        let leftover = GroupState::of(&self.root, group)?;
        let replaced = group.program.clone().filter(|_| !now.is_ours());
        if let (Some(program), false) = (&replaced, request.force) {
            let refusal = another_program(&group.key, &now, program, "attach to");
            return Err(match self.displaced(group)? {
                Some(_) if now == Steering::Foreign => refusal.with_hint(DISPLACED),
                _ => refusal,
            });
        }
        let resumes = match &leftover {
            Some(leftover) => {
                self.refuse_if_in_use(leftover, group)?;
                self.resumes(request, leftover)?
            }
            None => false,
        };
        let slots = leftover.as_ref().filter(|_| resumes).map(GroupState::in_slots);
        let group = &self.enrollable(group, request, &slots.unwrap_or_default())?;
        let default = Policy::default_for(group.key.protocol).into();
        let program = request.program.as_ref().unwrap_or(&default);
        let built = if let Some(leftover) = leftover {
            // Root attaches no program that another user pinned.
            let interrupted = match replaced.is_none() && leftover.is_trusted() {
                true => interrupted_takeover(group, &leftover)?,
                false => None,
            };
            if resumes {
                return self.resume(group, request, leftover, replaced, interrupted);
            }
            self.keep_roles(program, &leftover);
            // Errors of the new program show before the old state goes.
            let new = self.prepare(group, request, program, SocketsKind::Array)?;
            check_room(group, &new.state)?;
            match interrupted {
                Some(foreign) => {
                    self.take_over_again(group, request, program, new, leftover, foreign)
                }
                None => self.build_in_place_of(group, leftover, |this| {
                    this.build_over(group, request, program, replaced.is_some(), new)
                }),
            }
        } else {
            let new = self.prepare(group, request, program, SocketsKind::Array)?;
            self.build_over(group, request, program, replaced.is_some(), new)
        };
        let (changes, degraded) = built?;
        let (steering, degraded) = (Steering::Ours(program.kind()), degraded.into_iter().collect());
        Ok(Attached { steering, changes, replaced, degraded })
    }

    /// Whether the request is for the program that is pinned, over as many slots.
    fn resumes(&mut self, request: &Attach, leftover: &GroupState) -> Result<bool> {
        let slots_differ = request.slots.is_some_and(|slots| slots != leftover.capacity());
        if slots_differ || !leftover.is_trusted() {
            return Ok(false);
        }
        match &request.program {
            None => Ok(true),
            Some(Program::Selection(wanted)) => Ok(leftover.program_kind()
                == Program::Selection(*wanted)
                && leftover.open_program()?.is_some()
                && !leftover.has_replaced()
                && !self.should_reload(leftover)?),
            // The file may have changed.
            Some(Program::Object(_)) => Ok(false),
        }
    }

    /// Builds new state and attaches, perhaps in place of another owner's program, which decides until then.
    fn build_over(
        &mut self,
        group: &Group,
        request: &Attach,
        program: &Program<ObjectSpec>,
        replaces: bool,
        prepared: Prepared,
    ) -> Result<(Changes, Option<Degraded>)> {
        if !replaces {
            return self.build_either(group, request, program, prepared, PATIENCE);
        }
        let busy = match self.build(group, request, prepared) {
            Err(error) if error.kind() == ErrorKind::Busy => error,
            result => return result,
        };
        let foreign = Self::foreign(group, busy);
        let prepared = self.prepare(group, request, program, SocketsKind::Array)?;
        match foreign {
            Ok(mut foreign) => self.take_over_anew(group, request, prepared, &mut foreign),
            // The sockets may be in a socket map.
            Err(refusal) => {
                let built = self.build_either(group, request, program, prepared, Duration::ZERO);
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
        group: &Group,
        request: &Attach,
        mut state: GroupState,
        replaced: Option<AttachedProgram>,
        interrupted: Option<Foreign>,
    ) -> Result<Attached> {
        self.settle(group, &mut state, group.attached_id())?;
        self.convert(group, &mut state)?;
        let kind = state.program_kind();
        let Some(program) = state.open_program()? else {
            return Err(Error::new(ErrorKind::System, format!("cannot attach to {}", group.key))
                .because("the program in its state is missing")
                .with_hint(format!("`reuseport detach {}` removes that state", group.key)));
        };
        let enrolled = match interrupted {
            Some(foreign) => Err(foreign),
            None => match self.enrol(group, request, kind, &mut state) {
                Err(busy) if busy.kind() == ErrorKind::Busy && replaced.is_some() => {
                    self.fall_back(group, &mut state);
                    Err(Self::foreign(group, busy)?)
                }
                Err(error) => {
                    self.fall_back(group, &mut state);
                    return Err(if_busy(error, DETACH_FIRST));
                }
                Ok(changes) => Ok(changes),
            },
        };
        let changes = match enrolled {
            Ok(changes) => match self.attach_again(group, &mut state, &program) {
                Ok(()) => changes,
                Err(error) => {
                    self.fall_back_from(group, &mut state, &changes);
                    return Err(error);
                }
            },
            Err(mut foreign) => {
                self.take_over(group, request, &mut state, &program, &mut foreign)?
            }
        };
        Ok(Attached { steering: Steering::Ours(kind), changes, replaced, degraded: Vec::new() })
    }

    /// The members have their slots: attaches the program. Its table is in force before.
    fn attach_again(
        &mut self,
        group: &Group,
        state: &mut GroupState,
        program: &SkReuseport,
    ) -> Result<()> {
        state.swap()?;
        self.refuse_if_changed(group)?;
        attach_to(group, program)?;
        state.adopt();
        Ok(())
    }
}

/// The program of a takeover that was interrupted, if this state is of one.
fn interrupted_takeover(group: &Group, state: &GroupState) -> Result<Option<Foreign>> {
    state.replaced()?.as_ref().map(Foreign::of).transpose().map_err(|error| {
        let failed = format!("cannot go on to attach to {}", group.key);
        caps::failed(&failed, error, caps::TAKING_OVER)
    })
}
