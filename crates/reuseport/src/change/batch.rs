//! Attaches to many groups: transactions, each of one group, share a lock and a listing of the host.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::ahead::Guess;
use super::locked::Locked;
use super::request::{Attach, Attached};
use crate::error::Result;
use crate::kernel::observe::{Extent, Observer};
use crate::model::group::{Group, GroupKey};
use crate::pins::bpffs::BETWEEN_TRIES;
use crate::pins::place::Place;

/// How many operations share a lock, and for how long: others wait for it.
const MOST: usize = 16;
const LONGEST: Duration = Duration::from_millis(500);

/// The share of one lock.
pub(crate) struct Share {
    begun: Instant,
    done: usize,
}

impl Share {
    /// From now on.
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), done: 0 }
    }

    /// Whether there may be one more operation after one with this result. What a failed one could not take back is for
    /// the next lock.
    pub(crate) fn goes_on_after<T>(&mut self, result: &Result<T>) -> bool {
        self.done += 1;
        result.is_ok() && self.done < MOST && self.begun.elapsed() < LONGEST
    }
}

/// Lets others have the lock: they try again after a pause, and would not find it free.
pub(crate) fn let_others() {
    sleep(BETWEEN_TRIES * 2);
}

/// Attaches to the first of these groups, and to some after it. Returns their results, of one at least: the
/// caller calls it again for the others.
///
/// After a failure, the next group has a lock of its own: what a failed operation could not take back is removed first.
pub(crate) fn attach_some(
    observer: &Arc<Observer>,
    place: &Place,
    requests: &[(GroupKey, Attach)],
) -> Vec<Result<Attached>> {
    let Some((_, first)) = requests.first() else { return Vec::new() };
    let mut locked = match Locked::new(Arc::clone(observer), place, &first.stop, &Extent::Whole) {
        Ok(locked) => locked,
        Err(error) => return vec![Err(error)],
    };
    let (mut share, mut results) = (Share::new(), Vec::new());
    let together = &requests[..together(&locked.groups, requests)];
    for (at, (key, attach)) in together.iter().enumerate() {
        let guess = |next| Guess::of(&locked.root, &locked.groups, next);
        locked.next = together.get(at + 1).and_then(guess);
        let result = locked.transaction(key).and_then(|this| this.attach(attach));
        let goes_on = share.goes_on_after(&result);
        results.push(result);
        if !goes_on {
            break;
        }
    }
    drop(locked);
    if results.len() < requests.len() {
        let_others();
    }
    results
}

/// How many of these requests one listing serves, from the first on. It shows no other group of a name as the operation
/// before left it.
fn together(groups: &[Group], requests: &[(GroupKey, Attach)]) -> usize {
    let mut names = HashSet::new();
    let is_split = |key: &GroupKey| {
        groups.iter().filter(|group| group.key.has_name_of(key)).any(|g| g.reach.is_split())
    };
    let alone = |(key, _): &&(GroupKey, Attach)| names.insert(key.name_only()) && !is_split(key);
    requests.iter().take(MOST).take_while(alone).count().max(1)
}
