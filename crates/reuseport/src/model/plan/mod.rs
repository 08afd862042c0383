//! What an operation does to a group: the rules, as functions of what the kernel shows, what is pinned, and what is
//! asked. They return what is to be done, or why nothing is. No I/O and no clock.

mod draft;
mod enrolment;
mod refusal;
#[cfg(test)]
mod tests;

use super::generation;
use super::group::{AttachedProgram, GroupKey};
use super::held;
use super::hold_new::HoldNew;
use super::id::{Cookie, Percent, Slot};
use super::policy::Policy;
use super::roster::{Record, Roster};
use super::selection::{ObjectSpec, Program, Selection, Steering};
use super::succession::Role;

pub(crate) use self::draft::{Draft, Entering, Newcomer, Placement, RoleChange, Wishes, draft};
pub(crate) use self::enrolment::{Enrolment, check_room, enrolment};
pub(crate) use self::refusal::{Operation, Refusal};

/// What the kernel shows of a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Observed<'a> {
    pub(crate) key: &'a GroupKey,
    pub(crate) program: Option<&'a AttachedProgram>,
    pub(crate) steering: Steering,
    /// The steered group whose state is pinned under the name, if it is another one.
    pub(crate) namesake: Option<&'a GroupKey>,
}

/// What is pinned under a group's name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recorded<'a> {
    pub(crate) owner: u32,
    /// Whether only users whom the caller trusts may open it.
    pub(crate) is_trusted: bool,
    pub(crate) program: Program,
    pub(crate) slots: u32,
    pub(crate) roster: &'a Roster,
    /// Whether its program can be attached again, and another instance of it would not do more.
    pub(crate) is_current: bool,
    /// Whether it also has another owner's program, which it was to take the group over from.
    pub(crate) has_replaced: bool,
}

impl Recorded<'_> {
    /// What is recorded of the group and its members, for a program that knows weights and states.
    fn kept_for(&self, program: &Program<ObjectSpec>) -> Kept {
        let members = self.roster.occupied().map(|(_, cookie, record)| (cookie, record));
        match program {
            Program::Selection(_) => Kept {
                members: members.collect(),
                hold_new: self.roster.hold_new(),
                trial: self.roster.trial(),
            },
            Program::Object(_) => Kept::default(),
        }
    }
}

/// What an `attach` asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttachRequest<'a> {
    pub(crate) program: Option<&'a Program<ObjectSpec>>,
    pub(crate) slots: Option<u32>,
    pub(crate) force: bool,
    pub(crate) hold_new: Option<HoldNew>,
}

/// What an `attach` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AttachPlan {
    /// The program that decides stays, or another instance of it with this policy takes its place, over the same
    /// maps.
    Update(Program),
    /// The pinned program is attached, over its maps. `goes_on`: with an interrupted takeover.
    Resume {
        goes_on: bool,
    },
    Build(Build),
}

/// A new program over new maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Build {
    pub(crate) program: Program<ObjectSpec>,
    pub(crate) slots: Option<u32>,
    pub(crate) kept: Kept,
    pub(crate) in_place_of: InPlaceOf,
    /// Whether it replaces another owner's program.
    pub(crate) replaces: bool,
}

/// What a new state has from the one before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Members' records, of which they keep weight, state and generation.
    pub(crate) members: Vec<(Cookie, Record)>,
    /// Whether newcomers wait, and for what.
    pub(crate) hold_new: HoldNew,
    /// The part of all picks that those on trial get.
    pub(crate) trial: Option<Percent>,
}

/// The state that gives way to a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InPlaceOf {
    Nothing,
    /// State whose program decides.
    Deciding,
    /// State whose program is attached nowhere.
    Leftover,
    /// The same; it is of an interrupted takeover, with which this goes on.
    Takeover,
}

impl AttachPlan {
    /// Whether members keep the slots in which they are: then no holder of theirs has to be found.
    pub(crate) fn keeps_slots(&self) -> bool {
        !matches!(self, Self::Build(_))
    }
}

/// What an `attach` does.
pub(crate) fn attach(
    observed: Observed<'_>,
    recorded: Option<Recorded<'_>>,
    request: AttachRequest<'_>,
) -> Result<AttachPlan, Refusal> {
    let plan = attach_any(observed, recorded, request)?;
    let is_own = match &plan {
        AttachPlan::Update(program) => program.selection().is_none(),
        AttachPlan::Resume { .. } => recorded.is_some_and(|old| old.program.selection().is_none()),
        AttachPlan::Build(build) => build.program.selection().is_none(),
    };
    match is_own && request.hold_new.is_some_and(|hold| hold != HoldNew::Off) {
        true => Err(Refusal::OwnProgram),
        false => Ok(plan),
    }
}

