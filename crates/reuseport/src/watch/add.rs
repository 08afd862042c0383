//! How groups come to be followed: those that the caller names, and those that are waited for.

use std::time::Instant;

use super::awaited::Candidate;
use super::{Watch, Watched};
#[cfg(doc)]
use crate::balancer::Balancer;
use crate::change::request::{Attach, Attached};
use crate::change::transaction::watch_over;
use crate::error::{Error, ErrorKind, Result};
use crate::follow::change::Change;
use crate::follow::followed::{Options, starving};
use crate::follow::seen::Port;
use crate::model::group::GroupKey;
use crate::model::refusal::not_attached;

impl Watch {
    /// Attaches to a group, and follows it, too. The watcher's own stop takes the place of [`Attach::stop`].
    ///
    /// # Errors
    ///
    /// As [`Balancer::attach`], and [`ErrorKind::Invalid`] for a group that is followed already. The watcher goes
    /// on with the others.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use reuseport::{Attach, Host, Stop, watch::Watch};
    ///
    /// let host = Host::open()?;
    /// let groups = host.groups()?;
    /// let mut watch = Watch::new(host, Stop::default())?;
    /// for group in groups {
    ///     watch.add(&group.key, Attach::default())?;
    /// }
    /// watch.run_each(|group, change| println!("{group}: {change:?}"))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn add(&mut self, key: &GroupKey, attach: Attach) -> Result<Attached> {
        let mut added = Err(not_attached(key));
        self.add_each(vec![(key.clone(), attach)], |_, result| added = result);
        added
    }

    /// The same for several groups, which takes less time than one after another. Calls `done` with the result of each, in
    /// this order, until a stop is requested.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use reuseport::{Attach, Host, Stop, watch::Watch};
    ///
    /// let host = Host::open()?;
    /// let groups = host.groups()?.into_iter().map(|group| (group.key, Attach::default()));
    /// let mut watch = Watch::new(host, Stop::default())?;
    /// watch.add_each(groups.collect(), |group, result| {
    ///     if let Err(error) = result {
    ///         eprintln!("{group}: {}", error.report());
    ///     }
    /// });
    /// watch.run_each(|group, change| println!("{group}: {change:?}"))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn add_each(
        &mut self,
        groups: Vec<(GroupKey, Attach)>,
        mut done: impl FnMut(&GroupKey, Result<Attached>),
    ) {
        let candidate = |(key, attach)| Candidate {
            key,
            attach: Attach { follows: false, ..attach },
            tried: None,
            only: None,
        };
        self.attach_and_follow(groups.into_iter().map(candidate).collect(), |this, of, result| {
            if let Err(error) = &result {
                this.awaited.refuse(&of.key, None, error);
            }
            done(&of.key, result);
        });
    }

    /// Attaches to the groups that were not there before, with these numbers. Reports what became of each.
    pub(super) fn find(&mut self, ids: &[u32], report: &mut dyn FnMut(&GroupKey, Change)) {
        let host = self.host.clone();
        let candidates = ids.iter().flat_map(|id| self.awaited.find(*id, &host)).collect();
        self.attach_and_follow(candidates, |this, found, result| match result {
            Ok(attached) => {
                report(&found.key.name_only(), Change::Members(attached));
                if let Some(id) = found.only {
                    this.expect_no_more(id);
                }
            }
            // Two requests may find the same group.
            Err(_) if this.stop.is_set() || this.is_watched(&found.key) => {}
            Err(error) => {
                if this.awaited.refuse(&found.key, found.tried.clone(), &error) {
                    report(&found.key, Change::Failed(error));
                }
            }
        });
    }

    /// Attaches to groups, and follows them. Calls `done` with the result of each, until a stop is requested.
    fn attach_and_follow(
        &mut self,
        candidates: Vec<Candidate>,
        mut done: impl FnMut(&mut Self, &Candidate, Result<Attached>),
    ) {
        // Events first, so that no change is missed.
        let mut listened = Vec::new();
        for candidate in candidates {
            match self.source.add(Port::of(&candidate.key)) {
                Ok(()) => listened.push(candidate),
                Err(error) => done(self, &candidate, Err(error)),
            }
        }
        let request = |candidate: &Candidate| {
            (candidate.key.clone(), Attach { stop: self.stop.clone(), ..candidate.attach.clone() })
        };
        let requests: Vec<(GroupKey, Attach)> = listened.iter().map(request).collect();
        let mut at = 0;
        while at < requests.len() && !(at > 0 && self.stop.is_set()) {
            let is_watched = |(key, _): &(GroupKey, Attach)| self.is_watched(key);
            let until = requests[at..].iter().position(is_watched).unwrap_or(requests.len() - at);
            let results = match until {
                0 => vec![Err(twice(&requests[at].0))],
                _ => self.host.attach_some(&requests[at..at + until]),
            };
            for result in results {
                let (key, attach) = &requests[at];
                let followed = result.and_then(|attached| self.follow(key, attach, attached));
                if followed.is_err() {
                    self.stop_events(Port::of(key));
                }
                done(self, &listened[at], followed);
                at += 1;
            }
        }
    }

    /// Follows a group to which this just attached.
    fn follow(&mut self, key: &GroupKey, attach: &Attach, attached: Attached) -> Result<Attached> {
        // The member in the key may leave.
        let name = key.name_only();
        let keep = watch_over(self.host.place(), &name)?;
        let attach = for_updates(attach.clone());
        self.watched.insert(name.clone(), Watched { attach, keep, counting: None });
        let options = Options {
            interval: self.source.interval(Port::of(&name)),
            retakes: self.retakes,
            rests: self.source.add_pins(self.host.place(), &name),
        };
        self.awaited.follow(&name);
        self.follower.add(Instant::now(), name.clone(), options, starving(&attached));
        self.follower.hold(Instant::now(), &name, attached.changes.still_held.clone());
        Ok(attached)
    }

    fn is_watched(&self, key: &GroupKey) -> bool {
        self.watched.contains_key(&key.name_only())
    }
}

fn twice(key: &GroupKey) -> Error {
    Error::new(ErrorKind::Invalid, format!("cannot watch {key} twice"))
        .because("a watcher follows one group of a name: the one that is steered")
}

/// Updates enrol members and change nothing else. One that cannot be enrolled is reported, and must not keep the others
/// out.
pub(super) fn for_updates(attach: Attach) -> Attach {
    Attach {
        program: None,
        force: false,
        slots: None,
        weights: Vec::new(),
        partial: true,
        // It is state of the group, which another command may change.
        hold_new: None,
        follows: true,
        ..attach
    }
}
