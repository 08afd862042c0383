//! What tests of steering ask again and again: attach, follow, and what the program did.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use reuseport::group::GroupKey;
use reuseport::id::Cookie;
use reuseport::status::GroupStatus;
use reuseport::watch::{Change, Watch};
use reuseport::{Attach, Balancer, Host, Policy, Stop};
use test_support::{client, wait};

pub(crate) fn attach(host: &Host, key: &GroupKey, policy: Policy) -> Balancer {
    let program = Some(policy.into());
    let (balancer, attached) =
        Balancer::attach(host, key, &Attach { program, ..Attach::default() }).unwrap();
    assert!(attached.changes.left_out.is_empty(), "{attached:?}");
    balancer
}

/// A group that a watcher follows with round-robin.
pub(crate) struct Followed<'a> {
    pub(crate) host: Host,
    key: &'a GroupKey,
    /// Whom the watcher gave a slot and has not taken it from.
    enrolled: Mutex<BTreeSet<Cookie>>,
    last_enrolment: Mutex<Instant>,
    said: Mutex<Vec<String>>,
}

/// Runs `body` while a watcher follows the group. What the watcher said is shown if it panics.
pub(crate) fn followed(key: &GroupKey, body: impl FnOnce(&Followed<'_>)) {
    let stop = Stop::default();
    let program = Some(Policy::RoundRobin.into());
    let attach = Attach { program, stop: stop.clone(), ..Attach::default() };
    let (watch, attached) = Watch::start(Host::open().unwrap(), key, attach).unwrap();
    let enrolled = Mutex::new(attached.changes.enrolled.into_iter().collect());
    let followed = Followed {
        host: Host::open().unwrap(),
        key,
        enrolled,
        last_enrolment: Mutex::new(Instant::now()),
        said: Mutex::default(),
    };
    thread::scope(|scope| {
        let watcher = scope.spawn(|| watch.run(|change| followed.note(&change)));
        let result = catch_unwind(AssertUnwindSafe(|| body(&followed)));
        stop.set();
        watcher.join().unwrap().unwrap();
        if let Err(panic) = result {
            eprintln!("the watcher said: {:#?}", followed.said.lock().unwrap());
            resume_unwind(panic);
        }
    });
}

impl Followed<'_> {
    fn note(&self, change: &Change) {
        self.said.lock().unwrap().push(format!("{change:?}"));
        if let Change::Members(attached) = change {
            let mut enrolled = self.enrolled.lock().unwrap();
            enrolled.retain(|cookie| !attached.changes.released.contains(cookie));
            enrolled.extend(&attached.changes.enrolled);
            if !attached.changes.enrolled.is_empty() {
                *self.last_enrolment.lock().unwrap() = Instant::now();
            }
        }
    }

    /// Waits until the group has so many members, all are steered, and nobody else is.
    #[track_caller]
    pub(crate) fn settled(&self, count: usize) -> GroupStatus {
        wait::until_some(&format!("{count} members are steered"), wait::BOUND, || {
            let status = steered(&self.host, self.key)?;
            let members: BTreeSet<Cookie> = cookies(&status).into_iter().collect();
            // A member that is out of the group is not yet out of the table.
            (members.len() == count && *self.enrolled.lock().unwrap() == members).then_some(status)
        })
    }

    /// When the watcher said that it had taken in so many members, none of them among `old`, and
    /// let the others go. Nothing but the watcher is asked, so nobody disturbs it.
    #[track_caller]
    pub(crate) fn replaced(&self, old: &BTreeSet<Cookie>, count: usize) -> Instant {
        wait::until("the watcher took others in", wait::BOUND, || {
            let enrolled = self.enrolled.lock().unwrap();
            enrolled.len() == count && enrolled.is_disjoint(old)
        });
        *self.last_enrolment.lock().unwrap()
    }

    /// The group as it is, which is steered.
    #[track_caller]
    pub(crate) fn status(&self) -> GroupStatus {
        steered(&self.host, self.key).unwrap()
    }
}

/// The group, if a policy decides and every member has a slot.
pub(crate) fn steered(host: &Host, key: &GroupKey) -> Option<GroupStatus> {
    let status = host.status(key).ok()?;
    let ours = status.steering.selection().is_some();
    (ours && status.unsteered() == 0).then_some(status)
}

pub(crate) fn cookies(status: &GroupStatus) -> Vec<Cookie> {
    let mut cookies: Vec<_> = status.members.iter().map(|m| m.member.cookie).collect();
    cookies.sort_unstable();
    cookies
}

/// The members' picks, by slot.
pub(crate) fn picks(status: &GroupStatus) -> Vec<u64> {
    status.members.iter().map(|m| m.enrolment.as_ref().unwrap().picks.unwrap()).collect()
}

/// What each member was picked since `before`, by slot.
pub(crate) fn picks_since(before: &GroupStatus, now: &GroupStatus) -> Vec<u64> {
    assert_eq!(cookies(before), cookies(now));
    picks(now).iter().zip(picks(before)).map(|(now, before)| now - before).collect()
}

/// Who answered requests, one connection each, and how often: by the number that the server says.
#[track_caller]
pub(crate) fn answers(server: SocketAddr, requests: usize) -> BTreeMap<u32, usize> {
    count((0..requests).map(|_| client::http_get(server)))
}

/// How often each number is there.
#[track_caller]
pub(crate) fn count(answers: impl IntoIterator<Item = String>) -> BTreeMap<u32, usize> {
    let mut by_number = BTreeMap::new();
    for answer in answers {
        *by_number.entry(answer.trim().parse().unwrap()).or_insert(0) += 1;
    }
    by_number
}

/// Each of these so often.
pub(crate) fn each(who: impl IntoIterator<Item = u32>, times: usize) -> BTreeMap<u32, usize> {
    who.into_iter().map(|who| (who, times)).collect()
}
