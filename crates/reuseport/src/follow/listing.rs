//! The UDP sockets of the followed ports in the caller's network namespace, listed again and again by an iterator.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use sk_reuseport::programs::iter::IterLink;
use zerocopy::FromBytes as _;

use super::pace::pause;
use crate::kernel::cpus::time_of_thread;
use crate::kernel::observe::read_all;
use crate::wire::event::UdpMember;

/// What a listing is to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finds {
    /// Sockets that come and that leave.
    Changes,
    /// Sockets that leave: events tell of those that come.
    Leaving,
}

impl Finds {
    /// The pause between two listings, on a host with few UDP sockets.
    fn pause(self) -> Duration {
        Duration::from_millis(if self == Self::Changes { 50 } else { 200 })
    }
}

/// A port and a cookie.
type Socket = (u16, u64);

pub(super) struct Listing {
    link: IterLink,
    finds: Finds,
    next: Instant,
    /// The sockets of the last listing.
    last: BTreeSet<Socket>,
}

impl Listing {
    pub(super) fn new(link: IterLink, finds: Finds) -> Self {
        Self { link, finds, next: Instant::now(), last: BTreeSet::new() }
    }

    /// When to list them next.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Lists the sockets. Returns the ports whose sockets are others than at the last time.
    pub(super) fn changed(&mut self) -> io::Result<BTreeSet<u16>> {
        let began = time_of_thread();
        let now = self.sockets()?;
        let cost = time_of_thread().saturating_sub(began);
        self.next = Instant::now() + pause(self.finds.pause(), cost);
        let came = now.difference(&self.last).filter(|_| self.finds == Finds::Changes);
        let ports = came.chain(self.last.difference(&now)).map(|(port, _)| *port).collect();
        self.last = now;
        Ok(ports)
    }

    fn sockets(&self) -> io::Result<BTreeSet<Socket>> {
        let bytes = read_all(self.link.open().map_err(io::Error::other)?)?;
        let members = bytes.chunks_exact(size_of::<UdpMember>());
        let members = members.filter_map(|record| UdpMember::read_from_bytes(record).ok());
        Ok(members.map(|member| (member.port, member.cookie)).collect())
    }
}
