//! Short texts for people: the holders of a socket, its queue, the program that decides, and the
//! command that fixes a problem.

use reuseport::group::{AttachedProgram, GroupKey, NotAsked, Reach};
use reuseport::id::State;
use reuseport::status::Uncounted;
use reuseport::table::Share;

use crate::output::table::{self, NOTE, safe, shortened};
use crate::output::view::{
    GroupView, HolderView, Identity, MemberView, OutsideView, Program, ProgramKind, QueueView,
};

/// One process that holds a socket; `fd` only if descriptors are shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Held<'a> {
    pub(crate) pid: u32,
    pub(crate) comm: &'a str,
    pub(crate) fd: Option<u32>,
}

/// Another owner's program, by name and id.
pub(crate) fn program_name(program: &AttachedProgram) -> String {
    match program.id {
        Some(id) => format!("{}#{id}", safe(&program.name)),
        None => "a classic BPF program".to_owned(),
    }
}

/// Processes in at most `room` columns: `nginx 123,124,125 fd 6`, with pids left out as `+9`.
pub(crate) fn processes(mut held: Vec<Held<'_>>, room: Option<usize>) -> String {
    held.sort();
    held.dedup();
    let mut groups: Vec<(&str, Option<u32>, Vec<u32>)> = Vec::new();
    for Held { pid, comm, fd } in held {
        match groups.iter_mut().find(|g| g.0 == comm && g.1 == fd) {
            Some(group) => group.2.push(pid),
            None => groups.push((comm, fd, vec![pid])),
        }
    }
    let longest = groups.iter().map(|g| g.2.len()).max().unwrap_or(0);
    let Some(room) = room else { return processes_with(&groups, longest) };
    let fits = |&pids: &usize| table::width(&processes_with(&groups, pids)) <= room;
    let pids = (1..=longest).rev().find(fits).unwrap_or(1);
    shortened(&processes_with(&groups, pids), room)
}

fn processes_with(groups: &[(&str, Option<u32>, Vec<u32>)], most: usize) -> String {
    let group = |(comm, fd, pids): &(&str, Option<u32>, Vec<u32>)| {
        let mut list: Vec<String> = pids.iter().take(most).map(u32::to_string).collect();
        if pids.len() > most {
            list.push(format!("+{}", pids.len() - most));
        }
        let fd = fd.map_or(String::new(), |fd| format!(" fd {fd}"));
        format!("{} {}{fd}", safe(comm), list.join(","))
    };
    groups.iter().map(group).collect::<Vec<_>>().join("; ")
}

/// A queue and its limit: `3(+1)/511` connections, or `12K/208K` bytes.
pub(crate) fn queue(queue: QueueView, bytes: bool) -> String {
    let number = |n| if bytes { size(n) } else { n.to_string() };
    let half_open = match queue.half_open {
        0 => String::new(),
        n => format!("(+{n})"),
    };
    format!("{}{half_open}/{}", number(queue.waiting), number(queue.limit))
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["", "K", "M", "G"];
    let mut unit = 0;
    let mut scaled = bytes as f64;
    while scaled >= 1000.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => bytes.to_string(),
        _ if scaled < 10.0 => format!("{scaled:.1}{}", UNITS[unit]),
        _ => format!("{scaled:.0}{}", UNITS[unit]),
    }
}

/// A share of 1 as a percentage with one digit.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// Which program decides: `reuseport hash`, `reuseport hash, state elsewhere`, `foreign NAME#7`,
/// `kernel hash`.
pub(crate) fn program(program: Option<&Program>) -> String {
    let Some(program) = program else { return "kernel hash".to_owned() };
    let named = || match program.id {
        Some(id) => format!("{}#{id}", safe(&program.name)),
        None => "classic BPF".to_owned(),
    };
    match program.kind {
        ProgramKind::Policy => format!("reuseport {}", program.policy.unwrap_or("?")),
        ProgramKind::Object => format!("object {}", named()),
        ProgramKind::Elsewhere => {
            format!("reuseport {}, state elsewhere", program.policy.unwrap_or("object"))
        }
        ProgramKind::Foreign => format!("foreign {}", named()),
    }
}

/// A number of things: `1 socket`, `2 sockets`.
pub(crate) fn count(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// The note on unsteered members: how many, the consequence, and the command that adds them.
pub(crate) fn unsteered(identity: &Identity, n: usize, own_netns: Option<u32>) -> String {
    let pronoun = if n == 1 { "it" } else { "them" };
    format!(
        "{} of {} joined after `attach` and {} nothing; `reuseport attach {}` adds {pronoun}",
        count(n, "socket"),
        identity.group,
        get(n),
        argument(identity, own_netns),
    )
}

/// The note on members that have no slot and cannot be given one.
pub(crate) fn unborrowable(identity: &Identity, n: usize, own_netns: Option<u32>) -> String {
    format!(
        "{} of {} {} nothing and cannot be enrolled; `reuseport show {}` says why",
        count(n, "socket"),
        identity.group,
        get(n),
        argument(identity, own_netns),
    )
}

/// The verb for this number of sockets.
fn get(n: usize) -> &'static str {
    if n == 1 { "gets" } else { "get" }
}

