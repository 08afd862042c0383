//! Requests of operations, and their results.

use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::model::degraded::Degraded;
use crate::model::group::{AttachedProgram, Member};
use crate::model::held::HeldSocket;
use crate::model::hold_new::HoldNew;
use crate::model::id::{Cookie, Slot, State, Weight};
use crate::model::plan::AttachRequest;
use crate::model::policy::{CpuList, Policy};
use crate::model::selection::{ObjectSpec, Program, Steering};
use crate::stop::Stop;

/// A request to attach: `Attach::from(Policy::Hash).force(true)`.
///
/// The default fits most groups: it keeps the program that decides, or attaches the protocol's default
/// policy. A [`Policy`], a [`Selection`](crate::Selection) or an [`ObjectSpec`] becomes a
/// request by `into()`.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Attach {
    /// The program. `None`: the one that decides already, or the protocol's default policy.
    pub program: Option<Program<ObjectSpec>>,
    /// Whether to replace a program that another owner attached. If attaching fails, that program stays;
    /// later, its owner alone can put it back. Moving sockets out of its array takes CAP_SYS_ADMIN.
    pub force: bool,
    /// The number of slots; by default room for four times the members.
    pub slots: Option<u32>,
    /// Weights to apply; members not listed keep theirs, and newcomers have the weight of the member
    /// whose slot they take, or [`Weight::DEFAULT`].
    /// Cookies of sockets that are not members are ignored.
    pub weights: Vec<(Cookie, Weight)>,
    /// The generations of members, from 1 on: present ones and newcomers, whatever server holds them. For a supervisor
    /// that holds the sockets of all of them. Those listed take no drain over from the member whose slot they take.
    /// Other newcomers have the generation of their server, or a new one.
    pub generations: Vec<(Cookie, u32)>,
    /// For the policy `cpu`: the members' CPUs, in the order of their slots, repeated if there are more
    /// members. `None`: the CPU to which a member's owner is bound, if it is exactly one, else one of
    /// those with the fewest members.
    pub cpus: Option<CpuList>,
    /// Whether to attach although living members cannot be given a slot, and get nothing from then on:
    /// [`Changes::left_out`] names them. Otherwise that is [`ErrorKind::Starved`](crate::ErrorKind::Starved).
    pub partial: bool,
    /// Whether newcomers wait on standby, and for what. It is state of the group, and so outlives this call. `None`: as
    /// before, at first [`HoldNew::Off`].
    ///
    /// With [`HoldNew::Accepting`], those that are there when a program is first attached serve: a worker that is busy
    /// waits for nothing. Later ones serve from when a thread is first seen waiting for connections on them: by a
    /// [watcher](crate::watch::Watch), which looks every few milliseconds while there are any, or by another `attach`,
    /// which looks once. A member that has served goes on to.
    pub hold_new: Option<HoldNew>,
    /// Checked between steps.
    pub stop: Stop,
    /// Whether a follower asks.
    pub(crate) follows: bool,
    /// Members for which a follower saw a thread wait.
    pub(crate) awaited: Vec<Cookie>,
}

