//! Why an operation does nothing.

use crate::error::{Error, ErrorKind};
use crate::model::group::{AttachedProgram, GroupKey};
use crate::model::id::{Percent, Slot};
use crate::model::refusal::{another_program, another_users_state, not_attached};
use crate::model::selection::Steering;

/// What is asked of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Attach,
    SetPolicy,
    ChangeMembers,
    Detach,
    Promote,
    Rollback,
}

/// Why nothing is done.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// No program of this tool is attached.
    NotAttached,
    /// Another program than this state's decides, as `steering` says. `displaced`: it displaced this tool's, whose
    /// state is still pinned.
    AnotherProgram {
        program: AttachedProgram,
        steering: Steering,
        displaced: bool,
    },
    /// The state belongs to a user who may open it, too. `is_own_program`: its program is that user's own, and the
    /// request names none to put in its place.
    AnotherUsersState {
        owner: u32,
        is_own_program: bool,
    },
    /// Another group of this name is steered.
    Namesake(GroupKey),
    /// The group has this number of slots for as long as it is attached.
    SlotsAreFixed(u32),
    /// The user's own program decides, which has neither policy nor weights.
    OwnProgram,
    /// The policy does not work there.
    Policy(Error),
    /// The slot has no member.
    NoMember(Slot),
    /// Another member than the given one has the slot.
    AnotherMember(Slot),
    /// A newer generation than that of the slot's member was promoted, or an older one serves.
    Retired(Slot),
    OnStandby(Slot),
    /// The newest generation serves alone. `unsteered`: members without a slot.
    NoNewerGeneration {
        unsteered: usize,
    },
    /// No member is on standby, and a promotion would let no other one serve.
    NoneOnStandby {
        unsteered: usize,
    },
    /// This generation came after the one that is to serve.
    NewerCame(u32),
    /// No member is left of the generation that is to serve.
    GenerationLeft(u32),
    /// All members of the newest generation are held.
    NoneAccepts,
    /// The CPU decides, and no weight.
    TrialByCpu,
    /// The same of a policy that is to decide during a trial.
    OnTrial,
    /// Weights cannot express this part of all picks.
    NoSuchPart {
        wanted: Percent,
        nearest: Percent,
    },
    /// No member is left of an older generation than the one that serves.
    NoOlderGeneration,
}

impl Operation {
    /// "attach to", before the group's name.
    fn name(self) -> &'static str {
        match self {
            Self::Attach => "attach to",
            Self::SetPolicy => "change the policy of",
            Self::ChangeMembers => "change the members of",
            Self::Detach => "detach from",
            Self::Promote => "promote members of",
            Self::Rollback => "roll back",
        }
    }
}

