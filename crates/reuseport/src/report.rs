//! Load reports: what a worker says of itself.
//!
//! Queues tell what waits at a worker, not what it has taken. A server that is written in Rust, or
//! can call it, may say more: how many requests it has *in flight* (taken and not finished), and that
//! it is *busy* (it does not wait for events). Nobody has to: a member that says nothing is picked as
//! if there were no reports, and members that report and members that do not can be in one group.
//!
//! A [`Reporter`] has the group's reports in memory, which the program in the kernel reads when it
//! picks: saying something is a few loads and stores, and no system call.
//!
//! # What follows from it
//!
//! Under [`least-loaded`](crate::model::policy::LeastLoaded), and no other policy:
//!
//! - What is in flight counts as what waits does (UDP: as if it were as many of the smallest
//!   datagrams). It belongs to the term [`QUEUE`](crate::model::policy::LoadTerms::QUEUE), and counts also where
//!   queues cannot be read.
//! - A worker that has been busy for longer than [`stale_after`](crate::model::policy::LeastLoaded::stale_after)
//!   without waiting for events, or looking for them again, is *stale*: it hangs in something.
//!   It is picked only if there is no other member but such as hang or are full, too. The counter
//!   `stale` says how often one was looked at and put behind the others.
//!
//! The other policies know no load. `hash`, `source` and `payload` keep flows together, which a
//! worker that is late must not tear apart.
//!
//! # A loop of one's own
//!
//! ```no_run
//! use std::os::fd::AsFd;
//! use reuseport::report::Reporter;
//!
//! # struct Connection;
//! # fn wait_for_events(_: impl AsFd) -> std::io::Result<Vec<Connection>> { Ok(Vec::new()) }
//! # fn serve(_: &Connection) {}
//! fn worker(listener: &std::net::TcpListener) -> Result<(), Box<dyn std::error::Error>> {
//!     let reporter = Reporter::open(listener)?;
//!     loop {
//!         let ready = wait_for_events(listener)?; // epoll_wait, or mio's Poll::poll
//!         let _turn = reporter.turn(); // busy from here to the end of this round
//!         for connection in ready {
//!             reporter.started();
//!             serve(&connection);
//!             reporter.finished();
//!         }
//!     }
//! }
//! ```
//!
//! # tokio
//!
//! With a current-thread runtime for each listener, the runtime itself says when it goes to wait:
//!
//! ```
//! use reuseport::report::Reporter;
//!
//! fn runtime(reporter: &Reporter) -> std::io::Result<tokio::runtime::Runtime> {
//!     let (park, unpark) = (reporter.clone(), reporter.clone());
//!     tokio::runtime::Builder::new_current_thread()
//!         .on_thread_park(move || park.idle())
//!         .on_thread_unpark(move || unpark.busy())
//!         .build()
//! }
//! ```
//!
//! and a task keeps what [`request`](Reporter::request) gives it for as long as it has a request.
//! A runtime that never waits looks for events without parking now and then (`event_interval`), and does
//! not say so: it seems stale. Where that is usual, have a task call [`busy`](Reporter::busy) at
//! intervals of less than half of `stale_after`; it runs if the loop does.
//!
//! # Rights, processes and threads
//!
//! Opening takes the right to open what is pinned for the group: root's, or the user's who attached,
//! and before Linux 5.19 CAP_BPF. Speaking takes none: open the reporter before giving rights up. The
//! memory survives `fork`, so a master can open reporters for its workers, but not `exec`. After a fork
//! let one process keep the reporter, and `std::mem::forget` it in the other: where the last clone is
//! dropped, it takes back what was said.
//!
//! A reporter can be used from several threads. But "busy" is said by whoever spoke last, so it makes
//! sense for a worker with one loop; one with many says what is in flight, and leaves the rest.
//!
//! # A worker that goes, a slot that another one gets
//!
//! A reporter speaks for one member for as long as that one has its slot. Whatever is said later, or by a
//! worker that closed its socket and does not know it, counts for nobody:
//! [`is_current`](Reporter::is_current) tells. Another policy changes nothing, nor does attaching again
//! while the group is attached. After it was detached, open a new one.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::{getsockname, sockopt};
use rustix::time::{ClockId, clock_gettime};

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::reports::Entry;
use crate::model::id::Cookie;
use crate::pins::bpffs::Root;
use crate::pins::group::{self, GroupState};
use crate::wire::report::TIME_SHIFT;

/// Speaks for one member of a group: see the [module](self).
///
/// Clones speak for the same member; when the last one is dropped, nothing is said any more.
///
/// # Minimum kernel version
///
/// Linux 5.14, as for attaching.
///
/// # Example
///
/// ```no_run
/// use reuseport::report::Reporter;
/// use reuseport::{Attach, Balancer, Host};
/// use sk_reuseport::net::{Bind, loopback};
///
/// let listeners = Bind::new(loopback(false)).listeners(4)?;
/// let host = Host::open()?;
/// let group = host.find(&format!("tcp:{}", listeners[0].local_addr()?).parse()?)?;
/// Balancer::attach(&host, &group.key, &Attach::default())?;
///
/// let reporter = Reporter::open(&listeners[0])?;
/// reporter.in_flight(3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Reporter {
    voice: Arc<Voice>,
}

#[derive(Debug)]
struct Voice {
    entry: Entry,
    /// What is in flight. The memory that is shared follows it.
    in_flight: AtomicU32,
}

