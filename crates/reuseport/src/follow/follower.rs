//! Decides when to look at groups, when to update them, and what to report: events in, actions and a deadline
//! out, for any number of groups.
//!
//! It performs no I/O and reads no clock. The caller does what [`Follower::poll`] says until there is nothing
//! left, and then waits for an event, at most until [`Follower::deadline`].

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::change::Change;
use super::expected::Expected;
use super::followed::{Followed, Options};
use super::pace::REGULARLY;
use super::seen::{Done, Found, Observation, Port, Step};
use crate::error::{Error, ErrorKind};
use crate::kernel::observe::Extent;
use crate::model::group::GroupKey;
use crate::model::held::HeldSocket;
use crate::model::id::Cookie;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A process let this socket listen, which joins its group a moment later, or bound it (UDP).
    Came { port: Port, cookie: Cookie, process: u32 },
    /// This socket listens no more.
    Went { port: Port, cookie: Cookie },
    /// Other sockets than before are bound to the port, or other state is pinned for its group.
    Changed { port: Port },
    /// Connections come to the port.
    Busy { port: Port },
    /// Events were lost, or something happened that may concern all groups.
    Anything,
    /// A stop was requested.
    Stop,
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Action {
    /// List this part of the host, and call [`Follower::observed`].
    Observe(Extent),
    /// Look for which of these sockets a thread waits, and call [`Follower::awaited`].
    LookForWaiters(Vec<HeldSocket>),
    /// Begin a transaction with such a listing, call [`Follower::plan`], do what it says, and call
    /// [`Follower::updated`].
    Update {
        key: GroupKey,
        extent: Extent,
    },
    Report {
        key: GroupKey,
        change: Box<Change>,
    },
    /// Groups are there that are [expected](Follower::expect) by these numbers: attach to them, and call
    /// [`Follower::found`] where there is nothing more to look for.
    Find {
        ids: Vec<u32>,
    },
    /// The group is followed no more.
    Forget {
        key: GroupKey,
    },
}

/// Follows groups.
#[derive(Debug)]
pub(crate) struct Follower {
    groups: Vec<Followed>,
    expected: Vec<Expected>,
    /// What to report, and what to forget after that.
    news: VecDeque<Action>,
    start: Instant,
    /// When the last regular look was.
    looked: Instant,
    stopped: bool,
}