impl Refusal {
    /// The error to report.
    pub(crate) fn error(self, operation: Operation, key: &GroupKey) -> Error {
        let what = operation.name();
        let failed = |kind| Error::new(kind, format!("cannot {what} {key}"));
        let waits = match self {
            Self::NoneOnStandby { .. } => "is on standby",
            _ => "is newer than those that serve",
        };
        match self {
            Self::NotAttached => not_attached(key),
            Self::AnotherProgram { program, steering, displaced } => {
                let error = another_program(key, &steering, &program, what);
                match (operation, displaced) {
                    (Operation::Attach, true) => error.with_hint(
                        "`attach --force` replaces it, for good: it cannot be put back; `detach` removes \
                         the state that it displaced, and lets its owner use the sockets",
                    ),
                    _ => error,
                }
            }
            Self::AnotherUsersState { owner, is_own_program } => {
                let error = another_users_state(key, owner, what);
                if is_own_program {
                    return error.with_hint(
                        "name what is to decide: `--policy`, or `--object` with the file",
                    );
                }
                error
            }
            Self::Namesake(other) => failed(ErrorKind::Busy)
                .because(format!("another group of this name is steered already, {other}"))
                .with_hint(format!(
                    "one of them can be steered at a time: `reuseport detach {other}` first"
                )),
            Self::SlotsAreFixed(slots) => {
                Error::new(ErrorKind::Invalid, format!("cannot change the slots of {key}"))
                    .because(format!("it has {slots}, fixed while it is attached"))
                    .with_hint("`reuseport detach` it first, or leave out --slots")
            }
            Self::OwnProgram if operation == Operation::SetPolicy => failed(ErrorKind::Invalid)
                .because("the user's own program decides there")
                .with_hint("`attach --policy` puts a policy in its place"),
            Self::OwnProgram => failed(ErrorKind::Invalid).because(
                "the user's own program decides there, and it knows neither weights nor states",
            ),
            Self::Policy(error) => error,
            Self::NoMember(slot) => failed(ErrorKind::NotFound)
                .because(format!("slot {slot} has no member"))
                .with_hint(format!("`reuseport show {key}` lists the members with their slots")),
            Self::AnotherMember(slot) => failed(ErrorKind::Vanished)
                .because(format!("slot {slot} went to another member meanwhile"))
                .with_hint("nothing was changed; try again"),
            Self::Retired(slot) => failed(ErrorKind::Invalid)
                .because(format!("slot {slot} has a member that a newer generation has replaced"))
                .with_hint(format!("`reuseport rollback {key}` lets the older generation serve again")),
            Self::OnStandby(slot) => failed(ErrorKind::Invalid)
                .because(format!("slot {slot} has a member on standby"))
                .with_hint(format!("`reuseport promote {key}` lets those on standby serve")),
            Self::NoNewerGeneration { unsteered: 0 } => failed(ErrorKind::NoGeneration)
                .because("no member is newer than those that serve")
                .with_hint(
                    "a server that keeps its sockets (nginx reload, HAProxy -W, Envoy hot restart) has no new \
                     generation; start the new one next to the old one, after `attach --hold-new`",
                ),
            Self::NoneOnStandby { unsteered: 0 } => failed(ErrorKind::NoGeneration)
                .because("no member is on standby")
                .with_hint(format!(
                    "with --hold-new=accepting, `promote` lets members join and drains none; to replace the older \
                     generation, run `reuseport attach {key} --hold-new=on` first"
                )),
            Self::NoNewerGeneration { unsteered } | Self::NoneOnStandby { unsteered } => {
                failed(ErrorKind::NoGeneration)
                    .because(format!(
                        "no member with a slot {waits}, and {unsteered} joined later and {} no slot",
                        if unsteered == 1 { "has" } else { "have" }
                    ))
                    .with_hint(format!(
                        "`reuseport attach {key}` gives slots to members that joined later"
                    ))
            }
            Self::NewerCame(newest) => failed(ErrorKind::Superseded)
                .because(format!("a newer generation came meanwhile: {newest}"))
                .with_hint(format!("traffic is as it was; run `reuseport promote {key}` again")),
            Self::GenerationLeft(wanted) => failed(ErrorKind::Vanished)
                .because(format!("no member of generation {wanted} is left"))
                .with_hint(format!("`reuseport show {key}` lists the members with their generations")),
            Self::NoneAccepts => failed(ErrorKind::NoGeneration)
                .because("no member of the newest generation accepts connections yet")
                .with_hint(format!("nothing was changed; `reuseport show {key}` says when one serves")),
            Self::TrialByCpu => failed(ErrorKind::Invalid)
                .because("policy `cpu` deals by CPU, and gives no generation a part of all picks")
                .with_hint(format!(
                    "`reuseport policy {key}` sets another policy; or promote without a trial"
                )),
            Self::OnTrial => failed(ErrorKind::Invalid)
                .because(
                    "a generation is on trial, and policy `cpu` deals by CPU: it gives none a part of all picks",
                )
                .with_hint(format!(
                    "`reuseport promote {key}` or `reuseport rollback {key}` ends the trial first"
                )),
            Self::NoSuchPart { wanted, nearest } => failed(ErrorKind::Invalid)
                .because(format!(
                    "weights of 1 to 1000 cannot give the newest generation {}% of all picks",
                    wanted.get()
                ))
                .with_hint(format!("the nearest part that it can have is {}%", nearest.get())),
            Self::NoOlderGeneration => failed(ErrorKind::NoGeneration)
                .because("no member of an older generation is left")
                .with_hint(format!("`reuseport show {key}` lists the members with their generations")),
        }
    }
}
