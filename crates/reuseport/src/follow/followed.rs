//! One group that is followed: what is known of it, and what is due.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::came::Came;
use super::change::Change;
use super::held::Held;
use super::pace::{REGULARLY, STEADY, pause, resting};
use super::seen::{Done, Found, Observation, Seen, Step};
use crate::change::request::{Attached, Changes, LeftOut};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::observe::Extent;
use crate::model::group::{AttachedProgram, GroupKey, Protocol};
use crate::model::id::Cookie;
use crate::model::membership::Newborn;
use crate::model::refusal::vanished;
use crate::model::retake::{Attempts, Retake};
use crate::model::split::{News, Watched};

/// When to look again after a change.
const AGAIN: Duration = Duration::from_millis(50);

/// How to follow a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// How often to look at it without an event.
    pub(crate) interval: Duration,
    /// Whether to take it back from another owner's program.
    pub(crate) retakes: bool,
    /// Whether events tell of all that concerns it, so that it need not be looked at while nothing happens.
    pub(crate) rests: bool,
}

/// A group that is followed.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) key: GroupKey,
    interval: Duration,
    rests: bool,
    /// How many looks found nothing new since something happened.
    quiet: u32,
    /// Whether something happened since the last update.
    is_stirred: bool,
    /// Whether it was attached to in full and not updated since.
    is_new: bool,
    /// The group at the last complete update; `None` if an update is due.
    last: Option<Seen>,
    /// UDP sockets that were bound a moment ago.
    newborn: Newborn,
    /// Whether other groups have the name.
    split: Watched,
    /// The present update, from its plan on.
    planned: Option<Planned>,
    /// The members in the table before the first update that failed since the last one that did not: it may have
    /// released some.
    before_failures: Option<HashSet<Cookie>>,
    /// The members that were last reported as left out although they live.
    starving: Vec<Option<Cookie>>,
    /// The attempts to take the group back; `None` if there are none.
    attempts: Option<Attempts>,
    replaced: Option<Replaced>,
    /// Whether it was reported that the group is gone.
    gone: bool,
    pub(super) held: Held,
    /// Whether other state may be pinned for it than at the last look.
    is_repinned: bool,
    /// The error that was reported last.
    reported: String,
    /// When to look at it next.
    check: Instant,
    came: Option<Came>,
    /// Whether the present look is for this group, too.
    pub(crate) is_looked_at: bool,
    pub(super) update: Option<Extent>,
    /// Whether the present update looks at the whole host.
    is_whole: bool,
    /// Whether it is too early for the update to be complete.
    is_early: bool,
}

/// An update, as it was planned.
#[derive(Debug)]
struct Planned {
    /// What came later is for the next one.
    at: Instant,
    /// The members in the table.
    enrolled: HashSet<Cookie>,
}

/// Another owner's program, which replaced this tool's.
#[derive(Debug)]
struct Replaced {
    by: AttachedProgram,
    reported: Option<Retake>,
    /// Whether this tool's array may hold sockets that the program's owner wants to use.
    keeps: bool,
}

impl Followed {
    pub(crate) fn new(
        now: Instant,
        key: GroupKey,
        options: Options,
        starving: Vec<Option<Cookie>>,
    ) -> Self {
        Self {
            key,
            interval: options.interval,
            rests: options.rests,
            quiet: 0,
            is_stirred: false,
            is_new: true,
            last: None,
            newborn: Newborn::default(),
            split: Watched::default(),
            planned: None,
            before_failures: None,
            starving,
            attempts: options.retakes.then(Attempts::default),
            replaced: None,
            gone: false,
            held: Held::default(),
            is_repinned: false,
            reported: String::new(),
            check: now + AGAIN,
            came: None,
            is_looked_at: false,
            update: None,
            is_whole: false,
            is_early: false,
        }
    }

    pub(crate) fn retake(&mut self, retakes: bool) {
        self.attempts = retakes.then(|| self.attempts.unwrap_or_default());
    }

    pub(crate) fn came(&mut self, now: Instant, cookie: Cookie, process: u32) {
        let protocol = self.key.protocol;
        (self.quiet, self.is_stirred) = (0, true);
        self.came.get_or_insert_with(|| Came::new(protocol)).note(now, cookie, process);
    }

    pub(crate) fn went(&mut self, now: Instant, cookie: Cookie) {
        self.came.take_if(|came| !came.forget(cookie));
        self.stir(now);
    }

