//! What is worth knowing about a group: what keeps a policy from working, and what is not as in most groups.
//!
//! A finding says what was seen, and claims no more: a member that nothing waits for may have a worker that is busy.

use std::time::Duration;

use super::group::{NotAsked, Reach};
use super::name::misspelt;
use super::policy::Policy;
use super::server::Server;
use super::uncounted::Uncounted;

/// The names of all findings: problems before advice, as docs/findings.md lists them.
pub const NAMES: &[&str] = &[
    "program-lost",
    "program-replaced",
    "state-elsewhere",
    "undecided",
    "none-active",
    "joined-later",
    "hidden-member",
    "mptcp",
    "connected-udp",
    "split",
    "queue-full",
    "small-backlog",
    "drops",
    "unwaited",
    "several-wait",
    "not-accepting",
    "one-socket",
    "several-servers",
    "one-sided",
    "unsuited-policy",
    "no-watcher",
    "no-migration",
    "uncounted",
    "queues-unread",
    "multicast",
    "broadcast",
    "tproxy",
];

/// The names of all [checks of the host](crate::checks), as docs/findings.md lists them.
pub const CHECKS: &[&str] = &[
    "kernel-types",
    "list-descriptors",
    "list-tables",
    "select-programs",
    "read-queues",
    "direct-reads",
    "trace-connections",
    "recount",
    "ring-buffer",
    "udp-binds",
    "list-udp",
    "copy-descriptors",
    "bpffs",
    "directory",
    "other-versions",
    "leftovers",
    "lockdown",
    "unprivileged-bpf",
    "ptrace-scope",
    "syn-cookies",
];

/// The finding or check that is meant by a name that none has: one that has the same words or is called so elsewhere, or else the
/// most similar one, if any is.
pub fn nearest(given: &str) -> Option<&'static str> {
    const ELSEWHERE: [(&str, &str); 7] = [
        ("held", "not-accepting"),
        ("unwatched-member", "unwaited"),
        ("strangers", "several-servers"),
        ("mixed-generations", "several-servers"),
        ("no-holder", "hidden-member"),
        ("transparent", "tproxy"),
        ("unsteered", "joined-later"),
    ];
    let words = |name: &str| {
        let mut words: Vec<String> = name.split(['-', '_', ' ']).map(str::to_lowercase).collect();
        words.sort_unstable();
        words.join("-")
    };
    let given = words(given);
    let elsewhere =
        ELSEWHERE.into_iter().chain(NAMES.iter().chain(CHECKS).map(|name| (*name, *name)));
    let similar =
        elsewhere.filter_map(|(name, meant)| Some((misspelt(&given, &words(name))?, meant)));
    similar.min_by_key(|(distance, _)| *distance).map(|(_, meant)| meant)
}

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// Traffic is lost or goes where it should not, or what was asked for does not happen.
    Problem,
    /// All works, and something should be known or could be better.
    Advice,
}

