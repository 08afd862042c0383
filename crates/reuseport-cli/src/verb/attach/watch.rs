//! `attach --watch`: stays, and reports what changes.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use jiff::ZonedDateTime;
use reuseport::group::{Group, GroupKey, listed};
use reuseport::status::Steering;
use reuseport::watch::{Change, Watch};
use reuseport::{Attach, ErrorKind, Host, Policy};

use super::how::How;
use super::words::{about, advice, known, note, notes, replaced, report, split, unsteerable};
use crate::advice;
use crate::backend::{Target, Targets};
use crate::error::{self, Failure, Failures};
use crate::output::{self, DIM};

/// Attaches, stays, and reports changes, until a signal. New members depend on it: it goes on although its
/// reports cannot be written, because their reader has exited or the disk is full.
pub(super) fn follow(host: Host, targets: Targets, how: How, retake: bool) -> Result<()> {
    let Targets { targets, all } = targets;
    let (found, awaited) = look_for(&host, targets, all)?;
    let requests = found.into_iter().map(|group| {
        let request = how.request(&host, &group.key);
        (group, request)
    });
    let requests: Vec<(Group, Result<Attach>)> = requests.collect();
    let notes = how.notes();
    let watch = Watch::new(host.clone(), how.stop.clone())?;
    let watch = if retake { watch.retaking() } else { watch };
    let mut follower = Lines::new(watch);
    let mut refused = Vec::new();
    for (group, request) in requests {
        let added = request.and_then(|request| follower.add(&group, request));
        refused.extend(added.err().map(|error| (group.key, error)));
    }
    follower.tell_known(&host);
    if !notes.is_empty() && !follower.steering.is_empty() {
        follower.printer.print(&notes);
    }
    let is_invalid = |(_, error): &(_, _)| error::kind(error) == Some(ErrorKind::Invalid);
    // Waiting does not make an invalid request a valid one.
    let in_vain = !refused.is_empty()
        && refused.iter().all(is_invalid)
        && awaited.iter().all(|awaited| awaited.is_there);
    if follower.steering.is_empty() && (awaited.is_empty() || in_vain) {
        let mut failures = Failures::default();
        refused.into_iter().for_each(|(_, error)| failures.note(Err(error)));
        return failures.worst();
    }
    let mut errors = Errors::default();
    for (key, error) in &refused {
        errors.say(&key.to_string(), error);
    }
    let (how, errors) = (Arc::new(how), Arc::new(Mutex::new(errors)));
    for awaited in awaited {
        follower.wait_for(awaited, all, &how, &errors)?;
    }
    follower.run(&host)?;
    // With --all, they were waited for.
    if all || refused.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = refused.iter().map(|(key, _)| key.to_string()).collect();
    let failed = format!("could not attach to {}", listed(names, 4));
    Err(Failure::new(failed, "the reason was given when the command began").into())
}

/// The groups that are there, each once, and what is waited for.
fn look_for(host: &Host, targets: Vec<Target>, all: bool) -> Result<(Vec<Group>, Vec<Awaited>)> {
    let (mut found, mut awaited) = (Vec::new(), Vec::new());
    for target in targets {
        let mut instead = None;
        let is_there = match target.find(host, all) {
            Ok(groups) => {
                found.extend(groups);
                true
            }
            Err(error) if is_not_there(&error) => {
                instead = error.chain().nth(1).map(ToString::to_string);
                false
            }
            Err(error) => return Err(error),
        };
        if all || !is_there {
            awaited.push(Awaited { target, is_there, instead });
        }
    }
    found.sort_by_key(|group: &Group| group.key.to_string());
    found.dedup_by(|a, b| a.key == b.key);
    Ok((found, awaited))
}

/// Says at once what is wrong.
fn complain(error: &anyhow::Error) {
    // If standard error is closed, the exit code has to suffice.
    let _ = io::stderr().write_all(timed(&error::message(error)).as_bytes());
}

/// A group that is not there yet, or with --all groups of which there may be more.
struct Awaited {
    target: Target,
    is_there: bool,
    /// What is there instead, in no group.
    instead: Option<String>,
}

fn is_not_there(error: &anyhow::Error) -> bool {
    error::kind(error) == Some(ErrorKind::NotFound)
}

/// A watcher, and what it prints.
struct Lines {
    watch: Watch,
    steering: HashMap<GroupKey, Steering>,
    /// The groups at the beginning.
    first: Vec<(GroupKey, Option<Policy>)>,
    printer: Printer,
}

impl Lines {
    fn new(watch: Watch) -> Self {
        Self { watch, steering: HashMap::new(), first: Vec::new(), printer: Printer::default() }
    }

    fn add(&mut self, group: &Group, request: Attach) -> Result<()> {
        let attached = self.watch.add(&group.key, request)?;
        self.printer.print(&format!(
            "{}{}{}",
            report(&group.key, &attached),
            notes(&group.not_asked()),
            advice(group, attached.steering.policy()),
        ));
        self.first.push((group.key.clone(), attached.steering.policy()));
        self.steering.insert(group.key.name_only(), attached.steering);
        Ok(())
    }