    /// Connections come. Not each one is told: it is looked at once more after that.
    pub(crate) fn busy(&mut self, when: Instant) {
        self.quiet = self.quiet.min(STEADY - 1);
        self.check_by(when);
    }

    /// Other state may be pinned for it.
    pub(crate) fn repinned(&mut self, now: Instant) {
        self.is_repinned = true;
        self.stir(now);
    }

    /// Whether a look is to tell which members are held: another process may have changed that.
    pub(crate) fn asks_who_is_held(&self) -> bool {
        self.is_repinned || !self.rests
    }

    /// Something happened to it.
    pub(crate) fn stir(&mut self, now: Instant) {
        (self.quiet, self.is_stirred) = (0, true);
        self.check_by(now);
    }

    pub(crate) fn check_by(&mut self, when: Instant) {
        self.check = self.check.min(when);
    }

    pub(crate) fn is_check_due(&self, now: Instant) -> bool {
        self.check <= now
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.deadline() <= now
    }

    /// Whether it may be looked at now rather than a bit later.
    pub(crate) fn is_due_soon(&self, now: Instant) -> bool {
        self.last.is_some() && !self.needs_whole_host() && self.check <= now + self.interval / 4
    }

    pub(crate) fn deadline(&self) -> Instant {
        let came = self.came.as_ref().and_then(Came::next);
        came.into_iter().fold(self.check, Instant::min)
    }

    /// Whether the kernel's tables alone do not tell whether an update is due: a member may have got a holder.
    pub(crate) fn needs_whole_host(&self) -> bool {
        self.last
            .as_ref()
            .is_some_and(|last| !last.is_complete() || last.lacks_holder(&self.starving))
    }

    pub(crate) fn is_udp(&self) -> bool {
        self.key.protocol == Protocol::Udp
    }

    /// The processes whose sockets came.
    pub(crate) fn processes(&self) -> impl Iterator<Item = u32> {
        self.came.iter().flat_map(Came::processes)
    }

    /// A group of which no complete update is known is updated when its time comes. That also finds out why it is
    /// not there.
    pub(crate) fn decide_without_looking(&mut self, now: Instant) {
        let is_unknown = self.last.is_none() && self.came.is_none() && !self.stays_gone();
        if is_unknown && self.is_check_due(now) {
            let near = Extent::Near { pids: Vec::new(), udp: self.is_udp() };
            self.update_with(if self.is_new { near } else { Extent::Whole });
        }
    }

    /// Whether it is gone, and nothing happened since that was found.
    fn stays_gone(&self) -> bool {
        self.rests && self.gone && !self.is_stirred
    }

    /// When to look again after a look that found nothing new, of this cost.
    fn check_again(&mut self, now: Instant, cost: Duration) {
        let regular = self.interval.max(pause(self.interval, cost).min(REGULARLY));
        // What a look alone finds is looked for: the end of another owner's program, a holder, a right to count.
        let is_settled = self.replaced.is_none()
            && self.starving.is_empty()
            && self.last.as_ref().is_none_or(|last| last.is_complete() && last.is_counted());
        let rests = self.rests && is_settled;
        self.check = now + if rests { resting(regular, self.quiet) } else { regular };
        self.quiet = self.quiet.saturating_add(1);
    }

    /// The update that is due, once.
    pub(crate) fn next_update(&mut self) -> Option<Extent> {
        let extent = self.update.take()?;
        self.is_whole = extent == Extent::Whole;
        Some(extent)
    }

    fn update_with(&mut self, extent: Extent) {
        self.update = Some(extent);
    }

    /// An update that needs no other processes than those whose sockets came.
    fn update_near(&mut self) {
        let (pids, udp) = (self.processes().collect(), self.is_udp());
        self.update_with(Extent::Near { pids, udp });
    }

    /// A look at who waits for members that are held showed that threads wait for these; `None`: it failed.
    pub(crate) fn awaited(&mut self, now: Instant, awaited: Option<&[Cookie]>, cost: Duration) {
        if self.held.looked(now, awaited, cost) {
            self.update_near();
        }
    }

