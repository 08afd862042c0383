//! A group with its pinned state: steering, slots, picks, counters.

use std::collections::BTreeSet;

use super::finding::Finding;
use super::group::{Group, Member};
use super::hold_new::HoldNew;
use super::id::{Percent, Slot, Weight};
use super::selection::Program;

pub use super::id::State;
pub use super::owner::OwnerCpu;
pub use super::selection::Steering;
pub use super::uncounted::Uncounted;

/// The pinned state of an enrolled member.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Enrolment {
    /// The slot that it occupies.
    pub slot: Slot,
    /// Its role in the balancing. Members older than the [generation that serves](GroupStatus::serving_generation) drain,
    /// newer ones are on standby, once a generation was promoted.
    pub state: State,
    /// Whether it is on standby [until a thread waits for connections on it](crate::HoldNew::Accepting).
    pub is_held: bool,
    /// Its weight.
    pub weight: Weight,
    /// The generation in which it was enrolled: members that entered together.
    pub generation: u32,
    /// The CPU whose packets it gets; `None` unless the policy is `cpu`.
    pub cpu: Option<u16>,
    /// Whether that CPU is a guess: the one on which the member is served was not known when it got its slot.
    pub cpu_guessed: bool,
    /// How often the program picked it: connections (TCP) or datagrams (UDP). `None` where the user's
    /// own program decides.
    pub picks: Option<u64>,
    /// Those of them since the last change of members, weights, states or policy.
    pub recent_picks: Option<u64>,
    /// Open connections; `None` where they are not counted: for UDP, under a policy that does not compare them,
    /// and where the kernel does not allow it ([`GroupStatus::uncounted`]).
    pub open: Option<u64>,
}

/// A member with its pinned state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberStatus {
    /// The socket.
    pub member: Member,
    /// The process whose epoll instance watches it, where exactly one does.
    pub owner: Option<u32>,
    /// The thread that waits for it (`epoll_wait`, `accept`, `recvmsg`, `poll`), where exactly one was seen.
    pub owner_thread: Option<u32>,
    /// How many threads were seen waiting for it at that moment, in one look: `owner_thread` is the only one. 0 in
    /// [`Host::statuses`](crate::Host::statuses).
    pub threads_waiting: usize,
    /// On which CPU it is served: that of all threads that may serve it, or, under the policy `cpu`, of the only one
    /// that was seen to wait, in several looks. `None` where no process is known, in [`Host::statuses`](crate::Host::statuses),
    /// and in [`Host::statuses_in_full`](crate::Host::statuses_in_full).
    pub owner_cpu: Option<OwnerCpu>,
    /// Its slot and the slot's state; `None`: unsteered.
    pub enrolment: Option<Enrolment>,
}

/// A reason, and how often the program ran for it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counter {
    /// The reason: a word of JSON's `counters`, such as `picks` or `fallback_kernel`.
    pub reason: &'static str,
    /// How often.
    pub count: u64,
}

/// One group with its pinned state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupStatus {
    /// The kernel's view.
    pub group: Group,
    /// Which program decides.
    pub steering: Steering,
    /// The members: first those with a slot, by slot, then the unsteered ones.
    pub members: Vec<MemberStatus>,
    /// Whether the program reads the members' queues: `false` unless a policy of this tool decides,
    /// and where it was attached without CAP_PERFMON or the kernel is locked down. `least-loaded` then
    /// compares open connections alone, and no policy passes over a full member.
    pub reads_queues: bool,
    /// Why the members' open connections are not counted although the policy compares them; `None` if they are,
    /// or need not be.
    pub uncounted: Option<Uncounted>,
    /// The newest generation that serves; `None` where no member has a slot.
    pub serving_generation: Option<u32>,
    /// The newest generation, if it is [on trial](crate::Balancer::try_out).
    pub trial: Option<Trial>,
    /// Whether newcomers [wait on standby](crate::Attach::hold_new), and for what.
    pub hold_new: HoldNew,
    /// The process that [follows](crate::watch::Watch) the group, the first if there are several. `None` if none
    /// does, where the caller may not read the state, and in [`Host::statuses`](crate::Host::statuses).
    pub watcher: Option<Watcher>,
    /// With policy `cpu`: the CPUs that are running and that no active member has. What arrives there is dealt among
    /// the nearest members.
    pub cpus_without_member: Vec<u16>,
    /// The program's runs by reason; empty unless a policy of this tool decides.
    pub counters: Vec<Counter>,
    /// What is worth knowing about the group.
    pub findings: Vec<Finding>,
}

/// A generation on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trial {
    /// The generation; `None` if no member of it is left.
    pub generation: Option<u32>,
    /// Its part of all picks.
    pub share: Percent,
}

/// A process that follows a group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Watcher {
    /// Its pid; `None` if the caller's pid namespace does not show it.
    pub pid: Option<u32>,
    /// Its name (`comm`).
    pub comm: Option<String>,
}

/// The CPUs that none of these members has; none if no member is active with a weight.
pub(crate) fn without_member(online: &[u16], members: &[MemberStatus]) -> Vec<u16> {
    let active = |member: &MemberStatus| {
        let enrolment = member.enrolment.as_ref()?;
        let gets = enrolment.state == State::Active && enrolment.weight.get() > 0;
        enrolment.cpu.filter(|_| gets)
    };
    let taken: BTreeSet<u16> = members.iter().filter_map(active).collect();
    match taken.is_empty() {
        true => Vec::new(),
        false => online.iter().copied().filter(|cpu| !taken.contains(cpu)).collect(),
    }
}

impl GroupStatus {
    /// How many members have no slot although this tool's program decides: they get nothing.
    pub fn unsteered(&self) -> usize {
        match self.steering.is_ours() && self.decides() {
            true => self.members.iter().filter(|m| m.enrolment.is_none()).count(),
            false => 0,
        }
    }

    /// Whether a program decides. `false` if none is attached, and if a policy of this tool has no member to
    /// select: the kernel's hash then decides among all members.
    pub fn decides(&self) -> bool {
        let can_be_selected = |member: &MemberStatus| {
            member.enrolment.as_ref().is_some_and(|e| e.state != State::Standby)
        };
        match self.steering {
            Steering::KernelHash | Steering::Emptied(Some(Program::Selection(_))) => false,
            Steering::Ours(Program::Selection(_)) => self.members.iter().any(can_be_selected),
            Steering::Ours(Program::Object(()))
            | Steering::Emptied(_)
            | Steering::Elsewhere(_)
            | Steering::Foreign => true,
        }
    }
}

/// A status for tests: of a group of which nothing else is known.
#[cfg(test)]
pub(crate) fn example(group: Group, steering: Steering, members: Vec<MemberStatus>) -> GroupStatus {
    GroupStatus {
        group,
        steering,
        members,
        reads_queues: true,
        uncounted: None,
        serving_generation: None,
        trial: None,
        hold_new: HoldNew::Off,
        watcher: None,
        cpus_without_member: Vec::new(),
        counters: Vec::new(),
        findings: Vec::new(),
    }
}