impl Attach {
    /// What the plan depends on.
    pub(super) fn wanted(&self) -> AttachRequest<'_> {
        AttachRequest {
            program: self.program.as_ref(),
            slots: self.slots,
            force: self.force,
            hold_new: self.hold_new,
        }
    }

    /// With this [program](Self::program).
    #[must_use]
    pub fn program(self, program: impl Into<Program<ObjectSpec>>) -> Self {
        Self { program: Some(program.into()), ..self }
    }

    /// Whether to [replace](Self::force) another owner's program.
    #[must_use]
    pub fn force(self, force: bool) -> Self {
        Self { force, ..self }
    }

    /// With this number of [slots](Self::slots).
    #[must_use]
    pub fn slots(self, slots: impl Into<Option<u32>>) -> Self {
        Self { slots: slots.into(), ..self }
    }

    /// With these [weights](Self::weights).
    #[must_use]
    pub fn weights(self, weights: Vec<(Cookie, Weight)>) -> Self {
        Self { weights, ..self }
    }

    /// With members of these [generations](Self::generations).
    #[must_use]
    pub fn generations(self, generations: Vec<(Cookie, u32)>) -> Self {
        Self { generations, ..self }
    }

    /// With these [CPUs](Self::cpus).
    #[must_use]
    pub fn cpus(self, cpus: impl Into<Option<CpuList>>) -> Self {
        Self { cpus: cpus.into(), ..self }
    }

    /// Whether living members may be [left out](Self::partial).
    #[must_use]
    pub fn partial(self, partial: bool) -> Self {
        Self { partial, ..self }
    }

    /// Whether [newcomers wait](Self::hold_new), and for what.
    #[must_use]
    pub fn hold_new(self, hold_new: impl Into<Option<HoldNew>>) -> Self {
        Self { hold_new: hold_new.into(), ..self }
    }

    /// With this request to [stop](Self::stop).
    #[must_use]
    pub fn stop(self, stop: Stop) -> Self {
        Self { stop, ..self }
    }
}

/// With this program, and the default for everything else.
impl<P: Into<Program<ObjectSpec>>> From<P> for Attach {
    fn from(program: P) -> Self {
        Self { program: Some(program.into()), ..Self::default() }
    }
}

/// A request to change the policy. A [`Policy`] becomes one by `into()`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetPolicy {
    /// The new policy.
    pub policy: Policy,
    /// For the policy `cpu`: the members' CPUs, as for [`Attach::cpus`]. Other policies ignore them.
    pub cpus: Option<CpuList>,
}

impl SetPolicy {
    /// A request for this policy.
    pub fn new(policy: Policy) -> Self {
        Self { policy, cpus: None }
    }

    /// With these [CPUs](Self::cpus).
    #[must_use]
    pub fn cpus(self, cpus: impl Into<Option<CpuList>>) -> Self {
        Self { cpus: cpus.into(), ..self }
    }
}

impl From<Policy> for SetPolicy {
    fn from(policy: Policy) -> Self {
        Self::new(policy)
    }
}

/// The result of a change of policy.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct PolicySet {
    /// What the new program could not bring about; empty if nothing, and if there was nothing to change.
    pub degraded: Vec<Degraded>,
}

/// A change of one member: `MemberChange::new(slot).state(State::Draining)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberChange {
    /// The slot that it occupies.
    pub slot: Slot,
    /// The member. If another one has the slot by now, nothing is changed. `None`: the member that has
    /// the slot.
    pub member: Option<Cookie>,
    /// The new weight; `None` keeps it.
    pub weight: Option<Weight>,
    /// The new state; `None` keeps it.
    pub state: Option<State>,
}

impl MemberChange {
    /// No change of the member that has this slot.
    pub fn new(slot: Slot) -> Self {
        Self { slot, member: None, weight: None, state: None }
    }

    /// Only if this [member](Self::member) has the slot.
    #[must_use]
    pub fn member(self, member: impl Into<Option<Cookie>>) -> Self {
        Self { member: member.into(), ..self }
    }

    /// To this [weight](Self::weight).
    #[must_use]
    pub fn weight(self, weight: impl Into<Option<Weight>>) -> Self {
        Self { weight: weight.into(), ..self }
    }

    /// To this [state](Self::state).
    #[must_use]
    pub fn state(self, state: impl Into<Option<State>>) -> Self {
        Self { state: state.into(), ..self }
    }
}

/// The result of an attachment.
#[derive(Debug)]
#[non_exhaustive]
pub struct Attached {
    /// The program that decides now.
    pub steering: Steering,
    /// Members that joined or left.
    pub changes: Changes,
    /// The program of another owner that was replaced.
    pub replaced: Option<AttachedProgram>,
    /// What was asked for and could not be brought about; empty if nothing.
    pub degraded: Vec<Degraded>,
    /// How long ago the first of the new sockets had come: known to a [watcher](crate::watch::Watch) that was told.
    pub delay: Option<Duration>,
}

