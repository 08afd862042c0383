//! Who serves a member: the process whose epoll instance watches it, the thread that waits for it, and the CPU of
//! that thread. Values and computation, no I/O.

use std::collections::BTreeSet;

/// A thread and its process, as the caller's pid namespace numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Thread {
    pub(crate) pid: u32,
    pub(crate) tid: u32,
}

/// What the kernel shows of who serves a member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Owner {
    /// The process whose epoll instance watches it, if exactly one does.
    pub(crate) pid: Option<u32>,
    /// The threads that were seen waiting for it, in epoll_wait or at the socket itself.
    pub(crate) waiting: BTreeSet<Thread>,
    /// Whether others may have waited that were not seen.
    pub(crate) unseen: bool,
}

impl Owner {
    /// The thread that waits, if exactly one was seen, of the owner where one is known.
    pub(crate) fn thread(&self) -> Option<u32> {
        if self.unseen {
            return None;
        }
        let of_owner = |thread: &&Thread| self.pid.is_none_or(|pid| pid == thread.pid);
        let mut threads = self.waiting.iter().filter(of_owner);
        match (threads.next(), threads.next()) {
            (Some(thread), None) => Some(thread.tid),
            _ => None,
        }
    }
}

/// A thread that was seen in fewer looks than this may be one of several that serve the member in turn: the others
/// were at work.
const SEVERAL: usize = 3;

/// What looks at a member's owner showed, one after the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Looks {
    /// The owner of the first look, with the threads that were seen in all.
    pub(crate) owner: Owner,
    /// In how many looks exactly one thread waited.
    alone: usize,
}

impl Looks {
    pub(crate) fn first(owner: Owner) -> Self {
        Self { alone: owner.thread().is_some().into(), owner }
    }

    /// A look that did not see all who waited proves nothing.
    pub(crate) fn add(&mut self, look: Owner) {
        let look = Owner { pid: self.owner.pid, ..look };
        self.alone += usize::from(look.thread().is_some());
        self.owner.unseen &= look.unseen;
        self.owner.waiting.extend(look.waiting);
    }

    /// The only thread that was seen waiting, in several looks.
    pub(crate) fn only_thread(&self) -> Option<u32> {
        self.owner.thread().filter(|_| self.alone >= SEVERAL)
    }

    /// Whether more looks may tell which thread it is.
    pub(crate) fn are_open(&self) -> bool {
        let none = self.owner.waiting.is_empty() || self.owner.unseen;
        self.only_thread().is_none() && (none || self.owner.thread().is_some())
    }
}

/// The CPUs that a thread may run on.
pub(crate) type Affinity = BTreeSet<u16>;

/// On which CPU a member is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OwnerCpu {
    /// All threads that may serve the socket may run on this CPU alone, or the only one that was seen to wait for it,
    /// several times.
    Bound(u16),
    /// It may run on several CPUs.
    Free,
    /// These many threads may be the one that serves it, and they are bound to different CPUs.
    Unknown {
        /// Their number.
        threads: usize,
    },
}

impl OwnerCpu {
    /// The CPU, if it is exactly one.
    pub fn bound(self) -> Option<u16> {
        match self {
            Self::Bound(cpu) => Some(cpu),
            Self::Free | Self::Unknown { .. } => None,
        }
    }
}

/// The CPU of the member that one of the threads `all` serves, perhaps the `only` one that was seen; `None` without
/// threads.
pub(crate) fn cpu(all: &[Affinity], only: Option<&Affinity>) -> Option<OwnerCpu> {
    let first = all.first()?;
    let agree = all.iter().all(|other| other == first);
    let Some(affinity) = only.or(agree.then_some(first)) else {
        return Some(OwnerCpu::Unknown { threads: all.len() });
    };
    let mut cpus = affinity.iter();
    match (cpus.next(), cpus.next()) {
        (None, _) => None,
        (Some(cpu), None) => Some(OwnerCpu::Bound(*cpu)),
        _ => Some(OwnerCpu::Free),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_known_where_the_threads_agree_or_one_alone_was_seen() {
        let on = |cpus: &[u16]| Affinity::from_iter(cpus.iter().copied());
        let (zero, one, both) = (on(&[0]), on(&[1]), on(&[0, 1]));
        let agreed = |all: &[Affinity]| cpu(all, None);
        assert_eq!(agreed(&[]), None);
        assert_eq!(agreed(std::slice::from_ref(&one)), Some(OwnerCpu::Bound(1)));
        assert_eq!(agreed(&[one.clone(), one.clone()]), Some(OwnerCpu::Bound(1)));
        assert_eq!(agreed(&[both.clone(), both.clone()]), Some(OwnerCpu::Free));
        let apart = [zero, one.clone()];
        assert_eq!(agreed(&apart), Some(OwnerCpu::Unknown { threads: 2 }));
        assert_eq!(cpu(&apart, Some(&one)), Some(OwnerCpu::Bound(1)));
        assert_eq!(cpu(&apart, Some(&both)), Some(OwnerCpu::Free));
        assert_eq!(agreed(&[one, both.clone(), both]), Some(OwnerCpu::Unknown { threads: 3 }));
    }

    fn look(tids: &[u32], unseen: bool) -> Owner {
        let waiting = tids.iter().map(|tid| Thread { pid: 1, tid: *tid }).collect();
        Owner { pid: Some(1), waiting, unseen }
    }

    fn looks(all: &[Owner]) -> Looks {
        let mut looks = Looks::first(all[0].clone());
        all[1..].iter().for_each(|look| looks.add(look.clone()));
        looks
    }

    #[test]
    fn a_thread_that_is_seen_once_may_be_one_of_a_pool() {
        let (five, six, none) = (look(&[5], false), look(&[6], false), look(&[], false));
        let all = |looks: &Looks| (looks.only_thread(), looks.are_open());
        assert_eq!(all(&looks(std::slice::from_ref(&five))), (None, true));
        assert_eq!(all(&looks(&[none, five.clone(), five.clone()])), (None, true));
        assert_eq!(all(&looks(&[five.clone(), five.clone(), five.clone()])), (Some(5), false));
        let two = looks(&[five.clone(), five.clone(), five.clone(), six]);
        assert_eq!(all(&two), (None, false));
        // Those that were not seen may be others.
        let (part, alone) = (look(&[5], true), five);
        assert_eq!(part.thread(), None);
        assert_eq!(all(&looks(&[part.clone(), part.clone(), part.clone()])), (None, true));
        assert_eq!(all(&looks(&[part, alone.clone(), alone.clone(), alone])), (Some(5), false));
    }
}
