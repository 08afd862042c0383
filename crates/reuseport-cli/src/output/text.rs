//! `ls` and `show` for people: which columns, in which order, and what to point out.

use std::fmt::Write as _;

use crate::output::foreign::safe;
use crate::output::note::{filled, note};
use crate::output::table::{Align, BOLD, Cell, DIM, GOOD, Last, NOTE, PLAIN, Table, bar};
use crate::output::view::{GroupLine, GroupView, Identity, MemberView, Program, ProgramKind};
use crate::output::words::{self, Held, Subject};
use crate::output::{Reader, cpus};

/// The list of groups.
pub(crate) fn ls(groups: &[GroupLine], reader: &Reader) -> String {
    if groups.is_empty() {
        return "no groups: no socket here was bound with SO_REUSEPORT\n".to_owned();
    }
    let mut table = Table::default();
    let elsewhere = |g: &GroupLine| reader.own_netns.is_some_and(|own| own != g.identity.netns);
    if groups.iter().any(elsewhere) {
        let name = |g: &GroupLine| match elsewhere(g) {
            true => words::netns(&g.identity).into(),
            false => Cell::new("own", DIM),
        };
        table.at_last("NETNS", groups.iter().map(name));
    }
    table
        .column(
            "GROUP",
            Align::Left,
            groups.iter().map(|g| Cell::new(g.identity.group.clone(), BOLD)),
        )
        .cut("PROGRAM", groups.iter().map(program_cell))
        .column("MEMBERS", Align::Left, groups.iter().map(members_cell))
        .column("QUEUE", Align::Right, groups.iter().map(sum_cell));
    if groups.iter().any(|g| g.skew.is_some()) {
        let skew = |g: &GroupLine| g.skew.map_or("-".into(), |s| words::percent(s).into());
        table.optional(2, "SKEW", Align::Right, groups.iter().map(skew));
    }
    let processes = |row: usize, room| {
        let holders = &groups[row].processes;
        let held = holders.iter().map(|h| Held { pid: h.pid, comm: &h.name, fd: None });
        words::processes(held.collect(), room)
    };
    let last = Last { title: "PROCESSES", least: 12, text: &processes };
    let mut out = table.draw(reader.width, &last);
    for group in groups {
        let mut note = |text: &str| out.push_str(&note(text, reader.width));
        let of = Subject { identity: &group.identity, own_netns: reader.own_netns };
        if let Some(text) = words::split(&group.identity.group, group.reach) {
            note(&text);
        }
        if let Some(program) = group.program.as_ref().filter(|program| !program.decides) {
            // All members with a slot are on standby.
            let joinable = group.members - group.unborrowable - program.standby;
            note(&words::undecided(&of, program, joinable));
        }
        let late = group.unsteered.saturating_sub(group.unborrowable);
        if late > 0 {
            note(&words::late(&of, group.program.as_ref(), late));
        }
        if group.unsteered > 0 && group.unborrowable > 0 {
            note(&words::unborrowable(&of, group.program.as_ref(), group.unborrowable));
        }
        for text in group.findings.iter().filter_map(|finding| finding.short.as_ref()) {
            note(&format!("{}: {text}", group.identity.group));
        }
    }
    out
}

fn program_cell(group: &GroupLine) -> Cell {
    let style = match group.program.as_ref().map(|p| p.kind) {
        Some(ProgramKind::Policy | ProgramKind::Object) => GOOD,
        Some(ProgramKind::Elsewhere | ProgramKind::Foreign) => NOTE,
        None => DIM,
    };
    let text = words::decider(group.program.as_ref());
    match words::short_decider(group.program.as_ref()) {
        Some(short) => Cell::new(text, style).or(short),
        None => Cell::new(text, style),
    }
}

fn members_cell(group: &GroupLine) -> Cell {
    let cell = Cell::from(group.members.to_string());
    match group.unsteered {
        0 => cell,
        n => cell.and(format!(", unsteered {n}"), NOTE),
    }
}

fn queue_cell(member: &MemberView, identity: &Identity) -> Cell {
    let style = if member.full { NOTE } else { PLAIN };
    Cell::new(words::queue(member.queue, identity.is_udp()), style)
}

