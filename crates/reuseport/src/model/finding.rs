//! What is worth knowing about a group: what keeps a policy from working, and what is not as in most groups.
//!
//! A finding says what was seen, and claims no more: a member that nothing waits for may have a worker that is busy.

use std::time::Duration;

use super::policy::Policy;
use super::server::Server;

/// What is worth knowing about a group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// The group has one socket: there is nothing to choose among.
    OneSocket {
        /// How many visible processes hold it.
        processes: usize,
        /// How many wait for it at this moment: see [`Member::waiters`](crate::Member::waiters).
        waiters: Option<u32>,
        /// The server, if it is known.
        server: Option<&'static Server>,
    },
    /// Members belong to different servers.
    SeveralServers {
        /// These, by when they began.
        parties: Vec<Party>,
        /// Whether some of them run another file under another name. The same file has another identity in each container.
        different: bool,
    },
    /// No epoll instance watches these members and no thread waits for them, at this moment. Their workers are
    /// busy, or look without waiting, or no one serves them.
    Unwaited {
        /// The members, by [name](crate::Member::name).
        members: Vec<String>,
        /// How much waits there: connections (TCP) or bytes (UDP).
        waiting: u64,
    },
    /// Several epoll instances or threads wait for each of these members: which of them gets a connection
    /// is not up to what chooses the member.
    SeveralWait {
        /// The members.
        members: Vec<String>,
    },
    /// The queues of these members are full: the kernel drops what comes next.
    QueueFull {
        /// The members.
        members: Vec<String>,
    },
    /// The kernel has dropped packets at these members since they were made.
    Drops {
        /// The members, each with how many.
        members: Vec<(String, u32)>,
    },
    /// One member has got nearly all picks under a policy that gives the same key to the same member: few
    /// keys make up nearly all of the traffic.
    OneSided {
        /// The member.
        member: String,
        /// Its part of the recent picks, in percent.
        percent: u8,
        /// The policy.
        policy: Policy,
    },
}

/// One server among several in a group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Party {
    /// The name of the process that has held a member for longest.
    pub comm: String,
    /// Its first process: see [`Origin::first`](crate::group::Origin::first).
    pub pid: u32,
    /// When that one began, since the host's boot.
    pub started: Duration,
    /// How many members it holds.
    pub members: usize,
}

impl Finding {
    /// A word for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::OneSocket { .. } => "one-socket",
            Self::SeveralServers { .. } => "several-servers",
            Self::Unwaited { .. } => "unwaited",
            Self::SeveralWait { .. } => "several-wait",
            Self::QueueFull { .. } => "queue-full",
            Self::Drops { .. } => "drops",
            Self::OneSided { .. } => "one-sided",
        }
    }

    /// The members that it is about, by name; none if it is about the group.
    pub fn members(&self) -> Vec<&str> {
        match self {
            Self::OneSocket { .. } | Self::SeveralServers { .. } => Vec::new(),
            Self::Unwaited { members, .. }
            | Self::SeveralWait { members }
            | Self::QueueFull { members } => members.iter().map(String::as_str).collect(),
            Self::Drops { members } => members.iter().map(|(name, _)| name.as_str()).collect(),
            Self::OneSided { member, .. } => vec![member],
        }
    }
}
