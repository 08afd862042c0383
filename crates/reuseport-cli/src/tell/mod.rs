//! What a watcher says while it runs: in lines with the time, or for the journal.

pub(crate) mod words;

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::ZonedDateTime;
use reuseport::group::GroupKey;
use reuseport::status::Steering;
use reuseport::watch::Change;
use reuseport::{ErrorKind, Host, Policy};

use crate::error;
use crate::output;
use words::{about, known, note, replaced, report, split, unsteerable};

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// What happens on standard output, failures on standard error, with the time.
    Timed,
    /// Everything on standard error, with the time.
    Log,
    /// Everything on standard error, with its priority, for systemd's journal.
    Journal,
}

/// How much a line matters: syslog(3).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Priority {
    Error = 3,
    Warning = 4,
    Info = 6,
}

impl Form {
    /// That of a service.
    pub(crate) fn of_service() -> Self {
        if is_journal() { Self::Journal } else { Self::Log }
    }

    pub(crate) fn write(self, priority: Priority, text: &str) -> io::Result<()> {
        match (self, priority) {
            (Self::Timed, Priority::Info) => output::print(&timed(text)),
            (Self::Timed, _) => io::stderr().write_all(timed(text).as_bytes()),
            (Self::Log, _) => output::print_to_stderr(&timed(text)),
            (Self::Journal, _) => output::print_to_stderr(&prioritised(priority, text)),
        }
    }

    /// Says at once what is wrong.
    pub(crate) fn complain(self, error: &anyhow::Error) {
        // If standard error is closed, the exit code has to suffice.
        let _ = self.write(Priority::Error, &error::message(error));
    }
}

/// The text after the local time. Further lines belong to the first.
fn timed(text: &str) -> String {
    format!("{} {text}", ZonedDateTime::now().strftime("%H:%M:%S"))
}

/// Each line with the priority, as sd-daemon(3) has it. The journal has the time.
fn prioritised(priority: Priority, text: &str) -> String {
    text.lines().map(|line| format!("<{}>{line}\n", priority as u8)).collect()
}

/// A text as standard error takes it.
pub(crate) fn for_stderr(priority: Priority, text: &str) -> String {
    if is_journal() { prioritised(priority, text) } else { text.to_owned() }
}

/// Whether standard error is the journal: JOURNAL_STREAM has its device and inode.
fn is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    rustix::fs::fstat(io::stderr())
        .is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// The errors of looking for groups: each is printed once, until there is another with the same group.
pub(crate) struct Errors {
    form: Form,
    said: HashMap<String, String>,
}

impl Errors {
    pub(crate) fn new(form: Form) -> Self {
        Self { form, said: HashMap::new() }
    }

    pub(crate) fn note<T>(&mut self, group: &str, result: anyhow::Result<T>) -> Option<T> {
        let error = match result {
            Ok(found) => return Some(found),
            Err(error) if is_not_there(&error) => return None,
            Err(error) => error,
        };
        self.say(group, &error);
        None
    }

    pub(crate) fn say(&mut self, group: &str, error: &anyhow::Error) {
        let text = error::message(error);
        let before = self.said.insert(group.to_owned(), text.clone());
        if before != Some(text) {
            self.form.complain(error);
        }
    }
}

/// Whether there is no such group.
pub(crate) fn is_not_there(error: &anyhow::Error) -> bool {
    error::kind(error) == Some(ErrorKind::NotFound)
}

/// The value, whatever became of another thread that had it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells what happens to groups. Goes on if that cannot be written, and says so once.
pub(crate) struct Teller {
    form: Form,
    steering: HashMap<GroupKey, Steering>,
    /// The groups that came of which it is not said yet what to know about them, with their policies; `None`: that is
    /// said at once.
    deferred: Option<Vec<(GroupKey, Option<Policy>)>>,
    unread: bool,
}

impl Teller {
    pub(crate) fn new(form: Form) -> Self {
        Self { form, steering: HashMap::new(), deferred: None, unread: false }
    }

    pub(crate) fn print(&mut self, text: &str) {
        self.write(Priority::Info, text);
    }

    fn write(&mut self, priority: Priority, text: &str) {
        if let Err(error) = self.form.write(priority, text)
            && !self.unread
        {
            self.unread = true;
            let text = format!("cannot write what changes, and go on without: {error}");
            // Perhaps it cannot be written either.
            let _ = io::stderr().write_all(error::warning(&text, None).as_bytes());
        }
    }

    /// What decides for the group from now on. Returns whether it is new.
    pub(crate) fn note_steering(&mut self, key: &GroupKey, steering: Steering) -> bool {
        self.steering.insert(key.name_only(), steering).is_none()
    }

    /// Whether groups are known.
    pub(crate) fn knows_groups(&self) -> bool {
        !self.steering.is_empty()
    }

    /// Tells of a change of a group, and what to know about one that came.
    pub(crate) fn tell(&mut self, host: &Host, key: &GroupKey, change: Change) {
        let mut came = None;
        if let Change::Members(attached) = &change
            && self.note_steering(key, attached.steering)
        {
            came = Some(attached.steering.policy());
        }
        self.tell_change(key, change);
        match (came, &mut self.deferred) {
            (Some(policy), Some(deferred)) => deferred.push((key.clone(), policy)),
            (Some(policy), None) => self.tell_new(host, key, policy),
            (None, _) => {}
        }
    }

    /// Says what to know about groups that come from now on with [`tell_deferred`](Self::tell_deferred): many groups
    /// come at once.
    pub(crate) fn defer(&mut self) {
        self.deferred.get_or_insert_default();
    }

    /// Says what to know about the groups that came since, and later about each one at once.
    pub(crate) fn tell_deferred(&mut self, host: &Host) {
        let came = self.deferred.take().unwrap_or_default();
        match &came[..] {
            [(key, policy)] => self.tell_new(host, key, *policy),
            came => known(host, came).iter().for_each(|text| self.print(text)),
        }
    }

    fn tell_change(&mut self, key: &GroupKey, change: Change) {
        let steering = self.steering.get(&key.name_only()).copied();
        match change {
            Change::Members(attached) => self.print(&report(key, &attached)),
            Change::Replaced { by, retake } => self.print(&replaced(key, &by, retake)),
            Change::Unsteerable(why) => {
                let steering = steering.unwrap_or(Steering::KernelHash);
                self.print(&unsteerable(key, &steering, &why));
            }
            Change::Gone => self.print(&format!("{key}: all its sockets are closed; waiting\n")),
            Change::Split(group) => self.print(&split(&group)),
            Change::Detached => {
                self.steering.remove(&key.name_only());
                self.print(&format!("{key}: detached by another process; done\n"));
            }
            // The next change may fix it: keep watching.
            Change::Failed(error) => {
                self.write(Priority::Error, &error::message(&error.into()));
            }
            _ => {}
        }
    }

    /// Says what to know about a group that came later.
    fn tell_new(&mut self, host: &Host, key: &GroupKey, policy: Option<Policy>) {
        // It may have gone again.
        let Ok(status) = host.status(key) else { return };
        let advice = reuseport::advice::notes(&status.group, policy).into_iter().map(str::to_owned);
        for text in output::not_asked(&status.group.not_asked()).into_iter().chain(advice) {
            self.print(&note(&format!("{key}: {text}")));
        }
        about(&status, &format!("{key}: ")).iter().for_each(|text| self.print(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_in_the_journal_has_its_priority() {
        assert_eq!(prioritised(Priority::Error, "a: b\nhint: c\n"), "<3>a: b\n<3>hint: c\n");
    }
}
