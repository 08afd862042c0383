//! The owners of a group's members, with their CPUs: those of the threads that wait for the sockets.
//!
//! A thread that waits is seen; one that is at work is on no list. Where it matters which of several threads waits,
//! a few looks follow one another.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::thread;
use std::time::Duration;

use super::cpus;
use super::observe::Observer;
use crate::error::Result;
use crate::model::group::{Group, Member};
use crate::model::id::Cookie;
use crate::model::owner::{self, Affinity, Owner, OwnerCpu};

/// The most looks, and the time between them: a thread at work comes back to wait within a request or two.
const LOOKS: usize = 5;
const PAUSE: Duration = Duration::from_millis(2);

/// A member's owner, and on which CPU it serves the member.
#[derive(Debug, Clone, Default)]
pub(crate) struct Placed {
    pub(crate) owner: Owner,
    /// `None`: no thread is known.
    pub(crate) cpu: Option<OwnerCpu>,
}

/// The owners of the group's members, by cookie.
///
/// # Errors
///
/// As for [`Observer::owners`].
pub(crate) fn of(observer: &Observer, group: &Group) -> Result<HashMap<Cookie, Placed>> {
    let mut owners = observer.owners(group)?;
    let mut threads = Threads::default();
    let mut placed = place(group, &owners, &mut threads);
    let unknown = |placed: &Placed| {
        matches!(placed.cpu, Some(OwnerCpu::Unknown { .. })) && placed.owner.waiting.is_empty()
    };
    for _ in 1..LOOKS {
        if !placed.values().any(unknown) {
            break;
        }
        thread::sleep(PAUSE);
        for (cookie, Owner { waiting, .. }) in observer.owners(group)? {
            owners.entry(cookie).or_default().waiting.extend(waiting);
        }
        placed = place(group, &owners, &mut threads);
    }
    Ok(placed)
}

fn place(
    group: &Group,
    owners: &HashMap<Cookie, Owner>,
    threads: &mut Threads,
) -> HashMap<Cookie, Placed> {
    let one = |member: &Member| {
        let cookie = member.cookie?;
        let owner = owners.get(&cookie).cloned().unwrap_or_default();
        let cpu = owner::cpu(&threads.of(member, &owner));
        Some((cookie, Placed { owner, cpu }))
    };
    group.members.iter().filter_map(one).collect()
}

/// The CPUs of threads, each asked for once.
#[derive(Default)]
struct Threads {
    affinities: HashMap<u32, Option<Affinity>>,
    /// The threads of processes.
    processes: HashMap<u32, Vec<u32>>,
}

impl Threads {
    /// The CPUs of the threads of which one serves the member: those that wait for it, or else all of its owner.
    /// Without an owner, every holder may serve it.
    fn of(&mut self, member: &Member, owner: &Owner) -> Vec<Affinity> {
        let holders: BTreeSet<u32> = member.holders.iter().map(|holder| holder.pid).collect();
        let only = if holders.len() == 1 { holders.first().copied() } else { None };
        let serves = |pid| owner.pid.or(only).is_none_or(|only| only == pid);
        let waiting = owner.waiting.iter().filter(|thread| serves(thread.pid));
        let mut tids: BTreeSet<u32> = waiting.map(|thread| thread.tid).collect();
        if tids.is_empty() || owner.pid.or(only).is_none() {
            let processes = owner.pid.map_or(holders, |pid| [pid].into());
            tids.extend(processes.into_iter().flat_map(|pid| self.of_process(pid)));
        }
        tids.into_iter().filter_map(|tid| self.affinity(tid)).collect()
    }

    fn of_process(&mut self, pid: u32) -> Vec<u32> {
        let read = || {
            let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
        };
        self.processes.entry(pid).or_insert_with(read).clone()
    }

    fn affinity(&mut self, tid: u32) -> Option<Affinity> {
        self.affinities.entry(tid).or_insert_with(|| cpus::affinity(tid)).clone()
    }
}