/// The result of a promotion, of a trial or of a rollback.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Promoted {
    /// The generation that serves now: alone, unless another one is on trial.
    pub generation: u32,
    /// Its members.
    pub serving: Vec<Cookie>,
    /// Members of a newer generation that is on trial.
    pub on_trial: Vec<Cookie>,
    /// That generation.
    pub trial: Option<u32>,
    /// Members of older generations: they drain.
    pub retired: Vec<Cookie>,
    /// Members of newer generations: they are on standby.
    pub on_standby: Vec<Cookie>,
    /// Members that were on standby and serve now, next to those that did: newcomers are held until they
    /// [accept](crate::HoldNew::Accepting), and so a promotion replaces no generation.
    pub joined: Vec<Cookie>,
}

/// The result of detaching.
#[derive(Debug)]
#[non_exhaustive]
pub struct Detached {
    /// What decided before.
    pub before: Steering,
    /// Why the program stays attached, if it does: no socket of the group can be borrowed, which detaching
    /// takes. Its table and its socket array are empty then, so that it leaves every choice to the kernel's
    /// hash, and all state is removed. A user's own program finds an empty socket array.
    pub left_attached: Option<Error>,
    /// The program of another owner that decides and stays, if it had replaced this tool's: only the state was
    /// removed, and the sockets left this tool's array.
    pub displaced_by: Option<AttachedProgram>,
}

/// Members that joined or left.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Changes {
    /// Members that got a slot.
    pub enrolled: Vec<Cookie>,
    /// Those of them that had it before: they stopped listening and listen again.
    pub(crate) refilled: Vec<Cookie>,
    /// Members that had a slot already.
    pub kept: usize,
    /// Members that had left: their slots are free, or went to members that were enrolled.
    pub released: Vec<Cookie>,
    /// Weights and drains that enrolled members have from the members whose slots they took, where they
    /// are not those of a new member.
    pub inherited: Vec<Inherited>,
    /// Enrolled members that wait on standby: they are of a newer generation than those that serve.
    pub on_standby: Vec<Cookie>,
    /// Enrolled members that are on standby until a thread waits for connections on them
    /// ([`HoldNew::Accepting`](crate::HoldNew::Accepting)).
    pub held: Vec<Cookie>,
    /// Members that were, and serve from now on.
    pub taken_in: Vec<Cookie>,
    /// All members that are on standby for that reason now.
    pub(crate) still_held: Vec<HeldSocket>,
    /// Members that vanished during enrolment and, with [`Attach::partial`], those that cannot be enrolled.
    pub left_out: Vec<LeftOut>,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        let Self { enrolled, released, taken_in, left_out, .. } = self;
        enrolled.is_empty() && released.is_empty() && taken_in.is_empty() && left_out.is_empty()
    }
}

/// A weight and a state that a member has from the one before it in its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inherited {
    /// The member.
    pub cookie: Cookie,
    /// Its slot.
    pub slot: Slot,
    /// Its weight.
    pub weight: Weight,
    /// Its state.
    pub state: State,
}

/// A member that could not be enrolled although others were.
#[derive(Debug)]
#[non_exhaustive]
pub struct LeftOut {
    /// The member; `None` if no process has ever asked for its cookie.
    pub cookie: Option<Cookie>,
    /// Its [name](crate::Member::name).
    pub name: String,
    /// The reason.
    pub why: Error,
}

impl LeftOut {
    pub(crate) fn new(member: &Member, why: Error) -> Self {
        Self { cookie: member.cookie, name: member.name(), why }
    }

    /// Whether the member lives and gets nothing. Otherwise it vanished.
    pub fn is_starving(&self) -> bool {
        self.why.kind() != ErrorKind::Vanished
    }
}
