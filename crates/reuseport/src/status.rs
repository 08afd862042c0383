//! A group as this tool knows it: what the kernel says of it, joined with our pinned state.

use crate::group::{Group, Member};
use crate::id::{Slot, Weight};
use crate::policy::{Policy, Stickiness};

pub use crate::id::State;

/// Whose program decides for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Steering {
    /// Nobody's: the kernel's own hash.
    KernelHash,
    /// A program of this tool with one of its policies.
    Policy {
        /// How members are picked.
        policy: Policy,
        /// What overrides the policy for flows that have a member already.
        stickiness: Stickiness,
    },
    /// A user's own eBPF program that this tool attached (`attach --object`).
    Object,
    /// A program that somebody else attached.
    Foreign,
}

/// What this tool knows of an enrolled member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The slot that it occupies.
    pub slot: Slot,
    /// Its part in the balancing.
    pub state: State,
    /// Its share.
    pub weight: Weight,
    /// Which members it entered with.
    pub generation: u32,
    /// The CPU that is its own; `None` unless the policy is `cpu`.
    pub cpu: Option<u16>,
    /// How often our program picked it: connections (TCP) or datagrams (UDP). `None` where the
    /// user's own program decides, which counts for itself.
    pub picks: Option<u64>,
    /// Connections open at this moment; `None` for UDP and where they cannot be counted.
    pub open: Option<u64>,
}

/// A member and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// The socket.
    pub member: Member,
    /// The process whose epoll instance watches it, where exactly one does.
    pub owner: Option<u32>,
    /// Its slot and what comes with it; `None`: unsteered.
    pub enrolment: Option<Enrolment>,
}

/// One reason for which the program's runs are counted.
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
    /// Whose program decides.
    pub steering: Steering,
    /// Its members, those with a slot first, by slot, then the unsteered ones.
    pub members: Vec<MemberStatus>,
    /// Whether the program reads the members' queues: `false` unless a policy of ours decides, and
    /// where it was attached without CAP_PERFMON or by a kernel that is locked down. `least-loaded`
    /// then goes by open connections alone, and no policy passes a full member over.
    pub reads_queues: bool,
    /// The program's runs by reason; empty unless a policy of ours decides.
    pub counters: Vec<Counter>,
}

impl GroupStatus {
    /// How many members have no slot although a program of ours decides: they get nothing.
    pub fn unsteered(&self) -> usize {
        match self.steering {
            Steering::Policy { .. } | Steering::Object => {
                self.members.iter().filter(|m| m.enrolment.is_none()).count()
            }
            Steering::KernelHash | Steering::Foreign => 0,
        }
    }
}
