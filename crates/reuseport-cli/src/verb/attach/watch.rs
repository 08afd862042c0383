//! `attach --watch`: stays, and reports what changes.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::sync::Arc;

use anyhow::Result;
use jiff::ZonedDateTime;
use reuseport::group::{Group, GroupKey};
use reuseport::status::Steering;
use reuseport::watch::{Change, Watch};
use reuseport::{Attach, ErrorKind, Host};

use super::how::{Failures, How};
use super::words::{notes, replaced, report, split, unsteerable};
use crate::backend::Target;
use crate::error;
use crate::output::{self, DIM};

/// Attaches, stays, and reports changes, until a signal. New members depend on it: it goes on although its
/// reports cannot be written, because their reader has exited or the disk is full.
pub(super) fn follow(
    host: Host,
    targets: Vec<Target>,
    all: bool,
    how: How,
    retake: bool,
) -> Result<()> {
    let (mut found, mut awaited) = (Vec::new(), Vec::new());
    for target in targets {
        match target.find_to_attach(&host, all) {
            Ok(groups) => found.extend(groups),
            Err(error) if is_not_there(&error) => awaited.push(target),
            Err(error) => return Err(error),
        }
    }
    found.sort_by_key(|group: &Group| group.key.to_string());
    found.dedup_by(|a, b| a.key == b.key);
    let requests = found.into_iter().map(|group| {
        let request = how.request(&host, &group.key);
        (group, request)
    });
    let requests: Vec<(Group, Result<Attach>)> = requests.collect();
    let notes = how.notes();
    let watch = Watch::new(host, how.stop.clone())?;
    let watch = if retake { watch.retaking() } else { watch };
    let mut follower = Lines::new(watch);
    for (group, request) in requests {
        let added = request.and_then(|request| follower.add(&group, request));
        follower.failures.note(added);
    }
    if !notes.is_empty() && !follower.steering.is_empty() {
        follower.printer.print(&notes);
    }
    if follower.steering.is_empty() && awaited.is_empty() {
        return follower.failures.last();
    }
    let how = Arc::new(how);
    for target in awaited {
        follower.wait_for(target, &how)?;
    }
    follower.run()
}

fn is_not_there(error: &anyhow::Error) -> bool {
    error.downcast_ref::<reuseport::Error>().is_some_and(|e| e.kind() == ErrorKind::NotFound)
}

/// A watcher, and what it prints.
struct Lines {
    watch: Watch,
    steering: HashMap<GroupKey, Steering>,
    failures: Failures,
    printer: Printer,
}

impl Lines {
    fn new(watch: Watch) -> Self {
        let (steering, failures) = (HashMap::new(), Failures::default());
        Self { watch, steering, failures, printer: Printer::default() }
    }

    fn add(&mut self, group: &Group, request: Attach) -> Result<()> {
        let attached = self.watch.add(&group.key, request)?;
        self.printer.print(&format!(
            "{}{}",
            report(&group.key, &attached),
            notes(&group.not_asked())
        ));
        self.steering.insert(group.key.name_only(), attached.steering);
        Ok(())
    }

    fn wait_for(&mut self, target: Target, how: &Arc<How>) -> Result<()> {
        self.printer.print(&format!("waiting for {}\n", target.group));
        let (spec, how) = (target.group.clone(), Arc::clone(how));
        let mut said = String::new();
        self.watch.wait_for(&spec, move |host| {
            let group = target.find_to_attach(host, false).and_then(|groups| {
                let key = groups[0].key.clone();
                Ok((how.request(host, &key)?, key))
            });
            match group {
                Ok((request, key)) => return Some((key, request)),
                Err(error) if is_not_there(&error) => {}
                Err(error) => {
                    let text = error::message(&error);
                    if text != said {
                        let _ = io::stderr().write_all(timed(&text).as_bytes());
                        said = text;
                    }
                }
            }
            None
        })?;
        Ok(())
    }

    fn run(self) -> Result<()> {
        let Self { watch, mut steering, failures, mut printer } = self;
        printer.print(&format!(
            "{DIM}Watching; ^C ends this and leaves the program attached.{DIM:#}\n"
        ));
        watch.run_each(|key, change| {
            if let Change::Members(attached) = &change {
                steering.insert(key.clone(), attached.steering);
            }
            let steering = steering.get(key).copied().unwrap_or(Steering::KernelHash);
            printer.tell(key, &steering, change);
        })?;
        failures.last()
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