/// What waits at all members. A sum hides that the queue of one is full.
fn sum_cell(group: &GroupLine) -> Cell {
    let sum = words::queue(group.queue, group.identity.is_udp());
    match group.queue_full {
        0 => sum.into(),
        n if n == group.members => Cell::new(sum, NOTE),
        n => Cell::new(sum, NOTE).and(format!(", {n} full"), NOTE),
    }
}

/// One group with its members.
pub(crate) fn show(group: &GroupView, reader: &Reader) -> String {
    let mut out = String::new();
    header(&mut out, group, reader);
    if group.members.is_empty() {
        out.push_str("no members\n");
        return out;
    }
    out.push('\n');
    out.push_str(&members(group, reader));
    for text in notes(group, reader) {
        out.push_str(&note(&text, reader.width));
    }
    out
}

/// What is to be said about a group, below the table.
fn notes(group: &GroupView, reader: &Reader) -> Vec<String> {
    let of = Subject { identity: &group.identity, own_netns: reader.own_netns };
    let mut notes: Vec<String> =
        words::split(&group.identity.group, group.reach).into_iter().collect();
    if let Some(program) = group.program.as_ref().filter(|program| !program.decides) {
        let joinable = |m: &&MemberView| m.unsteered_because == Some("joined-later");
        let joinable = group.members.iter().filter(joinable).count();
        notes.push(words::undecided(&of, program, joinable));
    }
    let late = group.unsteered.saturating_sub(group.unborrowable);
    if late > 0 {
        notes.push(words::late(&of, group.program.as_ref(), late));
    }
    notes.extend(words::faults(group));
    notes.extend(cpus::notes(group, words::argument(&group.identity, reader.own_netns)));
    if group.program.is_some() {
        notes.extend(words::not_asked(&group.not_asked));
    }
    notes.extend(group.uncounted.map(|why| words::uncounted(&of, why)));
    notes.extend(group.findings.iter().map(|finding| finding.text.clone()));
    notes
}

fn header(out: &mut String, group: &GroupView, reader: &Reader) {
    let identity = &group.identity;
    let _ = writeln!(out, "{BOLD}{}{BOLD:#}", identity.group);
    let mut line = |name: &str, text: &str| {
        let room = reader.width.map(|width| width.saturating_sub(12).max(20));
        for (at, text) in filled(text, room.unwrap_or(usize::MAX)).iter().enumerate() {
            let name = if at == 0 { name } else { "" };
            let _ = writeln!(out, "  {DIM}{name:<9}{DIM:#} {text}");
        }
    };
    let mut program = words::program(group.program.as_ref());
    if let Some(ours) = group.program.as_ref().filter(|p| p.kind == ProgramKind::Policy) {
        if let Some(options) = &group.policy_options {
            let _ = write!(program, " ({})", options.words());
        }
        let id = ours.id.map_or(String::new(), |id| format!("#{id}"));
        let _ = write!(program, " ({}{id})", safe(&ours.name));
    }
    line("program", &program);
    match group.program.as_ref().filter(|p| p.kind == ProgramKind::Elsewhere) {
        Some(Program { decides: true, .. }) => {
            line("state", "pinned elsewhere or not at all: `detach` removes the program");
        }
        Some(_) => line("state", "pinned elsewhere or not at all, and without members"),
        None => {}
    }
    if let Some(watcher) = &group.watcher {
        line("watched", &words::watcher(watcher));
    }
    if let Some(generations) = words::generations(group) {
        line("serving", &generations);
    }
    if let Some(sticky) = group.sticky.filter(|sticky| *sticky != "none") {
        line("sticky", sticky);
    }
    line("network", &network(identity, reader));
    if let Some(device) = &identity.device {
        let name = device.name.as_deref().map_or_else(|| device.index.to_string(), safe);
        line("device", &name);
    }
    line("user", &format!("uid {}", identity.uid));
    if identity.v6only {
        line("v6only", "yes: IPv4 traffic goes elsewhere");
    }
    if let Some(skew) = group.skew {
        line("skew", &words::percent(skew));
    }
    let counters: Vec<String> =
        group.counters.iter().filter(|c| *c.1 > 0).map(|(name, n)| format!("{name} {n}")).collect();
    match counters.is_empty() {
        true if group
            .program
            .as_ref()
            .is_some_and(|p| p.kind == ProgramKind::Object && p.decides) =>
        {
            line("picks", "not counted; where it selects nothing, the kernel's hash decides");
        }
        true if group.policy.is_some() => line("counters", "all 0"),
        true => {}
        false => line("counters", &counters.join(", ")),
    }
}

