//! Findings about what surrounds a group's sockets, in words: what was seen, and what follows from it.

use reuseport::finding::Finding;
use reuseport::group::{NotAsked, Reach, listed};

use crate::output::number::{by_number, count};

/// Names in a sentence; a longer list is cut.
pub(super) const NAMED: usize = 4;

pub(super) fn names(members: &[String]) -> String {
    listed(members.iter().cloned(), NAMED)
}

/// The text of a finding that `show` tells in other words, or not at all.
pub(super) fn text(finding: &Finding) -> String {
    match finding {
        Finding::ProgramLost => {
            "state of reuseport is pinned for it, and no program is attached: the kernel's hash \
             decides; its server was restarted as a whole, or another process detached the program"
                .to_owned()
        }
        Finding::ProgramReplaced => {
            "another process attached its program in place of ours: our policy, weights and \
             drains have no effect"
                .to_owned()
        }
        Finding::StateElsewhere => {
            "a program of reuseport decides, and its state is pinned elsewhere or not at all: \
             policy, weights and drains cannot be changed"
                .to_owned()
        }
        Finding::Undecided { standby: 0, .. } => {
            "a program is attached that has no member to select: the kernel's hash decides"
                .to_owned()
        }
        Finding::Undecided { standby, .. } => format!(
            "all {} with a slot are on standby: the kernel's hash decides",
            count(*standby, "member")
        ),
        Finding::NoneActive => {
            "no member is active with a weight: draining members and those of weight 0 take turns \
             (fallback_draining)"
                .to_owned()
        }
        Finding::JoinedLater { members } => format!(
            "{} joined after `attach` and {} no slot: our program does not select {}",
            names(members),
            by_number(members.len(), "has", "have"),
            by_number(members.len(), "it", "them"),
        ),
        Finding::HiddenMember { members, steered } => format!(
            "no visible process has a descriptor of {} (io_uring, in flight, or another pid namespace): {}",
            names(members),
            without_slot(members.len(), *steered),
        ),
        Finding::Mptcp { members, steered } => format!(
            "{} {} to an MPTCP listener, which the kernel lets no program select: {}",
            names(members),
            by_number(members.len(), "belongs", "belong"),
            without_slot(members.len(), *steered),
        ),
        Finding::ConnectedUdp { sockets, connected } if sockets.is_empty() => {
            connected_only(*connected)
        }
        Finding::ConnectedUdp { sockets, .. } => format!(
            "on its address, in no group, and free to take its datagrams: {}; connected once and disconnected, or \
             SO_REUSEPORT set after bind",
            names(sockets),
        ),
        Finding::Split { reach } => split(*reach).to_owned(),
        Finding::SmallBacklog { members, limit, fullest, somaxconn } => {
            small_backlog(members, *limit, *fullest, *somaxconn)
        }
        Finding::UnsuitedPolicy { text } => (*text).to_owned(),
        Finding::NoWatcher => {
            "no process follows it: sockets that join later get nothing, and a restart of the \
             whole server leaves it without our program"
                .to_owned()
        }
        Finding::NoMigration => {
            "no program decides and net.ipv4.tcp_migrate_req is 0: the kernel resets connections \
             that wait at a listener which closes, as in a restart"
                .to_owned()
        }
        Finding::Uncounted { why } => {
            format!("the policy compares open connections, and they are not counted: {why}")
        }
        Finding::QueuesUnread => {
            "the program does not read the members' queues: it does not pass over full ones, \
             and `least-loaded` compares open connections alone"
                .to_owned()
        }
        Finding::NotAsked { what, members } => not_asked(*what, members),
        Finding::Transparent { members } => format!(
            "{} {} IP_TRANSPARENT: where TPROXY redirects, the kernel may run a program twice for one packet, and \
             with the network header in front",
            names(members),
            by_number(members.len(), "has", "have"),
        ),
        other => other.name().to_owned(),
    }
}

fn without_slot(n: usize, steered: bool) -> &'static str {
    match steered {
        true => {
            by_number(n, "it has no slot and gets nothing", "they have no slot and get nothing")
        }
        false => by_number(n, "`attach` can give it no slot", "`attach` can give them no slot"),
    }
}

fn connected_only(n: usize) -> String {
    format!(
        "{} on its address {} connected: the kernel gives {} the datagrams of one peer and asks no program, and a \
         socket that is bound next to {} may get into another group of the same name",
        count(n, "UDP socket"),
        by_number(n, "is", "are"),
        by_number(n, "it", "each of them"),
        by_number(n, "it", "them"),
    )
}

fn split(reach: Reach) -> &'static str {
    match reach {
        Reach::First => {
            "another group has its name; the kernel finds this one first, and the other gets nothing new"
        }
        Reach::Behind => {
            "another group has its name, and the kernel finds that one first: this one gets nothing new"
        }
        _ => "another group has its name; which one gets the traffic cannot be seen",
    }
}

fn small_backlog(
    members: &[String],
    limit: u32,
    (waiting, of): (u32, u32),
    somaxconn: Option<u32>,
) -> String {
    let what = by_number(members.len(), "accept queue", "accept queues");
    let waits = match waiting {
        0 => String::new(),
        n => format!(", and {n} of {of} are taken"),
    };
    let by = match somaxconn {
        Some(most) if limit < most => {
            format!("the server asked for that (listen), net.core.somaxconn allows {most}")
        }
        Some(most) if limit == most => {
            format!("net.core.somaxconn allows no more than {most}, whatever the server asks for")
        }
        Some(most) => format!(
            "net.core.somaxconn is {most} now, and was more when the server began to listen"
        ),
        None => "whether the server asked for that or net.core.somaxconn limits it cannot be seen"
            .to_owned(),
    };
    let is = by_number(members.len(), "is", "are");
    format!(
        "the {what} of {} {is} limited to {limit} connections{waits}, and the kernel drops what comes to a full \
         one: {by}",
        names(members),
    )
}

fn not_asked(what: NotAsked, members: &[String]) -> String {
    let (why, who) = match what {
        NotAsked::Multicast => (
            by_number(members.len(), "takes multicast", "take multicast"),
            "the kernel copies each datagram to every socket that takes it",
        ),
        NotAsked::Broadcast => (
            by_number(members.len(), "has SO_BROADCAST", "have SO_BROADCAST"),
            "the kernel copies each broadcast datagram to every socket that takes it",
        ),
        _ => (
            by_number(members.len(), "has IP_TRANSPARENT", "have IP_TRANSPARENT"),
            "the kernel's hash chooses for datagrams through TPROXY",
        ),
    };
    format!("{} {why}: {who}, and asks no program", names(members))
}
