//! Load reports from workers.
//!
//! A queue shows what waits at a worker, not what the worker has already accepted. A server that can call
//! this crate may also report how many requests are *in flight* (accepted and not finished), and that it
//! is *busy* (not waiting for events). Reports are optional: a member without one is picked as if there
//! were no reports, and a group may mix both kinds of members.
//!
//! A [`Reporter`] maps the group's reports into memory, where the kernel program reads them. A report is a
//! few loads and stores, and no system call.
//!
//! # Effect
//!
//! Only [`least-loaded`](crate::model::policy::LeastLoaded) reads reports:
//!
//! - Requests in flight count like waiting connections (UDP: like waiting datagrams of the smallest size).
//!   They belong to the term [`QUEUE`](crate::model::policy::LoadTerms::QUEUE), and count also where the
//!   program cannot read queues.
//! - A worker that has been busy for longer than
//!   [`stale_after`](crate::model::policy::LeastLoaded::stale_after) without checking for events is
//!   *stale*: it hangs. It is picked only if every other member is stale or full, too. The counter
//!   `stale` counts how often a stale member was compared and passed over.
//!
//! `hash`, `source` and `payload` keep flows together, and a slow worker is no reason to split them.
//!
//! # With your own event loop
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
//!         let _turn = reporter.turn(); // busy until the end of this round
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
//! With a current-thread runtime for each listener, the runtime's callbacks report when it waits:
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
//! A task keeps the value that [`request`](Reporter::request) returns until its request is finished. A
//! runtime that never waits polls for events without parking (`event_interval`) and calls neither
//! callback: it looks stale. If that is usual, let a task call [`busy`](Reporter::busy) at intervals of
//! less than half of `stale_after`; it runs only if the loop does.
//!
//! # Rights, processes and threads
//!
//! Opening takes the right to open the group's pins (root, or the user who attached), and before Linux
//! 5.19 CAP_BPF. Reporting takes none: open the reporter before the process gives up its rights. The
//! memory survives `fork`, so a master can open reporters for its workers, but not `exec`. After a fork
//! one process keeps the reporter, and the other calls `std::mem::forget` on it: dropping the last clone
//! clears the report.
//!
//! A reporter can be used from several threads. "Busy" has one value, that of the last call, and fits a
//! worker with one loop; a worker with several loops reports only requests in flight.
//!
//! # When the slot changes hands
//!
//! A reporter reports for one member, for as long as that member has its slot. Later reports, also those
//! of a worker that closed its socket, are ignored; [`is_current`](Reporter::is_current) tells. A change of
//! policy or a repeated attach changes nothing. After a detach, open a new reporter.

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
use crate::pins::place::Place;
use crate::wire::report::TIME_SHIFT;

/// Reports the load of one member of a group: see the [module](self).
///
/// Clones report for the same member; dropping the last one clears the report.
///
/// # Minimum kernel version
///
/// Linux 5.14, as for attaching.
///
/// # Example
///
/// ```no_run
/// use reuseport::net::Bind;
/// use reuseport::report::Reporter;
/// use reuseport::{Attach, Balancer, Host};
///
/// let listeners = Bind::new("127.0.0.1:0".parse()?).listeners(4)?;
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
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    entry: Entry,
    /// Requests in flight. The shared memory follows this number.
    in_flight: AtomicU32,
}