impl Severity {
    /// A word for programs: `problem`, `advice`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Problem => "problem",
            Self::Advice => "advice",
        }
    }
}

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
    /// These members are on standby because no thread was seen waiting for connections on them since they came
    /// ([`HoldNew::Accepting`](crate::HoldNew::Accepting)).
    NotAccepting {
        /// The members.
        members: Vec<String>,
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
    /// State of this tool is pinned for the group, and no program is attached: its server was restarted as a whole, or
    /// another process detached the program.
    ProgramLost,
    /// State of this tool is pinned for the group, and another owner's program decides.
    ProgramReplaced,
    /// A program of this tool decides, and its state is pinned elsewhere or not at all.
    StateElsewhere,
    /// A program is attached that has no member to select: the kernel's hash decides.
    Undecided {
        /// Members on standby.
        standby: usize,
        /// Members that could be given a slot.
        joinable: usize,
    },
    /// No member is active with a weight.
    NoneActive,
    /// Members have no slot and could be given one: the program does not select them.
    JoinedLater {
        /// The members.
        members: Vec<String>,
    },
    /// No visible process has a descriptor of these members, so that none can be given a slot.
    HiddenMember {
        /// The members.
        members: Vec<String>,
        /// Whether a program of this tool decides, so that they get nothing.
        steered: bool,
    },
    /// These members belong to MPTCP listeners, which no program can select.
    Mptcp {
        /// The members.
        members: Vec<String>,
        /// Whether a program of this tool decides, so that they get nothing.
        steered: bool,
    },
    /// UDP: sockets on the group's address are connected, or were once.
    ConnectedUdp {
        /// Those that are in no group and not connected, and may take its datagrams.
        sockets: Vec<String>,
        /// How many are connected.
        connected: usize,
    },
    /// Other groups have the same name.
    Split {
        /// Which of them gets the traffic.
        reach: Reach,
    },
    /// TCP: the accept queue of these members is short.
    SmallBacklog {
        /// The members.
        members: Vec<String>,
        /// The smallest limit.
        limit: u32,
        /// How much waits at the member that is nearest to its limit, and the limit of that one.
        fullest: (u32, u32),
        /// `net.core.somaxconn` of the group's network namespace, above which no limit can be; `None`: not known.
        somaxconn: Option<u32>,
    },
    /// The policy does not suit the server, as far as its name and port tell.
    UnsuitedPolicy {
        /// What does not work, and what to do.
        text: &'static str,
    },
    /// This tool's program decides, and no process follows the group.
    NoWatcher,
    /// TCP: no program decides and `net.ipv4.tcp_migrate_req` is 0: the kernel resets what waits at a listener that
    /// closes.
    NoMigration,
    /// The policy compares open connections, and they are not counted.
    Uncounted {
        /// Why.
        why: Uncounted,
    },
    /// The policy's program does not read the members' queues.
    QueuesUnread,
    /// UDP: datagrams may reach members without any program being asked.
    NotAsked {
        /// These datagrams.
        what: NotAsked,
        /// The members.
        members: Vec<String>,
    },
    /// TCP: TPROXY may give connections to these members.
    Transparent {
        /// The members.
        members: Vec<String>,
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
            Self::NotAccepting { .. } => "not-accepting",
            Self::QueueFull { .. } => "queue-full",
            Self::Drops { .. } => "drops",
            Self::OneSided { .. } => "one-sided",
            Self::ProgramLost => "program-lost",
            Self::ProgramReplaced => "program-replaced",
            Self::StateElsewhere => "state-elsewhere",
            Self::Undecided { .. } => "undecided",
            Self::NoneActive => "none-active",
            Self::JoinedLater { .. } => "joined-later",
            Self::HiddenMember { .. } => "hidden-member",
            Self::Mptcp { .. } => "mptcp",
            Self::ConnectedUdp { .. } => "connected-udp",
            Self::Split { .. } => "split",
            Self::SmallBacklog { .. } => "small-backlog",
            Self::UnsuitedPolicy { .. } => "unsuited-policy",
            Self::NoWatcher => "no-watcher",
            Self::NoMigration => "no-migration",
            Self::Uncounted { .. } => "uncounted",
            Self::QueuesUnread => "queues-unread",
            Self::NotAsked { what: NotAsked::Multicast, .. } => "multicast",
            Self::NotAsked { what: NotAsked::Broadcast, .. } => "broadcast",
            Self::NotAsked { what: NotAsked::Transparent, .. } | Self::Transparent { .. } => {
                "tproxy"
            }
        }
    }

    /// How serious it is.
    pub fn severity(&self) -> Severity {
        let is_problem = match self {
            Self::OneSocket { processes, waiters, .. } => *processes > 1 || *waiters > Some(1),
            Self::SeveralServers { different, .. } => *different,
            Self::Unwaited { waiting, .. } => *waiting > 0,
            Self::HiddenMember { steered, .. } | Self::Mptcp { steered, .. } => *steered,
            Self::ConnectedUdp { sockets, .. } => !sockets.is_empty(),
            Self::Split { reach } => *reach == Reach::Behind,
            Self::SmallBacklog { fullest: (waiting, limit), .. } => is_half(*waiting, *limit),
            Self::QueueFull { .. }
            | Self::ProgramLost
            | Self::ProgramReplaced
            | Self::StateElsewhere
            | Self::Undecided { .. }
            | Self::NoneActive
            | Self::JoinedLater { .. } => true,
            Self::SeveralWait { .. }
            | Self::NotAccepting { .. }
            | Self::Drops { .. }
            | Self::OneSided { .. }
            | Self::UnsuitedPolicy { .. }
            | Self::NoWatcher
            | Self::NoMigration
            | Self::Uncounted { .. }
            | Self::QueuesUnread
            | Self::NotAsked { .. }
            | Self::Transparent { .. } => false,
        };
        if is_problem { Severity::Problem } else { Severity::Advice }
    }

    /// The members that it is about, by name; none if it is about the group.
    pub fn members(&self) -> Vec<&str> {
        match self {
            Self::Unwaited { members, .. }
            | Self::SeveralWait { members }
            | Self::NotAccepting { members }
            | Self::QueueFull { members }
            | Self::JoinedLater { members }
            | Self::HiddenMember { members, .. }
            | Self::Mptcp { members, .. }
            | Self::SmallBacklog { members, .. }
            | Self::NotAsked { members, .. }
            | Self::Transparent { members } => members.iter().map(String::as_str).collect(),
            Self::Drops { members } => members.iter().map(|(name, _)| name.as_str()).collect(),
            Self::OneSided { member, .. } => vec![member],
            Self::OneSocket { .. }
            | Self::SeveralServers { .. }
            | Self::ProgramLost
            | Self::ProgramReplaced
            | Self::StateElsewhere
            | Self::Undecided { .. }
            | Self::NoneActive
            // These sockets are no members.
            | Self::ConnectedUdp { .. }
            | Self::Split { .. }
            | Self::UnsuitedPolicy { .. }
            | Self::NoWatcher
            | Self::NoMigration
            | Self::Uncounted { .. }
            | Self::QueuesUnread => Vec::new(),
        }
    }
}

/// Whether half of a queue is taken.
pub(crate) fn is_half(waiting: u32, limit: u32) -> bool {
    u64::from(waiting) * 2 >= u64::from(limit) && waiting > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_none_has_is_answered_with_the_one_that_is_meant() {
        for (given, meant) in [
            ("full-queue", "queue-full"),
            ("full-queu", "queue-full"),
            ("Drop", "drops"),
            ("unwatched-member", "unwaited"),
            ("strangers", "several-servers"),
            ("hidden_members", "hidden-member"),
        ] {
            assert_eq!(nearest(given), Some(meant), "{given}");
        }
        assert!(NAMES.iter().all(|name| nearest(name) == Some(name)));
        assert_eq!(nearest("xyzzy"), None);
    }
}