impl Follower {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            groups: Vec::new(),
            expected: Vec::new(),
            news: VecDeque::new(),
            start: now,
            looked: now,
            stopped: false,
        }
    }

    /// Follows a group, by its name. `starving`: the members that were reported as living without a slot.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        key: GroupKey,
        options: Options,
        starving: Vec<Option<Cookie>>,
    ) {
        self.groups.push(Followed::new(now, key, options, starving));
    }

    /// Follows a group no more.
    pub(crate) fn forget(&mut self, key: &GroupKey) {
        self.groups.retain(|group| group.key != *key);
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &GroupKey> {
        self.groups.iter().map(|group| &group.key)
    }

    /// Looks for groups that are not there yet, in regular looks and whenever a socket comes to one of these ports.
    /// `rests`: whether events tell of all sockets that come there.
    pub(crate) fn expect(&mut self, now: Instant, id: u32, ports: Vec<Port>, rests: bool) {
        self.expected.push(Expected::new(now, id, ports, rests));
    }

    /// Looks no more for groups with this number.
    pub(crate) fn found(&mut self, id: u32) {
        self.expected.retain(|expected| expected.id != id);
    }

    /// The ports of all groups, there or not.
    pub(crate) fn ports(&self) -> impl Iterator<Item = Port> {
        let expected = self.expected.iter().flat_map(|expected| expected.ports.iter().copied());
        self.keys().map(Port::of).chain(expected)
    }

    /// Whether groups are taken back from other owners' programs from now on.
    pub(crate) fn retake(&mut self, retakes: bool) {
        self.groups.iter_mut().for_each(|group| group.retake(retakes));
    }

    /// Whether there is nothing left to do, ever: a stop was requested, or the last group was detached.
    pub(crate) fn is_done(&self) -> bool {
        let nothing = self.groups.is_empty() && self.expected.is_empty() && self.news.is_empty();
        self.stopped || nothing
    }

    pub(crate) fn handle(&mut self, now: Instant, event: Event) {
        let at = |port: Port| move |expected: &&mut Expected| expected.covers(port);
        let of = |port: Port| move |group: &&mut Followed| Port::of(&group.key) == port;
        let (groups, expected) = (self.groups.iter_mut(), self.expected.iter_mut());
        match event {
            Event::Came { port, cookie, process } => {
                groups.filter(of(port)).for_each(|group| group.came(now, cookie, process));
                expected.filter(at(port)).for_each(|one| one.changed(now));
            }
            Event::Went { port, cookie } => {
                groups.filter(of(port)).for_each(|group| group.went(now, cookie));
                expected.filter(at(port)).for_each(|one| one.stir(now));
            }
            Event::Changed { port } => {
                groups.filter(of(port)).for_each(|group| group.repinned(now));
                expected.filter(at(port)).for_each(|one| one.changed(now));
            }
            Event::Busy { port } => {
                // One look for all groups that are busy.
                let when = now.max(self.looked + REGULARLY);
                groups.filter(of(port)).for_each(|group| group.busy(when));
            }
            Event::Anything => {
                groups.for_each(|group| group.repinned(now));
                expected.for_each(|one| one.changed(now));
            }
            Event::Stop => self.stopped = true,
        }
    }

    /// What to do now; `None`: nothing before the deadline.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Action> {
        if self.stopped {
            return None;
        }
        if let Some(action) = self.news.pop_front() {
            return Some(action);
        }
        self.groups.iter_mut().for_each(|group| group.decide_without_looking(now));
        let update = |group: &mut Followed| Some((group.key.clone(), group.next_update()?));
        if let Some((key, extent)) = self.groups.iter_mut().find_map(update) {
            return Some(Action::Update { key, extent });
        }
        self.look_for_waiters(now).or_else(|| self.look(now))
    }

    /// One look for all groups that have held members and are due.
    fn look_for_waiters(&mut self, now: Instant) -> Option<Action> {
        let is_due = |next: Instant| next <= now;
        if !self.groups.iter().filter_map(|group| group.held.next()).any(is_due) {
            return None;
        }
        let sockets = self.groups.iter().flat_map(|group| group.held.sockets().to_vec());
        Some(Action::LookForWaiters(sockets.collect()))
    }

    /// The result of such a look, which cost this much: those for which a thread waits; `None` if it failed.
    pub(crate) fn awaited(&mut self, now: Instant, awaited: Option<&[Cookie]>, cost: Duration) {
        let has_held = |group: &&mut Followed| group.held.next().is_some();
        self.groups.iter_mut().filter(has_held).for_each(|group| group.awaited(now, awaited, cost));
    }

    /// These members of the group are held now.
    pub(crate) fn hold(&mut self, now: Instant, key: &GroupKey, sockets: Vec<HeldSocket>) {
        let group = self.groups.iter_mut().find(|group| group.key == *key);
        group.into_iter().for_each(|group| group.held.set(now, sockets.clone()));
    }

    /// Of which groups the present look is to tell the members that are held.
    pub(crate) fn asks_who_is_held(&self) -> impl Iterator<Item = &GroupKey> {
        let asks = |group: &&Followed| group.is_looked_at && group.asks_who_is_held();
        self.groups.iter().filter(asks).map(|group| &group.key)
    }

    /// One look for all groups that are due. Descriptors cost the most to list.
    fn look(&mut self, now: Instant) -> Option<Action> {
        // A regular look takes along what is due soon: groups come to be looked at together.
        let is_regular = self.groups.iter().any(|group| group.is_check_due(now));
        let is_due =
            |group: &&mut Followed| group.is_due(now) || (is_regular && group.is_due_soon(now));
        let due: Vec<&mut Followed> = self.groups.iter_mut().filter(is_due).collect();
        let is_due = |expected: &&mut Expected| {
            expected.is_due(now) || (is_regular && expected.is_due_soon(now))
        };
        let expected: Vec<&mut Expected> = self.expected.iter_mut().filter(is_due).collect();
        if due.is_empty() && expected.is_empty() {
            return None;
        }
        self.looked = if is_regular { now } else { self.looked };
        let all = due.iter().any(|group| group.is_check_due(now) && group.needs_whole_host())
            || expected.iter().any(|expected| expected.needs_whole_host());
        let pids: BTreeSet<u32> = due.iter().flat_map(|group| group.processes()).collect();
        let udp = due.iter().any(|group| group.is_udp()) || expected.iter().any(|e| e.is_udp());
        due.into_iter().for_each(|group| group.is_looked_at = true);
        expected.into_iter().for_each(|expected| expected.look(now));
        let near = Extent::Near { pids: pids.into_iter().collect(), udp };
        Some(Action::Observe(if all { Extent::Whole } else { near }))
    }

    /// The groups of the present look.
    pub(crate) fn looked_at(&self) -> impl Iterator<Item = &GroupKey> {
        self.groups.iter().filter(|group| group.is_looked_at).map(|group| &group.key)
    }

    /// The numbers of the expected groups that the present look is for.
    pub(crate) fn looked_for(&self) -> impl Iterator<Item = u32> {
        self.expected.iter().filter(|one| one.is_looked_for).map(|one| one.id)
    }

    /// The result of a look; `None`: it failed.
    pub(crate) fn observed(&mut self, now: Instant, observation: Option<&Observation>) {
        // If it failed, looking for a group says why.
        let is_there = |id| observation.is_none_or(|observation| observation.found.contains(&id));
        let ids: Vec<u32> = self.looked_for().filter(|id| is_there(*id)).collect();
        self.news.extend((!ids.is_empty()).then_some(Action::Find { ids }));
        for one in &mut self.expected {
            one.is_looked_for = false;
            if observation.is_none_or(|observation| observation.refused) {
                one.stir(now);
            }
        }
        for group in self.groups.iter_mut().filter(|group| group.is_looked_at) {
            group.is_looked_at = false;
            group.observed(now, observation);
        }
    }

    /// The groups whose update is due and needs this part of the host: they can be updated together with the one of
    /// [`Action::Update`], each after [`begin_update`](Self::begin_update).
    pub(crate) fn due_updates(&self, extent: &Extent) -> impl Iterator<Item = &GroupKey> {
        let due = self.groups.iter().filter(move |group| group.update.as_ref() == Some(extent));
        due.map(|group| &group.key)
    }

    pub(crate) fn begin_update(&mut self, key: &GroupKey) {
        if let Some(group) = self.groups.iter_mut().find(|group| group.key == *key) {
            group.next_update();
        }
    }

    /// What to do with a group that a transaction found.
    ///
    /// # Errors
    ///
    /// If no member is left.
    pub(crate) fn plan(
        &mut self,
        now: Instant,
        key: &GroupKey,
        found: &Found,
    ) -> Result<Step, Error> {
        let since = now.saturating_duration_since(self.start);
        let Some(group) = self.groups.iter_mut().find(|group| group.key == *key) else {
            return Ok(Step::Rest);
        };
        let mut changes = Vec::new();
        let step = group.plan(now, since, found, &mut changes);
        self.report(key, changes);
        step
    }

    /// The sockets were taken out of the array of a displaced state.
    pub(crate) fn gave_way(&mut self, key: &GroupKey) {
        if let Some(group) = self.groups.iter_mut().find(|group| group.key == *key) {
            group.gave_way();
        }
    }

    /// The result of an update.
    pub(crate) fn updated(&mut self, now: Instant, key: &GroupKey, outcome: Result<Done, Error>) {
        let kind = outcome.as_ref().err().map(Error::kind);
        match kind {
            Some(ErrorKind::Interrupted) => self.stopped = true,
            Some(ErrorKind::NotAttached) => {
                self.report(key, vec![Change::Detached]);
                self.groups.retain(|group| group.key != *key);
                self.news.push_back(Action::Forget { key: key.clone() });
            }
            _ => {
                let Some(group) = self.groups.iter_mut().find(|group| group.key == *key) else {
                    return;
                };
                let changes = group.updated(now, outcome);
                self.report(key, changes.into_iter().collect());
            }
        }
    }

    fn report(&mut self, key: &GroupKey, changes: Vec<Change>) {
        let report = |change| Action::Report { key: key.clone(), change: Box::new(change) };
        self.news.extend(changes.into_iter().map(report));
    }

    /// When to poll again, if there is no event before. Not in the past, after a [`poll`](Self::poll) that had
    /// nothing to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let expected = self.expected.iter().map(Expected::deadline);
        let held = self.groups.iter().filter_map(|group| group.held.next());
        self.groups.iter().map(Followed::deadline).chain(expected).chain(held).min()
    }
}