impl Reporter {
    /// For the group's member that this socket is. Takes back whatever was said for it before: by a worker
    /// that was killed, say, whose listener lives on in its master.
    ///
    /// A member that came after the group was attached has no slot until somebody attaches again, as
    /// [`Balancer::attach`](crate::Balancer::attach) and [`Watch`](crate::watch::Watch) do. Waits for
    /// changes that are under way.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if the socket has no slot in any group; [`ErrorKind::Invalid`] if it has
    /// one, but the user's own program decides there; [`ErrorKind::Denied`];
    /// [`ErrorKind::System`], also for what is no socket.
    pub fn open(member: impl AsFd) -> Result<Self> {
        let (cookie, port) = identify(&member).map_err(|error| {
            Error::new(ErrorKind::System, "cannot report a load").because(error)
        })?;
        let tried = format!("cannot report the load of socket {cookie}");
        let nowhere = || {
            Error::new(ErrorKind::NotFound, &tried)
                .because("it has no slot in any group")
                .with_hint("attach to its group; if that was done before it came, attach again")
        };
        let root = Root::existing()?.ok_or_else(nowhere)?;
        let _lock = root.lock_shared()?;
        let Some((GroupState { policy_maps, .. }, slot, record)) =
            group::with_member(&root, cookie, port)?
        else {
            return Err(nowhere());
        };
        let maps = policy_maps.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, &tried)
                .because("the user's own program decides there, and it knows no reports")
        })?;
        let entry = maps.reports.into_entry(slot, record.epoch);
        // A worker before this one may have ended without taking back what it said.
        entry.set_busy(0);
        entry.set_in_flight(0);
        Ok(Self { voice: Arc::new(Voice { entry, in_flight: AtomicU32::new(0) }) })
    }

    /// So many requests are in flight: taken and not finished.
    pub fn in_flight(&self, requests: u32) {
        self.voice.in_flight.store(requests, Ordering::SeqCst);
        self.voice.publish();
    }

    /// One more request is in flight.
    pub fn started(&self) {
        self.voice.change(|requests| requests.saturating_add(1));
    }

    /// One request less is in flight.
    pub fn finished(&self) {
        self.voice.change(|requests| requests.saturating_sub(1));
    }

    /// One more request is in flight, until what is returned is dropped.
    #[must_use = "it is in flight for as long as this lives"]
    pub fn request(&self) -> Request {
        self.started();
        Request { reporter: self.clone() }
    }

    /// The worker has events to handle, and has just looked for them. Say it again at each look.
    ///
    /// Besides the store this reads `CLOCK_MONOTONIC_COARSE`, which is no system call either (vDSO).
    /// That clock moves with the kernel's ticks, every 1 to 10 ms. In a time namespace with an offset of its
    /// own it is not the kernel's: do not call this there.
    #[doc(alias = "epoll_wait")]
    pub fn busy(&self) {
        self.voice.entry.set_busy(now());
    }

    /// The worker goes to wait for events.
    pub fn idle(&self) {
        self.voice.entry.set_busy(0);
    }

    /// [`busy`](Self::busy) until what is returned is dropped: one round of a loop.
    #[must_use = "it is busy for as long as this lives"]
    pub fn turn(&self) -> Turn<'_> {
        self.busy();
        Turn { reporter: self }
    }

    /// Whether what this says counts: false once the member has lost its slot, because somebody
    /// noticed that its socket had closed, or the group was detached. It does not come back then.
    pub fn is_current(&self) -> bool {
        self.voice.entry.is_current()
    }
}

impl Voice {
    fn change(&self, change: impl Fn(u32) -> u32) {
        let changed = |requests| Some(change(requests));
        // Never an error: there always is a new number.
        let _ = self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, changed);
        self.publish();
    }

    /// Says what the number is. Of threads that change it at once, whoever stores last has seen that
    /// the number is still the same afterwards, or it would store again.
    fn publish(&self) {
        loop {
            let requests = self.in_flight.load(Ordering::SeqCst);
            self.entry.set_in_flight(requests);
            if self.in_flight.load(Ordering::SeqCst) == requests {
                return;
            }
        }
    }
}

/// Nobody speaks for the member any more: as if nobody ever had.
impl Drop for Voice {
    fn drop(&mut self) {
        self.entry.set_busy(0);
        self.entry.set_in_flight(0);
    }
}

/// A request that is in flight until this is dropped.
#[derive(Debug)]
pub struct Request {
    reporter: Reporter,
}

impl Drop for Request {
    fn drop(&mut self) {
        self.reporter.finished();
    }
}

/// A round of a worker's loop, which ends when this is dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    reporter: &'a Reporter,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.reporter.idle();
    }
}

/// A socket's cookie and its port; 0 if it is of a kind that has none.
fn identify(socket: &impl AsFd) -> rustix::io::Result<(Cookie, u16)> {
    let cookie = Cookie::new(sockopt::socket_cookie(socket)?).ok_or(rustix::io::Errno::NOTSOCK)?;
    let address = std::net::SocketAddr::try_from(getsockname(socket)?);
    Ok((cookie, address.map_or(0, |address| address.port())))
}

/// The time as reports have it, in units of 2^16 ns: never 0.
fn now() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    // Neither is negative.
    let ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    (ns >> TIME_SHIFT).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reporters_go_to_any_thread_and_into_any_callback() {
        fn check<T: Send + Sync + 'static>() {}
        check::<Reporter>();
        check::<Request>();
    }

    #[test]
    fn what_is_no_socket_is_an_error_of_one_line() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = Reporter::open(&file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::System);
        assert!(error.report().to_string().starts_with("cannot report a load: "), "{error}");
    }
}