/// What is wrong with sockets of a group, and what helps.
pub(crate) fn faults(group: &GroupView) -> Vec<String> {
    const REASONS: [(&str, &str); 2] = [
        (
            "no-holder",
            "no visible process has a descriptor; docs/troubleshooting.md says where sockets hide",
        ),
        (
            "mptcp",
            "the kernel lets no program select an MPTCP listener; let the server listen without MPTCP",
        ),
    ];
    let mut faults = Vec::new();
    for (reason, text) in REASONS {
        let of_it = |m: &&MemberView| m.unsteered_because == Some(reason);
        let n = group.members.iter().filter(of_it).count();
        if n > 0 {
            faults.push(format!("{} {} nothing: {text}", count(n, "socket"), get(n)));
        }
    }
    if !group.outside.is_empty() {
        let socket = |socket: &OutsideView| {
            let name = socket.cookie.map_or("unknown".to_owned(), |c| format!("cookie:{c}"));
            match socket.holders.first() {
                Some(HolderView { pid, fd, comm, .. }) => {
                    format!("{name} ({} {pid} fd {fd})", safe(comm))
                }
                None => name,
            }
        };
        let names: Vec<String> = group.outside.iter().take(4).map(socket).collect();
        let more = match group.outside.len() {
            n if n > 4 => format!(" and {} more", n - 4),
            _ => String::new(),
        };
        faults.push(format!(
            "not in the group, and may take its datagrams: {}{more}; \
             connected once and disconnected, or SO_REUSEPORT set after bind",
            names.join(", "),
        ));
    }
    faults
}

/// The note on a group that is not the only one of its name; None if it is.
pub(crate) fn split(group: &str, reach: Reach) -> Option<String> {
    let what = match reach {
        Reach::Alone => return None,
        Reach::First => "gets what is new; the kernel finds it before another group of its name",
        Reach::Behind => "gets nothing new; the kernel finds another group of its name first",
        Reach::Unknown => {
            "is not the only group of its name; which one gets the traffic is unknown"
        }
    };
    Some(format!("{group} {what}"))
}

/// The notes on datagrams that no program decides on.
pub(crate) fn not_asked(what: &[NotAsked]) -> Vec<String> {
    let who = |what| match what {
        NotAsked::Transparent => "the kernel's hash chooses, and asks no program",
        _ => "the kernel copies them to each socket that takes them, and asks no program",
    };
    what.iter().map(|what| format!("{what} are not dealt: {}", who(*what))).collect()
}

/// The note on open connections that are not counted: why, and the command that counts them.
pub(crate) fn uncounted(identity: &Identity, why: Uncounted, own_netns: Option<u32>) -> String {
    let group = argument(identity, own_netns);
    let by = if why == Uncounted::Unreadable { " by root" } else { "" };
    format!("open connections are not counted: {why}; `reuseport attach {group}`{by} counts them")
}

/// The warning if no member is active with a weight; else empty.
pub(crate) fn none_active(key: &GroupKey, shares: &[Share]) -> String {
    let active = |share: &Share| share.state == State::Active && share.weight.get() > 0;
    if shares.iter().any(active) {
        return String::new();
    }
    let instead = match shares.iter().any(|share| share.state != State::Standby) {
        true => "until one is, draining members are picked (fallback_draining)",
        false => "until one is, the kernel's hash decides (fallback_kernel)",
    };
    format!("{NOTE}no member of {key} is active with a weight;\n{instead}{NOTE:#}\n")
}

/// The group as an argument that finds it again from this network namespace.
pub(crate) fn argument(identity: &Identity, own_netns: Option<u32>) -> String {
    if own_netns.is_none_or(|own| own == identity.netns) {
        return identity.group.clone();
    }
    format!("{} --netns {}", identity.group, netns(identity))
}

/// A network namespace's name, or its number where it has none.
pub(crate) fn netns(identity: &Identity) -> String {
    identity.netns_name.as_deref().map_or_else(|| identity.netns.to_string(), safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(pid: u32, comm: &str, fd: u32) -> Held<'_> {
        Held { pid, comm, fd: Some(fd) }
    }

    #[test]
    fn processes_with_the_same_name_and_descriptor_are_one_entry() {
        let nginx = vec![held(125, "nginx", 6), held(123, "nginx", 6), held(124, "nginx", 6)];
        assert_eq!(processes(nginx, None), "nginx 123,124,125 fd 6");

        let mixed = vec![held(1, "init", 3), held(9, "nginx", 6), held(10, "nginx", 7)];
        assert_eq!(processes(mixed, None), "init 1 fd 3; nginx 9 fd 6; nginx 10 fd 7");
        assert_eq!(processes(vec![], Some(10)), "");
    }

    #[test]
    fn long_lists_of_pids_are_cut_to_the_room_there_is() {
        let many = || (100..200).map(|pid| held(pid, "nginx", 6)).collect::<Vec<_>>();
        assert_eq!(processes(many(), Some(30)), "nginx 100,101,102,103,+96 fd 6");
        assert_eq!(processes(many(), Some(12)), "nginx 100,+…");
        assert!(processes(many(), None).ends_with("198,199 fd 6"));
    }

    #[test]
    fn queues_are_connections_or_sizes() {
        let tcp = QueueView { waiting: 3, half_open: 1, limit: 511 };
        assert_eq!(queue(tcp, false), "3(+1)/511");
        let udp = QueueView { waiting: 2304, half_open: 0, limit: 212_992 };
        assert_eq!(queue(udp, true), "2.2K/208K");
        let empty = QueueView { waiting: 0, half_open: 0, limit: 4096 };
        assert_eq!(queue(empty, false), "0/4096");
        assert_eq!(size(1_048_576), "1.0M");
        assert_eq!(size(999), "999");
        assert_eq!(size(1023), "1.0K");
    }
}