fn attach_any(
    observed: Observed<'_>,
    recorded: Option<Recorded<'_>>,
    request: AttachRequest<'_>,
) -> Result<AttachPlan, Refusal> {
    let replaces = observed.program.is_some() && !observed.steering.is_ours();
    let build = |program: Program<ObjectSpec>, slots, kept: Kept, in_place_of| {
        if let Program::Selection(selection) = &program {
            selection.policy.check(observed.key.protocol).map_err(Refusal::Policy)?;
            // What is recorded goes on as it is.
            if request.program.is_some() {
                check_trial(selection.policy, kept.trial)?;
            }
        }
        Ok(AttachPlan::Build(Build { program, slots, kept, in_place_of, replaces }))
    };
    let default = || Policy::default_for(observed.key.protocol).into();
    let wanted = request.program;
    match recorded.filter(|_| observed.steering.is_ours()) {
        // Another user may open its program and its maps.
        Some(old) if !old.is_trusted => {
            let present = || old.program.selection().map(Program::Selection);
            let Some(program) = wanted.cloned().or_else(present) else {
                return Err(Refusal::AnotherUsersState { owner: old.owner, is_own_program: true });
            };
            let (slots, kept) = (request.slots.or(Some(old.slots)), old.kept_for(&program));
            build(program, slots, kept, InPlaceOf::Deciding)
        }
        Some(old) => match (wanted, old.program) {
            (Some(program @ Program::Object(_)), _)
            | (Some(program @ Program::Selection(_)), Program::Object(())) => {
                build(program.clone(), request.slots, Kept::default(), InPlaceOf::Deciding)
            }
            _ if request.slots.is_some_and(|slots| slots != old.slots) => {
                Err(Refusal::SlotsAreFixed(old.slots))
            }
            (Some(Program::Selection(new)), Program::Selection(now)) => {
                let selection = with_policy(now, new.policy, observed.key, old.roster)?;
                Ok(AttachPlan::Update(selection.into()))
            }
            (None, program) => Ok(AttachPlan::Update(program)),
        },
        None => {
            if let Some(refusal) = foreign(observed, recorded).filter(|_| !request.force) {
                return Err(refusal);
            }
            let Some(old) = recorded else {
                let program = wanted.cloned().unwrap_or_else(default);
                return build(program, request.slots, Kept::default(), InPlaceOf::Nothing);
            };
            if let Some(namesake) = observed.namesake {
                return Err(Refusal::Namesake(namesake.clone()));
            }
            // Root attaches no program that another user pinned.
            let goes_on = !replaces && old.is_trusted && old.has_replaced;
            if resumes(&old, request) {
                return Ok(AttachPlan::Resume { goes_on });
            }
            let program = wanted.cloned().unwrap_or_else(default);
            let kept = old.kept_for(&program);
            let in_place_of = if goes_on { InPlaceOf::Takeover } else { InPlaceOf::Leftover };
            build(program, request.slots, kept, in_place_of)
        }
    }
}

/// Whether the request is for the program that is pinned, over as many slots.
fn resumes(recorded: &Recorded<'_>, request: AttachRequest<'_>) -> bool {
    let same_slots = request.slots.is_none_or(|slots| slots == recorded.slots);
    let same_program = match request.program {
        None => true,
        Some(program @ Program::Selection(_)) => {
            program.kind() == recorded.program && recorded.is_current && !recorded.has_replaced
        }
        // The file may have changed.
        Some(Program::Object(_)) => false,
    };
    recorded.is_trusted && same_slots && same_program
}

/// Another policy in place of the present one, with the same stickiness.
fn with_policy(
    now: Selection,
    policy: Policy,
    key: &GroupKey,
    roster: &Roster,
) -> Result<Selection, Refusal> {
    policy.check(key.protocol).map_err(Refusal::Policy)?;
    if !now.policy.places_on_cpus() {
        check_trial(policy, roster.trial())?;
    }
    Ok(Selection { policy, ..now })
}

/// Refuses a policy that cannot give those on trial their part.
fn check_trial(policy: Policy, trial: Option<Percent>) -> Result<(), Refusal> {
    match trial {
        Some(_) if policy.places_on_cpus() => Err(Refusal::OnTrial),
        _ => Ok(()),
    }
}

/// The selection of the program that decides after a change of policy.
pub(crate) fn set_policy(
    observed: Observed<'_>,
    recorded: Option<Recorded<'_>>,
    policy: Policy,
) -> Result<Selection, Refusal> {
    let state = present(observed, recorded)?;
    match state.program {
        Program::Selection(now) => with_policy(now, policy, observed.key, state.roster),
        Program::Object(()) => Err(Refusal::OwnProgram),
    }
}

/// The new roles of the members that these changes are about: of all of them or none. The last one counts.
pub(crate) fn change_members(
    observed: Observed<'_>,
    recorded: Option<Recorded<'_>>,
    changes: &[RoleChange],
) -> Result<Vec<(Slot, Role)>, Refusal> {
    draft::change(generations(observed, recorded)?, changes)
}