    /// Decides whether an update is due; `None`: the look failed, and the update says why.
    pub(crate) fn observed(&mut self, now: Instant, observation: Option<&Observation>) {
        let Some(observation) = observation else { return self.update_with(Extent::Whole) };
        if let Some((_, held)) = observation.held.iter().find(|(key, _)| *key == self.key) {
            self.is_repinned = false;
            self.held.set(now, held.clone());
        }
        let seen = observation.seen.iter().find(|(key, _)| *key == self.key).map(|(_, seen)| seen);
        if self.looks_for_newcomers(now, observation, seen) && !self.is_check_due(now) {
            return;
        }
        let is_found = self.came.as_ref().is_some_and(Came::is_found);
        match (seen, &self.last) {
            (Some(seen), Some(last)) if !is_found && seen.is_as(last) => {
                self.gone = false;
                self.check_again(now, observation.cost);
            }
            (None, _) if self.stays_gone() => self.check_again(now, observation.cost),
            (Some(seen), last) if seen.suffices_after(last.as_ref()) => self.update_near(),
            _ => self.update_with(Extent::Whole),
        }
    }

    /// Looks for the sockets that came. Returns whether to look for them again.
    fn looks_for_newcomers(
        &mut self,
        now: Instant,
        observation: &Observation,
        seen: Option<&Seen>,
    ) -> bool {
        let Some(came) = self.came.as_mut() else { return false };
        if !came.is_due(now) || came.are_awaited(now, &observation.cookies) {
            return true;
        }
        let is_member = |cookie| seen.is_none_or(|seen| seen.has(cookie));
        self.came.take_if(|came| !came.find(now, is_member));
        false
    }

    /// What to do with the group that a transaction found. `since`: the time since following began.
    pub(crate) fn plan(
        &mut self,
        now: Instant,
        since: Duration,
        found: &Found,
        changes: &mut Vec<Change>,
    ) -> Result<Step> {
        (self.last, self.is_early) = (None, false);
        self.planned = Some(Planned { at: now, enrolled: found.slots.enrolled.clone() });
        if !found.tells_enough() {
            return Ok(Step::LookAtAll);
        }
        let split = self.split.look(now, found.group.reach);
        if split == News::Split {
            changes.push(Change::Split(found.group.clone()));
        }
        if let Some(by) = &found.displaced_by {
            return Ok(self.displaced(since, found, by, changes));
        }
        let has_slot = |cookie| found.slots.in_slots.contains(&cookie);
        let bound: HashMap<Cookie, Instant> = self.came.iter().flat_map(Came::bound).collect();
        bound.iter().for_each(|(cookie, at)| self.newborn.bound(*at, *cookie));
        let young = self.newborn.look(now, &found.group, has_slot);
        let mut group = found.group.clone();
        group.members.retain(|member| member.cookie.is_none_or(|cookie| !young.contains(&cookie)));
        if group.members.is_empty() {
            return Err(vanished(&self.key));
        }
        self.replaced = None;
        let awaited = self.held.awaited().to_vec();
        // The time of those of which an event told comes anyway.
        self.is_early = !young.iter().all(|of| bound.contains_key(of)) || split == News::Wait;
        Ok(Step::Attach { group: Box::new(group), force: false, awaited })
    }

    /// Another owner's program decides: reports it, or takes the group back once that is reported.
    fn displaced(
        &mut self,
        since: Duration,
        found: &Found,
        by: &AttachedProgram,
        changes: &mut Vec<Change>,
    ) -> Step {
        let retake = self.attempts.map_or(Retake::Off, |attempts| attempts.at(since));
        let known = self.replaced.take().filter(|replaced| replaced.by == *by);
        let replaced = self.replaced.insert(known.unwrap_or_else(|| Replaced {
            by: by.clone(),
            reported: None,
            keeps: true,
        }));
        // Also after an attempt that failed.
        if replaced.keeps && retake != Retake::Now {
            return Step::GiveWay;
        }
        if retake.is_news_after(replaced.reported) {
            replaced.reported = Some(retake);
            // The same error is reported again after this.
            self.reported.clear();
            self.is_early = retake == Retake::Now;
            changes.push(Change::Replaced { by: by.clone(), retake });
            return Step::Rest;
        }
        match (retake, &mut self.attempts) {
            (Retake::Now, Some(attempts)) => {
                attempts.note(since);
                replaced.keeps = true;
                let group = Box::new(found.group.clone());
                return Step::Attach { group, force: true, awaited: Vec::new() };
            }
            (Retake::After(_), _) => {}
            _ => self.last = Some(found.seen.clone()),
        }
        Step::Rest
    }

    pub(crate) fn gave_way(&mut self) {
        if let Some(replaced) = &mut self.replaced {
            replaced.keeps = false;
        }
    }

