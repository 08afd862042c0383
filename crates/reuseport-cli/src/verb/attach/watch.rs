//! `attach --watch`: stays, and reports what changes.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use reuseport::group::{Group, GroupKey, listed};
use reuseport::watch::Watch;
use reuseport::{Attach, ErrorKind, Host, Policy};

use super::how::How;
use crate::backend::{Target, Targets};
use crate::error::{self, Failure, Failures};
use crate::output::{self, DIM};
use crate::tell::words::{advice, known, notes, report};
use crate::tell::{Errors, Form, Teller, is_not_there, lock};

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
    let refused = follower.add(requests);
    follower.tell_known(&host);
    if !notes.is_empty() && follower.teller.knows_groups() {
        follower.teller.print(&notes);
    }
    let is_invalid = |(_, error): &(_, _)| error::kind(error) == Some(ErrorKind::Invalid);
    // Waiting does not make an invalid request a valid one.
    let in_vain = !refused.is_empty()
        && refused.iter().all(is_invalid)
        && awaited.iter().all(|awaited| awaited.is_there);
    if !follower.teller.knows_groups() && (awaited.is_empty() || in_vain) {
        let mut failures = Failures::default();
        refused.into_iter().for_each(|(_, error)| failures.note(Err(error)));
        return failures.worst();
    }
    let mut errors = Errors::new(Form::Timed);
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

/// A group that is not there yet, or with --all groups of which there may be more.
struct Awaited {
    target: Target,
    is_there: bool,
    /// What is there instead, in no group.
    instead: Option<String>,
}

/// A watcher, and what it prints.
struct Lines {
    watch: Watch,
    teller: Teller,
    /// The groups at the beginning.
    first: Vec<(GroupKey, Option<Policy>)>,
}

impl Lines {
    fn new(watch: Watch) -> Self {
        Self { watch, teller: Teller::new(Form::Timed), first: Vec::new() }
    }

    /// Attaches to the groups that are there at the beginning. Returns those with which it did not succeed.
    fn add(&mut self, requests: Vec<(Group, Result<Attach>)>) -> Vec<(GroupKey, anyhow::Error)> {
        let (mut groups, mut wanted, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for (group, request) in requests {
            match request {
                Ok(request) => {
                    wanted.push((group.key.clone(), request));
                    groups.push(group);
                }
                Err(error) => refused.push((group.key, error)),
            }
        }
        let (teller, first) = (&mut self.teller, &mut self.first);
        self.watch.add_each(wanted, |key, result| {
            let attached = match result {
                Ok(attached) => attached,
                Err(error) => return refused.push((key.clone(), error.into())),
            };
            let group = groups.iter().find(|group| group.key == *key);
            let policy = attached.steering.policy();
            let about = group.map(|group| notes(&group.not_asked()) + &advice(group, policy));
            teller.print(&(report(key, &attached) + &about.unwrap_or_default()));
            first.push((key.clone(), policy));
            teller.note_steering(key, attached.steering);
        });
        refused
    }

    /// Says what to know about the groups that are there at the beginning.
    fn tell_known(&mut self, host: &Host) {
        known(host, &std::mem::take(&mut self.first))
            .iter()
            .for_each(|text| self.teller.print(text));
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
            self.teller.print(&format!("waiting for {}{instead}\n", target.group));
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
        let Self { watch, mut teller, .. } = self;
        teller.print(&format!(
            "{DIM}Watching; ^C ends this and leaves the program attached.{DIM:#}\n"
        ));
        Ok(watch.run_each(|key, change| teller.tell(host, key, change))?)
    }
}