/// The roster in which the newest generation serves alone, or in which [all that wait join](held::promotion_joins);
/// `only` if the newest is this one. `unsteered`: members of the group without a slot.
pub(crate) fn promote(
    observed: Observed<'_>,
    recorded: Option<Recorded<'_>>,
    only: Option<u32>,
    unsteered: usize,
) -> Result<Roster, Refusal> {
    let roster = generations(observed, recorded)?;
    check_next(generation::next(roster), only)?;
    match held::promotion_joins(roster) {
        true => held::join(roster, only).ok_or(Refusal::NoneOnStandby { unsteered }),
        false => generation::promote(roster).ok_or(Refusal::NoNewerGeneration { unsteered }),
    }
}

/// Refuses if the generation that would be promoted is another one than `only`.
fn check_next(newest: Option<u32>, only: Option<u32>) -> Result<(), Refusal> {
    match only {
        Some(only) if newest > Some(only) => Err(Refusal::NewerCame(newest.unwrap_or(only))),
        Some(only) if newest < Some(only) => Err(Refusal::GenerationLeft(only)),
        _ => Ok(()),
    }
}

/// The roster in which the newest generation gets this part of all picks; `only` if it is this one.
pub(crate) fn try_out(
    observed: Observed<'_>,
    recorded: Option<Recorded<'_>>,
    only: Option<u32>,
    share: Percent,
    unsteered: usize,
) -> Result<Roster, Refusal> {
    let roster = generations(observed, recorded)?;
    check_next(generation::newest_present(roster), only)?;
    if !generation::newest_accepts(roster) {
        return Err(Refusal::NoneAccepts);
    }
    let tried =
        generation::try_out(roster, share).ok_or(Refusal::NoNewerGeneration { unsteered })?;
    let selection = recorded.and_then(|state| state.program.selection());
    if selection.is_some_and(|selection| selection.policy.places_on_cpus()) {
        return Err(Refusal::TrialByCpu);
    }
    match tried.nearest_trial() {
        Some(nearest) => Err(Refusal::NoSuchPart { wanted: share, nearest }),
        None => Ok(tried),
    }
}

/// The roster in which the generation before the one that serves does so alone.
pub(crate) fn rollback(
    observed: Observed<'_>,
    recorded: Option<Recorded<'_>>,
) -> Result<Roster, Refusal> {
    let roster = generations(observed, recorded)?;
    generation::rollback(roster).ok_or(Refusal::NoOlderGeneration)
}

/// The roster of a program that knows states.
fn generations<'a>(
    observed: Observed<'_>,
    recorded: Option<Recorded<'a>>,
) -> Result<&'a Roster, Refusal> {
    let state = present(observed, recorded)?;
    match state.program {
        Program::Selection(_) => Ok(state.roster),
        Program::Object(()) => Err(Refusal::OwnProgram),
    }
}

/// What a `detach` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DetachPlan {
    /// Detaches this tool's program and removes the state.
    Detach,
    /// The same for a program whose state is elsewhere, with what is pinned under the group's name, if
    /// `is_pinned`.
    LetGo { is_pinned: bool },
    /// Removes the state that another owner's program displaced. That program stays.
    Discard,
    /// Removes what an interrupted command pinned and never attached: nothing was there to detach.
    CleanUp,
}

/// What a `detach` does.
pub(crate) fn detach(
    observed: Observed<'_>,
    recorded: Option<Recorded<'_>>,
) -> Result<DetachPlan, Refusal> {
    let mine = recorded.filter(|_| observed.namesake.is_none());
    match (observed.steering, observed.program, mine) {
        (Steering::Ours(_), ..) => Ok(DetachPlan::Detach),
        (Steering::Elsewhere(_) | Steering::Emptied(_), ..) => {
            Ok(DetachPlan::LetGo { is_pinned: mine.is_some() })
        }
        (_, Some(_), Some(_)) => Ok(DetachPlan::Discard),
        (steering, Some(program), None) => {
            Err(Refusal::AnotherProgram { program: program.clone(), steering, displaced: false })
        }
        (_, None, Some(_)) => Ok(DetachPlan::CleanUp),
        (_, None, None) => Err(Refusal::NotAttached),
    }
}

/// The state of the program that decides, if that is this tool's and only users whom the caller trusts may open it.
fn present<'a>(
    observed: Observed<'_>,
    recorded: Option<Recorded<'a>>,
) -> Result<Recorded<'a>, Refusal> {
    match recorded.filter(|_| observed.steering.is_ours()) {
        Some(state) if state.is_trusted => Ok(state),
        Some(state) => {
            Err(Refusal::AnotherUsersState { owner: state.owner, is_own_program: false })
        }
        None => Err(foreign(observed, recorded).unwrap_or(Refusal::NotAttached)),
    }
}

/// Why nothing is done where another program than this state's decides; `None` if none does.
fn foreign(observed: Observed<'_>, recorded: Option<Recorded<'_>>) -> Option<Refusal> {
    let (program, steering) = (observed.program?.clone(), observed.steering);
    let displaced =
        steering == Steering::Foreign && recorded.is_some() && observed.namesake.is_none();
    Some(Refusal::AnotherProgram { program, steering, displaced })
}
