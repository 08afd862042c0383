//! What is said about a group to which a program is attached, and that is followed.

use std::error::Error as _;
use std::fmt::Write as _;

use reuseport::group::{AttachedProgram, Group, GroupKey, NotAsked, listed};
use reuseport::status::{GroupStatus, Steering};
use reuseport::watch::Retake;
use reuseport::{Attached, Error, Host, Inherited, LeftOut, Policy, Report, State};

use crate::output;
use crate::policy::{cpus, degraded, with_hint};

/// Says that other groups have the name.
pub(crate) fn split(group: &Group) -> String {
    let what = output::split(&group.key.to_string(), group.reach).unwrap_or_default();
    note(&format!("{what}; this one is followed"))
}

/// What the program will not decide on.
pub(crate) fn notes(not_asked: &[NotAsked]) -> String {
    output::not_asked(not_asked).iter().map(|text| note(text)).collect()
}

/// What is worth knowing about this policy for the group's server.
pub(crate) fn advice(group: &Group, policy: Option<Policy>) -> String {
    reuseport::advice::notes(group, policy).into_iter().map(note).collect()
}

/// What to know about groups that were attached to just now, each text a note. Looks at the host once, and again for
/// each group under policy `cpu` if there are several.
pub(crate) fn known(host: &Host, attached: &[(GroupKey, Option<Policy>)]) -> Vec<String> {
    // A group was there a moment ago: if it is not, there is nothing to say.
    match attached {
        [] => Vec::new(),
        [(key, _)] => host.status(key).iter().flat_map(|status| about(status, "")).collect(),
        _ => {
            let listed = host.statuses().unwrap_or_default();
            let texts = attached.iter().flat_map(|(key, policy)| {
                let own = (*policy == Some(Policy::Cpu)).then(|| host.status(key).ok()).flatten();
                let listed = || listed.iter().find(|status| status.group.key == *key);
                let status = own.as_ref().or_else(listed);
                status.map(|status| about(status, &format!("{key}: "))).unwrap_or_default()
            });
            texts.collect()
        }
    }
}

/// The findings that matter now, and the notes on CPUs.
pub(crate) fn about(status: &GroupStatus, of: &str) -> Vec<String> {
    let texts = output::findings_at_attach(status).into_iter().chain(cpus(status));
    texts.map(|text| note(&format!("{of}{text}"))).collect()
}

pub(crate) fn note(text: &str) -> String {
    output::note(text, output::width())
}

/// Says that the program has no member any more, and why none can take a slot.
pub(crate) fn unsteerable(key: &GroupKey, steering: &Steering, why: &Error) -> String {
    let then = match steering.policy() {
        Some(_) => ", and the kernel's hash decides",
        None => "",
    };
    let report = why.report();
    format!(
        "{key}: no member is left that the program can select{then}\n{}",
        note(&with_hint(&report.causes(), report.hint().as_deref())),
    )
}

/// Says what replaced our program, and what the watcher does about it.
pub(crate) fn replaced(key: &GroupKey, by: &AttachedProgram, retake: Retake) -> String {
    let then = match retake {
        Retake::Off => "waiting until it is gone (--retake takes the group back)".to_owned(),
        Retake::Now => "taking the group back".to_owned(),
        Retake::After(left) => format!("taking the group back in {} s", left.as_secs().max(1)),
        Retake::GivenUp => "taken back five times already; waiting until it is gone".to_owned(),
    };
    let by = output::program_name(by);
    format!("{key}: {by}, attached by another process, replaced our program; {then}\n")
}

/// Reports the result, in one or more lines.
pub(crate) fn report(key: &GroupKey, attached: &Attached) -> String {
    let Attached { steering, changes, replaced, degraded: lost, .. } = attached;
    let policy = steering.policy();
    let decides = policy.map_or_else(|| "your program".to_owned(), |p| format!("{p:#}"));
    let sockets = output::count(changes.kept + changes.enrolled.len(), "socket");
    let mut out = format!("{key}: {decides} decides among {sockets}");
    if changes.kept > 0 && !changes.enrolled.is_empty() {
        let _ = write!(out, ", {} of them new", changes.enrolled.len());
    }
    if !changes.released.is_empty() {
        let _ = write!(out, "; {} gone", changes.released.len());
    }
    out = output::filled(&out, output::width().unwrap_or(usize::MAX)).join("\n");
    out.push('\n');
    if let Some(program) = replaced {
        let which = output::program_name(program);
        out.push_str(&note(&format!("replaced {which}, attached by another process")));
    }
    out.push_str(&degraded(policy, lost));
    for Inherited { cookie, slot, weight, state, .. } in &changes.inherited {
        let drains = if *state == State::Draining { ", draining" } else { "" };
        out.push_str(&note(&format!(
            "slot {slot}: weight {weight}{drains}, as before; now the socket with cookie {cookie}"
        )));
    }
    if let waiting @ 1.. = changes.on_standby.len() {
        out.push_str(&note(&format!(
            "{} of a newer generation on standby: `reuseport promote {key}` lets {} serve",
            output::count(waiting, "socket"),
            output::by_number(waiting, "it", "them"),
        )));
    }
    if let waiting @ 1.. = changes.held.len() {
        out.push_str(&note(&format!(
            "{} on standby until a thread waits for connections on {}",
            output::count(waiting, "new socket"),
            output::by_number(waiting, "it", "them"),
        )));
    }
    if let joined @ 1.. = changes.taken_in.len() {
        out.push_str(&note(&format!(
            "{} on standby {}",
            output::count(joined, "socket"),
            output::by_number(
                joined,
                "accepts connections now, and serves",
                "accept connections now, and serve",
            ),
        )));
    }
    out.push_str(&left_out(&changes.left_out));
    out
}

/// The members that were left out, by reason.
fn left_out(left_out: &[LeftOut]) -> String {
    let mut reasons: Vec<(String, Option<String>, Vec<String>)> = Vec::new();
    for LeftOut { name, why, .. } in left_out {
        // Its own text names the member.
        let cause =
            why.source().map_or_else(|| why.to_string(), |cause| Report::new(cause).causes());
        let hint = why.report().hint();
        match reasons.iter_mut().find(|known| (&known.0, &known.1) == (&cause, &hint)) {
            Some((_, _, names)) => names.push(name.clone()),
            None => reasons.push((cause, hint, vec![name.clone()])),
        }
    }
    let text = |(cause, hint, names): (String, Option<String>, Vec<String>)| {
        let names = listed(names, 4);
        note(&with_hint(&format!("left out: {names}: {cause}"), hint.as_deref()))
    };
    reasons.into_iter().map(text).collect()
}