    /// The result of an update. Returns what to report.
    pub(crate) fn updated(&mut self, now: Instant, outcome: Result<Done>) -> Option<Change> {
        self.check = now + self.interval;
        (self.is_stirred, self.is_new) = (false, false);
        let (planned, enrolled) = match self.planned.take() {
            Some(Planned { at, enrolled }) => (at, Some(enrolled)),
            None => (now, None),
        };
        if !matches!(outcome, Ok(Done::Attached(..) | Done::SawTooLittle)) {
            self.held.fail(now);
        }
        if outcome.is_err() {
            self.before_failures = self.before_failures.take().or_else(|| enrolled.clone());
        }
        match outcome {
            Ok(Done::SawTooLittle) => self.update_with(Extent::Whole),
            Ok(Done::Attached(mut attached, seen)) => {
                let released = self.released_in_failures(&enrolled.unwrap_or_default());
                attached.changes.released.extend(released);
                let began = self.came.as_ref().and_then(Came::began);
                attached.delay = began.map(|began| now.saturating_duration_since(began));
                self.came.take_if(|came| !came.keep_young(planned));
                return self.attached(now, *attached, seen);
            }
            Ok(Done::Rested) => {
                self.gone = false;
                self.came.take_if(|came| !came.keep_young(planned));
                if self.is_early {
                    self.check_by(now + AGAIN);
                }
            }
            // Perhaps because of what was not looked at.
            Err(_) if !self.is_whole => self.update_with(Extent::Whole),
            Err(error) => return self.failed(now, planned, error),
        }
        None
    }

    /// The members that updates released that failed in a later step, and that were not reported.
    fn released_in_failures(&mut self, enrolled: &HashSet<Cookie>) -> Vec<Cookie> {
        let before = self.before_failures.take().unwrap_or_default();
        let mut released: Vec<Cookie> = before.difference(enrolled).copied().collect();
        released.sort_unstable();
        released
    }

    fn attached(&mut self, now: Instant, attached: Attached, seen: Seen) -> Option<Change> {
        (self.gone, self.replaced) = (false, None);
        self.held.set(now, attached.changes.still_held.clone());
        self.reported.clear();
        if !self.is_early && is_complete(&attached) {
            self.last = Some(seen);
        }
        let is_news = self.is_news(&attached);
        // A change during the update may have been missed, and who holds a member that was left out may change.
        if self.last.is_none() || is_news {
            self.check_by(now + AGAIN);
        }
        if !is_news {
            return None;
        }
        self.starving = starving(&attached);
        Some(Change::Members(attached))
    }

    fn failed(&mut self, now: Instant, planned: Instant, error: Error) -> Option<Change> {
        // A server that becomes a daemon passes its sockets to a child and exits: their holder has vanished,
        // and the next try finds the child.
        let waits = error.kind() == ErrorKind::Vanished
            && self.came.as_mut().is_some_and(|came| came.waits(now));
        self.came.take_if(|came| !waits && !came.keep_young(planned));
        match error.kind() {
            ErrorKind::NotFound => {
                self.held.clear();
                return (!std::mem::replace(&mut self.gone, true)).then_some(Change::Gone);
            }
            // The member is closing, or has passed to another process.
            ErrorKind::Vanished => {
                tracing::debug!("{}", error.report());
                self.check_by(now + AGAIN);
                return None;
            }
            _ => {}
        }
        let report = error.report().to_string();
        if report == self.reported {
            return None;
        }
        self.reported = report;
        Some(match error.kind() {
            ErrorKind::Starved => Change::Unsteerable(error),
            _ => Change::Failed(error),
        })
    }

    /// Whether there is something to report. Members that cannot be enrolled are reported once.
    fn is_news(&self, attached: &Attached) -> bool {
        let Changes { enrolled, released, taken_in, left_out, .. } = &attached.changes;
        attached.replaced.is_some()
            || ![enrolled, released, taken_in].into_iter().all(Vec::is_empty)
            || !left_out.iter().all(LeftOut::is_starving)
            || starving(attached) != self.starving
    }
}

/// Whether the group has all that it should have, and its program is the one that was seen.
fn is_complete(attached: &Attached) -> bool {
    attached.replaced.is_none() && attached.changes.left_out.iter().all(LeftOut::is_starving)
}

/// The members that live and get nothing.
pub(crate) fn starving(attached: &Attached) -> Vec<Option<Cookie>> {
    let left_out = attached.changes.left_out.iter();
    let mut starving: Vec<_> =
        left_out.filter(|out| out.is_starving()).map(|out| out.cookie).collect();
    starving.sort_unstable();
    starving
}
