//! A group with everything that this tool knows of it.

use super::group::{Group, Member};
use super::id::{Slot, Weight};

pub use super::id::State;
pub use super::selection::Steering;

/// What this tool knows of an enrolled member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The slot that it occupies.
    pub slot: Slot,
    /// Its part in the balancing.
    pub state: State,
    /// Its share.
    pub weight: Weight,
    /// The generation with which it entered.
    pub generation: u32,
    /// Its CPU; `None` unless the policy is `cpu`.
    pub cpu: Option<u16>,
    /// How often the program picked it: connections (TCP) or datagrams (UDP). `None` where the user's
    /// own program decides.
    pub picks: Option<u64>,
    /// Connections open at this moment; `None` for UDP and where they cannot be counted.
    pub open: Option<u64>,
}

/// A member and everything that this tool knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// The socket.
    pub member: Member,
    /// The process whose epoll instance watches it, where exactly one does.
    pub owner: Option<u32>,
    /// Its slot, and what goes with the slot; `None`: unsteered.
    pub enrolment: Option<Enrolment>,
}

/// A reason, and how often the program ran for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// The reason: a word of JSON's `counters`, such as `picks` or `fallback_kernel`.
    pub reason: &'static str,
    /// How often.
    pub count: u64,
}

/// Everything about one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// The kernel's view.
    pub group: Group,
    /// Which program decides.
    pub steering: Steering,
    /// The members: first those with a slot, by slot, then the unsteered ones.
    pub members: Vec<MemberStatus>,
    /// Whether the program reads the members' queues: `false` unless a policy of this tool decides,
    /// and where it was attached without CAP_PERFMON or the kernel is locked down. `least-loaded` then
    /// goes by open connections alone, and no policy passes a full member over.
    pub reads_queues: bool,
    /// The program's runs by reason; empty unless a policy of this tool decides.
    pub counters: Vec<Counter>,
}

impl GroupStatus {
    /// How many members have no slot although this tool's program decides: they get nothing.
    pub fn unsteered(&self) -> usize {
        match self.steering {
            Steering::Ours(_) => self.members.iter().filter(|m| m.enrolment.is_none()).count(),
            Steering::KernelHash | Steering::Foreign => 0,
        }
    }
}
