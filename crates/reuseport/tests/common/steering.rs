//! Attaching to groups, following them with a watcher, and reading what the program did.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use reuseport::group::GroupKey;
use reuseport::id::Cookie;
use reuseport::status::GroupStatus;
use reuseport::watch::{Change, Watch};
use reuseport::{Attach, Balancer, Host, Policy, Stop};
use test_support::{client, wait};

pub(crate) fn attach(host: &Host, key: &GroupKey, policy: Policy) -> Balancer {
    let (balancer, attached) = Balancer::attach(host, key, &policy.into()).unwrap();
    assert!(attached.changes.left_out.is_empty(), "{attached:?}");
    balancer
}

/// A group that a watcher follows.
pub(crate) struct Followed<'a> {
    pub(crate) host: Host,
    key: &'a GroupKey,
    /// The members to which the watcher has given slots, without those it has released.
    enrolled: Mutex<BTreeSet<Cookie>>,
    last_enrolment: Mutex<Instant>,
    reports: Mutex<Vec<String>>,
}

/// Runs `body` while a watcher follows the group with round-robin. If it panics, prints what the watcher reported.
pub(crate) fn followed(key: &GroupKey, body: impl FnOnce(&Followed<'_>)) {
    followed_by(key, Policy::RoundRobin, body);
}

/// The same with any policy.
pub(crate) fn followed_by(key: &GroupKey, policy: Policy, body: impl FnOnce(&Followed<'_>)) {
    followed_as(key, policy.into(), body);
}

/// The same with any request.
pub(crate) fn followed_as(key: &GroupKey, attach: Attach, body: impl FnOnce(&Followed<'_>)) {
    let stop = Stop::default();
    let attach = attach.stop(stop.clone());
    let (watch, attached) = Watch::start(Host::open().unwrap(), key, attach).unwrap();
    let enrolled = Mutex::new(attached.changes.enrolled.into_iter().collect());
    let followed = Followed {
        host: Host::open().unwrap(),
        key,
        enrolled,
        last_enrolment: Mutex::new(Instant::now()),
        reports: Mutex::default(),
    };
    thread::scope(|scope| {
        let watcher = scope.spawn(|| watch.run(|change| followed.note(&change)));
        let result = catch_unwind(AssertUnwindSafe(|| body(&followed)));
        stop.set();
        watcher.join().unwrap().unwrap();
        if let Err(panic) = result {
            eprintln!("the watcher reported: {:#?}", followed.reports.lock().unwrap());
            resume_unwind(panic);
        }
    });
}

/// Runs `body` while the watcher runs, and passes it what was reported, each with its group.
pub(crate) fn watching(watch: Watch, stop: &Stop, body: impl FnOnce(&Mutex<Vec<String>>)) {
    let reports = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let note = |key: &GroupKey, change: Change| {
            lock(&reports).push(format!("{key}: {change:?}"));
        };
        let watcher = scope.spawn(move || watch.run_each(note));
        let result = catch_unwind(AssertUnwindSafe(|| body(&reports)));
        stop.set();
        watcher.join().unwrap().unwrap();
        if let Err(panic) = result {
            eprintln!("the watcher reported: {:#?}", lock(&reports));
            resume_unwind(panic);
        }
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Followed<'_> {
    fn note(&self, change: &Change) {
        self.reports.lock().unwrap().push(format!("{change:?}"));
        if let Change::Members(attached) = change {
            let mut enrolled = self.enrolled.lock().unwrap();
            enrolled.retain(|cookie| !attached.changes.released.contains(cookie));
            enrolled.extend(&attached.changes.enrolled);
            if !attached.changes.enrolled.is_empty() {
                *self.last_enrolment.lock().unwrap() = Instant::now();
            }
        }
    }

    /// The changes that the watcher has reported.
    pub(crate) fn reports(&self) -> MutexGuard<'_, Vec<String>> {
        self.reports.lock().unwrap()
    }

    /// Waits until the group has `count` members, and exactly these have slots.
    #[track_caller]
    pub(crate) fn settled(&self, count: usize) -> GroupStatus {
        wait::until_some(&format!("{count} members are steered"), wait::BOUND, || {
            let status = steered(&self.host, self.key)?;
            let members: BTreeSet<Cookie> = cookies(&status).into_iter().collect();
            // A member that is out of the group is not yet out of the table.
            (members.len() == count && *self.enrolled.lock().unwrap() == members).then_some(status)
        })
    }

    /// Waits until the watcher reports that `count` members, none of them in `old`, have slots.
    /// Returns when it reported that. Looks at the reports alone, so as not to disturb the watcher.
    #[track_caller]
    pub(crate) fn replaced(&self, old: &BTreeSet<Cookie>, count: usize) -> Instant {
        wait::until("the watcher enrolled other members", wait::BOUND, || {
            let enrolled = self.enrolled.lock().unwrap();
            enrolled.len() == count && enrolled.is_disjoint(old)
        });
        *self.last_enrolment.lock().unwrap()
    }

    /// Waits until the watcher reports that this member has a slot. Looks at the reports alone.
    #[track_caller]
    pub(crate) fn has_enrolled(&self, member: Cookie) {
        wait::until("the watcher enrolled it", wait::BOUND, || {
            self.enrolled.lock().unwrap().contains(&member)
        });
    }

    /// The status of the group, which must be steered.
    #[track_caller]
    pub(crate) fn status(&self) -> GroupStatus {
        steered(&self.host, self.key).unwrap()
    }
}

/// The status of the group, if a policy decides and every member has a slot.
pub(crate) fn steered(host: &Host, key: &GroupKey) -> Option<GroupStatus> {
    let status = host.status(key).ok()?;
    let ours = status.steering.selection().is_some();
    (ours && status.unsteered() == 0).then_some(status)
}

pub(crate) fn cookies(status: &GroupStatus) -> Vec<Cookie> {
    let mut cookies: Vec<_> = status.members.iter().filter_map(|m| m.member.cookie).collect();
    cookies.sort_unstable();
    cookies
}

/// The picks of the members, by slot.
pub(crate) fn picks(status: &GroupStatus) -> Vec<u64> {
    status.members.iter().map(|m| m.enrolment.as_ref().unwrap().picks.unwrap()).collect()
}

/// The picks of each member since `before`, by slot.
pub(crate) fn picks_since(before: &GroupStatus, now: &GroupStatus) -> Vec<u64> {
    assert_eq!(cookies(before), cookies(now));
    picks(now).iter().zip(picks(before)).map(|(now, before)| now - before).collect()
}

/// Makes requests, one connection each, and counts the answers by the number in them.
#[track_caller]
pub(crate) fn answers(server: SocketAddr, requests: usize) -> BTreeMap<u32, usize> {
    count((0..requests).map(|_| client::http_get(server)))
}

/// Counts how often each number occurs.
#[track_caller]
pub(crate) fn count(answers: impl IntoIterator<Item = String>) -> BTreeMap<u32, usize> {
    let mut by_number = BTreeMap::new();
    for answer in answers {
        *by_number.entry(answer.trim().parse().unwrap()).or_insert(0) += 1;
    }
    by_number
}

/// The counts if each of these answered `times` times.
pub(crate) fn each(numbers: impl IntoIterator<Item = u32>, times: usize) -> BTreeMap<u32, usize> {
    numbers.into_iter().map(|number| (number, times)).collect()
}
