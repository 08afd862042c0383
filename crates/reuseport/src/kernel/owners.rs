//! The owners of a group's members, with their CPUs: those of the threads that wait for the sockets.
//!
//! A thread that waits is seen; one that is at work is on no list. Where it decides which of several threads waits,
//! a few looks follow one another.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::thread;
use std::time::Duration;

use super::cpus;
use super::observe::Observer;
use super::recognise::Recognised;
use crate::error::Result;
use crate::model::group::{Group, Member};
use crate::model::id::Cookie;
use crate::model::owner::{self, Affinity, Looks, Owner, OwnerCpu};

/// The most looks, and the time between them: a thread at work comes back to wait within a request or two.
const LOOKS: usize = 8;
const PAUSE: Duration = Duration::from_millis(2);

/// A member's owner, and on which CPU it serves the member.
#[derive(Debug, Clone, Default)]
pub(crate) struct Placed {
    pub(crate) owner: Owner,
    /// `None`: no thread is known.
    pub(crate) cpu: Option<OwnerCpu>,
}

/// The owners of the group's members, by cookie: in one look, or in several where the policy needs their CPUs.
///
/// # Errors
///
/// As for [`Observer::owners`].
pub(crate) fn of(observer: &Observer, group: &Group) -> Result<HashMap<Cookie, Placed>> {
    let program = group.attached_id().and_then(Recognised::of);
    let by_cpu = program.is_some_and(|program| program.places_on_cpus());
    look(observer, group, if by_cpu { LOOKS } else { 1 })
}

/// As [`of`], for members that are to be placed on CPUs.
pub(crate) fn to_place(observer: &Observer, group: &Group) -> Result<HashMap<Cookie, Placed>> {
    look(observer, group, LOOKS)
}

fn look(observer: &Observer, group: &Group, most: usize) -> Result<HashMap<Cookie, Placed>> {
    let mut threads = Threads::default();
    let mut looks: HashMap<Cookie, Looks> = (observer.owners(group)?.into_iter())
        .map(|(cookie, owner)| (cookie, Looks::first(owner)))
        .collect();
    let mut placed = place(group, &looks, &mut threads);
    for _ in 1..most {
        let open = |member: &&Member| {
            let Some(cookie) = member.cookie else { return false };
            let cpu = placed.get(&cookie).and_then(|placed| placed.cpu);
            matches!(cpu, Some(OwnerCpu::Unknown { .. }))
                && looks.get(&cookie).is_none_or(Looks::are_open)
        };
        let pids_of = |member: &Member| {
            let owner = looks.get(&member.cookie?)?.owner.pid;
            Some(owner.map_or_else(|| pids(member), |pid| [pid].into()))
        };
        let near: BTreeSet<u32> = (group.members.iter().filter(open))
            .flat_map(|member| pids_of(member).unwrap_or_else(|| pids(member)))
            .collect();
        if near.is_empty() {
            break;
        }
        thread::sleep(PAUSE);
        for (cookie, look) in observer.owners_near(group, &near)? {
            looks.entry(cookie).or_default().add(look);
        }
        placed = place(group, &looks, &mut threads);
    }
    Ok(placed)
}

fn place(
    group: &Group,
    looks: &HashMap<Cookie, Looks>,
    threads: &mut Threads,
) -> HashMap<Cookie, Placed> {
    let one = |member: &Member| {
        let cookie = member.cookie?;
        let looks = looks.get(&cookie).cloned().unwrap_or_default();
        let all = threads.of(member, &looks.owner);
        let only = looks.only_thread().and_then(|tid| threads.affinity(tid));
        let cpu = owner::cpu(&all, only.as_ref());
        Some((cookie, Placed { owner: looks.owner, cpu }))
    };
    group.members.iter().filter_map(one).collect()
}

/// The processes that hold a member.
fn pids(member: &Member) -> BTreeSet<u32> {
    member.holders.iter().map(|holder| holder.pid).collect()
}

/// The CPUs of threads, each asked for once.
#[derive(Default)]
struct Threads {
    affinities: HashMap<u32, Option<Affinity>>,
    /// The threads of processes.
    processes: HashMap<u32, Vec<u32>>,
}

impl Threads {
    /// The CPUs of the threads of which one serves the member: all of its owner, or else of every holder.
    fn of(&mut self, member: &Member, owner: &Owner) -> Vec<Affinity> {
        let processes = owner.pid.map_or_else(|| pids(member), |pid| [pid].into());
        let waiting = owner.waiting.iter().filter(|thread| processes.contains(&thread.pid));
        let mut tids: BTreeSet<u32> = waiting.map(|thread| thread.tid).collect();
        tids.extend(processes.iter().flat_map(|pid| self.of_process(*pid)));
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