    /// Says what to know about the groups that are there at the beginning.
    fn tell_known(&mut self, host: &Host) {
        known(host, &std::mem::take(&mut self.first))
            .iter()
            .for_each(|text| self.printer.print(text));
    }

    fn wait_for(
        &mut self,
        awaited: Awaited,
        all: bool,
        how: &Arc<How>,
        errors: &Arc<Mutex<Errors>>,
    ) -> Result<()> {
        let Awaited { target, is_there, instead } = awaited;
        if !is_there {
            let instead =
                instead.map(|there| format!("; now {}", output::safe(&there))).unwrap_or_default();
            self.printer.print(&format!("waiting for {}{instead}\n", target.group));
        }
        let (spec, how, errors) = (target.group.clone(), Arc::clone(how), Arc::clone(errors));
        if all {
            self.watch.wait_for_all(&spec, move |host, group| {
                let request = target.has(group).then(|| how.request(host, &group.key))?;
                lock(&errors).note(&group.key.to_string(), request)
            })?;
        } else {
            self.watch.wait_for(&spec, move |host| {
                let find = || {
                    let key = target.find(host, false)?[0].key.clone();
                    Ok((key.clone(), how.request(host, &key)?))
                };
                lock(&errors).note(&target.group.to_string(), find())
            })?;
        }
        Ok(())
    }

    fn run(self, host: &Host) -> Result<()> {
        let Self { watch, mut steering, mut printer, .. } = self;
        printer.print(&format!(
            "{DIM}Watching; ^C ends this and leaves the program attached.{DIM:#}\n"
        ));
        watch.run_each(|key, change| {
            let mut came = None;
            if let Change::Members(attached) = &change
                && steering.insert(key.clone(), attached.steering).is_none()
            {
                came = Some(attached.steering.policy());
            }
            let steering = steering.get(key).copied().unwrap_or(Steering::KernelHash);
            printer.tell(key, &steering, change);
            if let Some(policy) = came {
                printer.tell_new(host, key, policy);
            }
        })?;
        Ok(())
    }
}

fn lock(errors: &Mutex<Errors>) -> MutexGuard<'_, Errors> {
    errors.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The errors of looking for groups: each is printed once, until there is another with the same group.
#[derive(Default)]
struct Errors {
    said: HashMap<String, String>,
}

impl Errors {
    fn note<T>(&mut self, group: &str, result: Result<T>) -> Option<T> {
        let error = match result {
            Ok(found) => return Some(found),
            Err(error) if is_not_there(&error) => return None,
            Err(error) => error,
        };
        self.say(group, &error);
        None
    }

    fn say(&mut self, group: &str, error: &anyhow::Error) {
        let text = error::message(error);
        let before = self.said.insert(group.to_owned(), text.clone());
        if before != Some(text) {
            complain(error);
        }
    }
}

/// Prints lines, each with the time. Goes on if they cannot be written, and says so once.
#[derive(Default)]
struct Printer {
    unread: bool,
}

impl Printer {
    fn print(&mut self, text: &str) {
        let written = output::print(&timed(text));
        self.check(written);
    }

    fn check(&mut self, written: io::Result<()>) {
        if let Err(error) = written
            && !self.unread
        {
            self.unread = true;
            let text = format!("cannot write what changes, and go on without: {error}");
            // Perhaps it cannot be written either.
            let _ = io::stderr().write_all(error::warning(&text, None).as_bytes());
        }
    }

    /// Says what to know about a group that came later.
    fn tell_new(&mut self, host: &Host, key: &GroupKey, policy: Option<Policy>) {
        // It may have gone again.
        let Ok(status) = host.status(key) else { return };
        let advice = advice::notes(&status.group, policy).into_iter().map(str::to_owned);
        for text in output::not_asked(&status.group.not_asked()).into_iter().chain(advice) {
            self.print(&note(&format!("{key}: {text}")));
        }
        about(&status, &format!("{key}: ")).iter().for_each(|text| self.print(text));
    }

    fn tell(&mut self, key: &GroupKey, steering: &Steering, change: Change) {
        match change {
            Change::Members(attached) => self.print(&report(key, &attached)),
            Change::Replaced { by, retake } => self.print(&replaced(key, &by, retake)),
            Change::Unsteerable(why) => self.print(&unsteerable(key, steering, &why)),
            Change::Gone => self.print(&format!("{key}: all its sockets are closed; waiting\n")),
            Change::Split(group) => self.print(&split(&group)),
            Change::Detached => self.print(&format!("{key}: detached by another process; done\n")),
            // The next change may fix it: keep watching.
            Change::Failed(error) => {
                let text = timed(&error::message(&error.into()));
                self.check(io::stderr().write_all(text.as_bytes()));
            }
            _ => {}
        }
    }
}

/// The text after the local time. Further lines belong to the first.
fn timed(text: &str) -> String {
    format!("{} {text}", ZonedDateTime::now().strftime("%H:%M:%S"))
}
