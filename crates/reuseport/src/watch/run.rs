//! The loop of a watcher.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use super::Watch;
use crate::error::{Error, ErrorKind, Result};
use crate::follow::change::Change;
use crate::follow::follower::Action;
use crate::model::group::GroupKey;

/// Why [`Watch::run_until`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// A stop was requested.
    Stopped,
    /// The descriptor is readable.
    Interrupted,
    /// The time is over.
    TimedOut,
}

impl Watch {
    /// Follows the groups until a stop is requested, or the last one is detached and none is waited for, and calls
    /// `on_change` for each change.
    ///
    /// # Errors
    ///
    /// If the source of events fails. All other failures are passed on as [`Change::Failed`].
    pub fn run(self, mut on_change: impl FnMut(Change)) -> Result<()> {
        self.run_each(|_, change| on_change(change))
    }

    /// As [`run`](Self::run), with the group of each change.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_each(mut self, mut on_change: impl FnMut(&GroupKey, Change)) -> Result<()> {
        loop {
            if self.act(&mut on_change) || self.follower.is_done() {
                return Ok(());
            }
            self.wait(None, None)?;
        }
    }

    /// Follows the groups as [`run_each`](Self::run_each) does, until `interrupt` is readable, or until `deadline`.
    /// Without any group, it waits. It can be called again.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    ///
    /// # Example
    ///
    /// ```no_run
    /// use std::os::unix::net::UnixStream;
    ///
    /// use reuseport::{Host, Stop, watch::{Ended, Watch}};
    ///
    /// let (interrupt, _sender) = UnixStream::pair()?;
    /// let mut watch = Watch::new(Host::open()?, Stop::default())?;
    /// while watch.run_until(&interrupt, None, |group, change| println!("{group}: {change:?}"))?
    ///     == Ended::Interrupted
    /// {
    ///     // Read what came, and add groups.
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run_until(
        &mut self,
        interrupt: impl AsFd,
        deadline: Option<Instant>,
        mut on_change: impl FnMut(&GroupKey, Change),
    ) -> Result<Ended> {
        loop {
            if self.act(&mut on_change) {
                return Ok(Ended::Stopped);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(Ended::TimedOut);
            }
            if self.wait(deadline, Some(interrupt.as_fd()))? {
                return Ok(Ended::Interrupted);
            }
        }
    }

    /// Does what is due. Returns whether a stop was requested.
    fn act(&mut self, on_change: &mut dyn FnMut(&GroupKey, Change)) -> bool {
        while let Some(action) = self.follower.poll(Instant::now()) {
            match action {
                Action::Observe(extent) => self.observe(&extent),
                Action::LookForWaiters(sockets) => self.look_for_waiters(&sockets),
                Action::Update { key, extent } => self.update_each(key, &extent),
                Action::Report { key, change } => on_change(&key, *change),
                Action::Find { ids } => self.find(&ids, on_change),
                Action::Forget { key } => {
                    self.forget(&key);
                    self.awaited.detach(key);
                }
            }
            if self.stop.is_set() {
                return true;
            }
        }
        self.stop.is_set()
    }

    /// Waits for what happens next, at most until `deadline` or until `interrupt` is readable. Returns whether it is.
    fn wait(
        &mut self,
        deadline: Option<Instant>,
        interrupt: Option<BorrowedFd<'_>>,
    ) -> Result<bool> {
        let deadline = self.follower.deadline().into_iter().chain(deadline).min();
        let waited = self.source.wait(&self.stop, deadline, interrupt).map_err(|error| {
            Error::new(ErrorKind::System, "cannot wait for changes of groups").because(error)
        });
        let (events, is_interrupted) = waited?;
        let now = Instant::now();
        events.into_iter().for_each(|event| self.follower.handle(now, event));
        Ok(is_interrupted)
    }
}
