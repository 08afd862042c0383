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
}

impl Owner {
    /// The thread that waits, if exactly one was seen, of the owner where one is known.
    pub(crate) fn thread(&self) -> Option<u32> {
        let of_owner = |thread: &&Thread| self.pid.is_none_or(|pid| pid == thread.pid);
        let mut threads = self.waiting.iter().filter(of_owner);
        match (threads.next(), threads.next()) {
            (Some(thread), None) => Some(thread.tid),
            _ => None,
        }
    }
}

/// The CPUs that a thread may run on.
pub(crate) type Affinity = BTreeSet<u16>;

/// On which CPU a member is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OwnerCpu {
    /// The thread that waits for the socket may run on this CPU alone, or all threads that may be the one.
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

/// The CPU of the member that one of these threads serves; `None` without threads.
pub(crate) fn cpu(threads: &[Affinity]) -> Option<OwnerCpu> {
    let first = threads.first()?;
    if threads.iter().any(|other| other != first) {
        return Some(OwnerCpu::Unknown { threads: threads.len() });
    }
    let mut cpus = first.iter();
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
    fn the_cpu_is_known_where_the_threads_agree() {
        let on = |cpus: &[u16]| Affinity::from_iter(cpus.iter().copied());
        let (zero, one, both) = (on(&[0]), on(&[1]), on(&[0, 1]));
        assert_eq!(cpu(&[]), None);
        assert_eq!(cpu(std::slice::from_ref(&one)), Some(OwnerCpu::Bound(1)));
        assert_eq!(cpu(&[one.clone(), one.clone()]), Some(OwnerCpu::Bound(1)));
        assert_eq!(cpu(&[both.clone(), both.clone()]), Some(OwnerCpu::Free));
        assert_eq!(cpu(&[zero, one.clone()]), Some(OwnerCpu::Unknown { threads: 2 }));
        assert_eq!(cpu(&[one, both.clone(), both]), Some(OwnerCpu::Unknown { threads: 3 }));
    }
}