fn network(identity: &Identity, reader: &Reader) -> String {
    let own = if reader.own_netns == Some(identity.netns) { ", our own" } else { "" };
    match &identity.netns_name {
        Some(name) => format!("namespace {} ({}{own})", safe(name), identity.netns),
        None => format!("namespace {}{own}", identity.netns),
    }
}

/// The member table. Columns that no member has a value for are left out.
fn members(group: &GroupView, reader: &Reader) -> String {
    let members = &group.members;
    let mut table = Table::default();
    if members.iter().any(|m| m.slot.is_some()) {
        table.column("SLOT", Align::Right, members.iter().map(|m| number(m.slot))).column(
            "STATE",
            Align::Left,
            members.iter().map(state_cell),
        );
    }
    if members.iter().any(|m| m.cpu.is_some()) {
        table.column("CPU", Align::Right, members.iter().map(|m| number(m.cpu)));
    }
    let mut generations: Vec<u32> = members.iter().filter_map(|m| m.generation).collect();
    generations.sort_unstable();
    generations.dedup();
    if generations.len() > 1 {
        table.column("GEN", Align::Right, members.iter().map(|m| number(m.generation)));
    }
    // The user's own program knows no weights.
    if group.policy.is_some() {
        let weights = members.iter().map(|m| number(m.weight));
        let all_alike = members.iter().filter_map(|m| m.weight).all(|weight| weight == 1);
        match all_alike {
            true => table.optional(1, "WEIGHT", Align::Right, weights),
            false => table.column("WEIGHT", Align::Right, weights),
        };
    }
    table.column("COOKIE", Align::Right, members.iter().map(|m| number(m.cookie)));
    if members.iter().any(|m| m.owner.is_some()) {
        table.column("OWNER", Align::Right, members.iter().map(|m| number(m.owner)));
    }
    table.column("QUEUE", Align::Right, members.iter().map(|m| queue_cell(m, &group.identity)));
    if members.iter().any(|m| m.open.is_some()) {
        table.column("OPEN", Align::Right, members.iter().map(|m| number(m.open)));
    }
    if members.iter().any(|m| m.picks.is_some()) {
        table.column("PICKS", Align::Right, members.iter().map(|m| number(m.picks))).column(
            "SHARE",
            Align::Right,
            members.iter().map(share_cell),
        );
    }
    if members.iter().any(|m| m.share.is_some()) {
        let bar = |m: &MemberView| m.share.map_or(String::new(), |share| bar(share, 10));
        table.optional(2, "", Align::Left, members.iter().map(|m| Cell::new(bar(m), GOOD)));
    }
    let held = |row: usize, room: Option<usize>| {
        let member = &members[row];
        if member.holders.is_empty() {
            return "no visible process".to_owned();
        }
        let holders = member.holders.iter();
        let held = holders.map(|h| Held { pid: h.pid, comm: &h.name, fd: Some(h.fd) });
        let mptcp = if member.mptcp { "MPTCP: " } else { "" };
        let room = room.map(|room| room.saturating_sub(mptcp.len()));
        format!("{mptcp}{}", words::processes(held.collect(), room))
    };
    table.draw(reader.width, &Last { title: "HELD BY", least: 18, text: &held })
}

fn number<N: ToString>(number: Option<N>) -> Cell {
    number.map_or("-".into(), |n| n.to_string().into())
}

/// Its share of the picks, of the share by weight.
fn share_cell(member: &MemberView) -> Cell {
    let percent = |share: Option<f64>| share.map_or("-".to_owned(), words::percent);
    match (member.share, member.weight_share) {
        (None, None) => "-".into(),
        (got, None) => percent(got).into(),
        (got, wanted) => Cell::from(percent(got)).and(format!(" of {:>5}", percent(wanted)), DIM),
    }
}

fn state_cell(member: &MemberView) -> Cell {
    match member.state {
        Some("active") => Cell::new("active", GOOD),
        Some("draining") => Cell::new("draining", NOTE),
        Some(other) => Cell::new(other, DIM),
        None => Cell::new("unsteered", NOTE),
    }
}