impl Reporter {
    /// Opens the report of the member that this socket is. Clears an earlier report, for example that of a
    /// killed worker whose listener the master still holds.
    ///
    /// A member that joined after the group was attached has no slot until
    /// [`Balancer::attach`](crate::Balancer::attach) is called again or a [`Watch`](crate::watch::Watch)
    /// enrols it. This call waits until no operation is running.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if the socket has no slot in any group; [`ErrorKind::Invalid`] if it has
    /// one, but the user's own program decides there; [`ErrorKind::Denied`];
    /// [`ErrorKind::System`], also for a descriptor that is not a socket.
    pub fn open(member: impl AsFd) -> Result<Self> {
        let (cookie, port) = identify(&member).map_err(|error| {
            Error::new(ErrorKind::System, "cannot report a load").because(error)
        })?;
        let failed = format!("cannot report the load of socket {cookie}");
        let nowhere = || {
            Error::new(ErrorKind::NotFound, &failed)
                .because("it has no slot in any group")
                .with_hint(
                    "attach to its group; if that was done before the socket joined, attach again",
                )
        };
        let root = Root::existing(&Place::default())?.ok_or_else(nowhere)?;
        let _lock = root.lock_shared()?;
        let Some((GroupState { policy_maps, .. }, slot, record)) =
            group::with_member(&root, cookie, port)?
        else {
            return Err(nowhere());
        };
        let maps = policy_maps.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, &failed)
                .because("the user's own program decides there, and it reads no reports")
        })?;
        let entry = maps.reports.into_entry(slot, record.epoch);
        // A killed worker leaves its report behind.
        entry.set_busy(0);
        entry.set_in_flight(0);
        Ok(Self { inner: Arc::new(Inner { entry, in_flight: AtomicU32::new(0) }) })
    }

    /// Reports the number of requests in flight: accepted and not finished.
    pub fn in_flight(&self, requests: u32) {
        self.inner.in_flight.store(requests, Ordering::SeqCst);
        self.inner.publish();
    }

    /// One more request is in flight.
    pub fn started(&self) {
        self.inner.change(|requests| requests.saturating_add(1));
    }

    /// One request fewer is in flight.
    pub fn finished(&self) {
        self.inner.change(|requests| requests.saturating_sub(1));
    }

    /// One more request is in flight until the returned value is dropped.
    #[must_use = "it is in flight for as long as this lives"]
    pub fn request(&self) -> Request {
        self.started();
        Request { reporter: self.clone() }
    }

    /// The worker has just checked for events and has some to handle. Call it after each check.
    ///
    /// Reads `CLOCK_MONOTONIC_COARSE`, which is no system call (vDSO) and has a resolution of one kernel
    /// tick, 1 to 10 ms. In a time namespace with an offset the clock differs from the kernel's: do not call
    /// this there.
    #[doc(alias = "epoll_wait")]
    pub fn busy(&self) {
        self.inner.entry.set_busy(now());
    }

    /// The worker is about to wait for events.
    pub fn idle(&self) {
        self.inner.entry.set_busy(0);
    }

    /// [`busy`](Self::busy) until the returned value is dropped: one round of a loop.
    #[must_use = "it is busy for as long as this lives"]
    pub fn turn(&self) -> Turn<'_> {
        self.busy();
        Turn { reporter: self }
    }

    /// Whether reports are still read. False for good once the member has lost its slot, because an
    /// operation found its socket closed or the group was detached.
    pub fn is_current(&self) -> bool {
        self.inner.entry.is_current()
    }
}

impl Inner {
    fn change(&self, change: impl Fn(u32) -> u32) {
        let changed = |requests| Some(change(requests));
        // Never an error: `changed` always returns a number.
        let _ = self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, changed);
        self.publish();
    }

    /// Writes the number into the shared memory. With several threads, the last one to write reads the
    /// number again afterwards, and writes again if it has changed.
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

/// Clears the report.
impl Drop for Inner {
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

/// A socket's cookie and its port, 0 if its address family has none.
fn identify(socket: &impl AsFd) -> rustix::io::Result<(Cookie, u16)> {
    let cookie = Cookie::new(sockopt::socket_cookie(socket)?).ok_or(rustix::io::Errno::NOTSOCK)?;
    let address = std::net::SocketAddr::try_from(getsockname(socket)?);
    Ok((cookie, address.map_or(0, |address| address.port())))
}

/// The time in the unit of reports, 2^16 ns; never 0.
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
    fn reporters_may_move_to_threads_and_callbacks() {
        fn check<T: Send + Sync + 'static>() {}
        check::<Reporter>();
        check::<Request>();
    }

    #[test]
    fn a_descriptor_that_is_no_socket_is_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = Reporter::open(&file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::System);
        assert!(error.report().to_string().starts_with("cannot report a load: "), "{error}");
    }
}
