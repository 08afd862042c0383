//! Short texts for people: the holders of a socket, its queue, the program that decides, and the
//! command that fixes a problem.

use reuseport::Share;
use reuseport::group::{AttachedProgram, GroupKey, NotAsked, Reach, listed};
use reuseport::id::State;
use reuseport::status::Uncounted;

use crate::output::following::WatcherView;
use crate::output::foreign::safe;
use crate::output::note::note;
use crate::output::number::{by_number, count};
use crate::output::table::{self, shortened};
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

/// Who decides, short: as [`program`] says it, with what `show` explains left out.
pub(crate) fn decider(decided_by: Option<&Program>) -> String {
    match decided_by {
        Some(Program { decides: false, standby: 1.., .. }) => "kernel hash (standby)".to_owned(),
        Some(Program { decides: false, .. }) => "kernel hash (emptied)".to_owned(),
        Some(Program { kind: ProgramKind::Elsewhere, policy, .. }) => {
            format!("elsewhere: {}", policy.unwrap_or("object"))
        }
        other => program(other),
    }
}

/// The same in fewer columns; None: it has no shorter form.
pub(crate) fn short_decider(decided_by: Option<&Program>) -> Option<String> {
    let program = decided_by?;
    Some(match program {
        Program { decides: false, standby: 1.., .. } => "standby".to_owned(),
        Program { decides: false, .. } => "emptied".to_owned(),
        Program { kind: ProgramKind::Policy, policy, .. } => (*policy)?.to_owned(),
        Program { kind: ProgramKind::Foreign, id: Some(id), name, .. } => {
            format!("{}#{id}", safe(name))
        }
        _ => return None,
    })
}

/// The group that a note is about, for a reader in this network namespace.
pub(crate) struct Subject<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) own_netns: Option<u32>,
}

impl Subject<'_> {
    fn name(&self) -> &str {
        &self.identity.group
    }

    /// The group as an argument that finds it.
    fn argument(&self) -> &str {
        argument(self.identity, self.own_netns)
    }
}

/// The note on a program that decides nothing because it has no member, or all are on standby; `joinable` sockets
/// can be given a slot.
pub(crate) fn undecided(of: &Subject<'_>, program: &Program, joinable: usize) -> String {
    let (name, argument) = (of.name(), of.argument());
    let then = match (program.kind, joinable) {
        (ProgramKind::Elsewhere, _) => {
            format!(
                "it ends with the group, or by `reuseport detach {argument}` once a socket can be borrowed"
            )
        }
        (_, 0) if program.standby > 0 => "until one is made active".to_owned(),
        (_, 0) => "no socket can be given a slot".to_owned(),
        (_, n) => {
            let them = by_number(n, "it", "them");
            format!(
                "{} can be given a slot: `reuseport attach {argument}` adds {them}",
                count(n, "socket")
            )
        }
    };
    let has = match program.standby {
        0 => "has no member",
        _ => "has only members on standby",
    };
    format!("the program of {name} {has}: the kernel's hash decides; {then}")
}

/// The note on members that joined after `attach`: how many, the consequence, and the command that adds them.
pub(crate) fn late(of: &Subject<'_>, program: Option<&Program>, n: usize) -> String {
    format!(
        "{} of {} joined after `attach` and {}; `reuseport attach {}` adds {}",
        count(n, "socket"),
        of.name(),
        consequence(program, n),
        of.argument(),
        by_number(n, "it", "them"),
    )
}

/// The note on members that have no slot and cannot be given one.
pub(crate) fn unborrowable(of: &Subject<'_>, program: Option<&Program>, n: usize) -> String {
    format!(
        "{} of {} {} and cannot be enrolled; `reuseport show {}` says why",
        count(n, "socket"),
        of.name(),
        consequence(program, n),
        of.argument(),
    )
}

/// What it means for this number of members that they have no slot. A user's own program may leave the choice
/// to the kernel.
fn consequence(program: Option<&Program>, n: usize) -> &'static str {
    match program {
        Some(Program { kind: ProgramKind::Object, .. } | Program { decides: false, .. }) => {
            by_number(n, "has no slot", "have no slot")
        }
        _ => by_number(n, "gets nothing", "get nothing"),
    }
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
            let consequence = consequence(group.program.as_ref(), n);
            faults.push(format!("{} {consequence}: {text}", count(n, "socket")));
        }
    }
    if !group.outside.is_empty() {
        let socket = |socket: &OutsideView| {
            let holder = socket
                .holders
                .first()
                .map(|HolderView { pid, fd, name, .. }| format!("{} {pid} fd {fd}", safe(name)));
            match (socket.cookie, holder) {
                (Some(cookie), Some(holder)) => format!("cookie:{cookie} ({holder})"),
                (Some(cookie), None) => format!("cookie:{cookie}"),
                (None, Some(holder)) => holder,
                (None, None) => "a socket without cookie and holder".to_owned(),
            }
        };
        faults.push(format!(
            "not in the group, and may take its datagrams: {}; \
             connected once and disconnected, or SO_REUSEPORT set after bind",
            listed(group.outside.iter().map(socket), 4),
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

/// Who follows a group.
pub(crate) fn watcher(watcher: &WatcherView) -> String {
    let comm = watcher.comm.as_deref().map(|comm| format!(" ({})", safe(comm)));
    match watcher.pid {
        Some(pid) => format!("by pid {pid}{}", comm.unwrap_or_default()),
        None => "by a process of another pid namespace".to_owned(),
    }
}

/// The note on open connections that are not counted: why, and the command that counts them.
pub(crate) fn uncounted(of: &Subject<'_>, why: Uncounted) -> String {
    let group = of.argument();
    let by = if why == Uncounted::Unreadable { " by root" } else { "" };
    format!("open connections are not counted: {why}; `reuseport attach {group}`{by} counts them")
}

/// The warning if no member is active with a weight; else empty.
pub(crate) fn none_active(key: &GroupKey, shares: &[Share], room: Option<usize>) -> String {
    let active = |share: &Share| share.state == State::Active && share.weight.get() > 0;
    if shares.iter().any(active) {
        return String::new();
    }
    let instead = match shares.iter().any(|share| share.state != State::Standby) {
        true => "draining members and those of weight 0 take turns (fallback_draining)",
        false => "the kernel's hash decides (fallback_kernel)",
    };
    note(&format!("no member of {key} is active with a weight; until one is, {instead}"), room)
}

/// Which generation serves, and for what newcomers wait, if that says anything: "generation 2; newer ones wait for `promote`".
pub(crate) fn generations(group: &GroupView) -> Option<String> {
    let mut generations = group.members.iter().filter_map(|member| member.generation);
    let first = generations.next()?;
    let several = generations.any(|other| other != first);
    let serving = group.serving_generation?;
    let mut text = format!("generation {serving}");
    if let Some(trial) = &group.trial {
        let whose =
            trial.generation.map_or("a newer one".to_owned(), |g| format!("generation {g}"));
        text += &format!("; {whose} is on trial, with {}% of the picks", trial.percent);
    }
    text += group.hold_new.said();
    (several || group.hold_new.hold_new || group.trial.is_some()).then_some(text)
}

/// The group as an argument that finds it again from this network namespace, also if that gets a group of the same
/// name.
pub(crate) fn argument(identity: &Identity, own_netns: Option<u32>) -> &str {
    match own_netns.is_none_or(|own| own == identity.netns) {
        true => &identity.group,
        false => &identity.with_netns,
    }
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
