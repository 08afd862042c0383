//! What tells a watcher of changes, one for all of its groups: a tracing program for TCP, programs of the root cgroup
//! for UDP, an iterator that is polled for what these do not tell, the directories of the pins, and a descriptor that
//! ends the wait.

mod pins;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sk_reuseport::maps::{Array, HashMap as BpfHashMap, MapData, MapError, RingBuf};
use sk_reuseport::programs::{BtfTracePoint, CgroupSock, Iter, Program, ProgramError};
use sk_reuseport::{Ebpf, EbpfLoader};
use zerocopy::FromBytes as _;

use self::pins::{Pins, Touched};
use super::follower::Event;
use super::listing::{Finds, Listing};
use super::pace::{REGULARLY, WITHOUT_EVENTS};
use super::seen::Port;
use crate::error::Result;
use crate::kernel::types::types;
use crate::kernel::{caps, cgroup};
use crate::model::group::{GroupKey, Protocol};
use crate::model::id::{Cookie, Netns};
use crate::pins::directory::directory_name;
use crate::pins::place::Place;
use crate::stop::Stop;
use crate::wire::config::{protocol, protocol_number};
use crate::wire::event::{BUSY, CAME, Event as RawEvent, RawPort, WENT};

/// The programs that tell of changes, and their ring buffer.
pub(crate) const OBJECT: &[u8] = include_bytes!("../../bpf/watch.bpf.o");

/// How often to check for a request to stop that wakes nothing.
const STOP_INTERVAL: Duration = Duration::from_millis(200);

/// What runs after a bind, of IPv4 and of IPv6 sockets.
pub(crate) const BINDS: [&str; 2] = ["bound4", "bound6"];

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// The events of any number of ports.
pub(crate) struct Source {
    /// The namespace whose UDP sockets the iterator lists.
    own: Netns,
    /// Keeps the programs attached.
    programs: Ebpf,
    ports: BpfHashMap<MapData, RawPort, u64>,
    lost: Array<MapData, u64>,
    /// How many events were lost when that was last read.
    known_lost: u64,
    /// From the first port on for which a program runs.
    events: Option<RingBuf<MapData>>,
    traces_listeners: bool,
    /// Whether events tell of UDP sockets that are bound; `None` before the first UDP port.
    traces_binds: Option<bool>,
    /// From the first UDP port on.
    listing: Option<Listing>,
    /// The UDP ports that are followed: without one, there is nothing to list.
    udp_ports: HashSet<Port>,
    /// What tells of other processes' operations; `None` before the first group, and where nothing does.
    pins: Option<Pins>,
    /// The ports of the groups that are followed, by the names of their directories.
    directories: HashMap<String, Port>,
}

impl Source {
    /// Loads the programs. `own`: the caller's network namespace.
    ///
    /// # Errors
    ///
    /// If the caller lacks the rights.
    pub(crate) fn open(own: Netns) -> Result<Self> {
        let open = || -> Result<Self, AnyError> {
            let btf = types()?;
            let mut programs = EbpfLoader::new().kernel_btf(btf).load(OBJECT)?;
            let mut take = |name| programs.take_map(name).ok_or(MapError::KeyNotFound);
            let (ports, lost) = (take("ports")?.try_into()?, take("lost")?.try_into()?);
            Ok(Self {
                own,
                programs,
                ports,
                lost,
                known_lost: 0,
                events: None,
                traces_listeners: false,
                traces_binds: None,
                listing: None,
                udp_ports: HashSet::new(),
                pins: None,
                directories: HashMap::new(),
            })
        };
        open().map_err(|error| caps::failed_own("cannot watch groups", error, caps::TRACING))
    }

    /// Collects events of the port from now on.
    ///
    /// # Errors
    ///
    /// If a program cannot be attached.
    pub(crate) fn add(&mut self, port: Port) -> Result<()> {
        let mut add = || -> Result<(), AnyError> {
            self.ports.insert(raw(port), 0, 0)?;
            match port.protocol {
                Protocol::Tcp => self.trace_listeners(),
                Protocol::Udp => self.follow_udp(port),
            }
        };
        let failed = format!("cannot watch {} port {}", port.protocol, port.port);
        add().map_err(|error| caps::failed_own(&failed, error, caps::TRACING))
    }

    /// Collects no more events of a port.
    pub(crate) fn remove(&mut self, port: Port) {
        self.udp_ports.remove(&port);
        if let Err(error) = self.ports.remove(&raw(port)) {
            tracing::debug!("cannot unwatch {port:?}: {error}");
        }
    }

    /// Collects what other processes do to what is pinned for a group. Returns whether events then tell of all that
    /// concerns it.
    pub(crate) fn add_pins(&mut self, place: &Place, key: &GroupKey) -> bool {
        self.directories.insert(directory_name(key), Port::of(key));
        let followed = self.follow_pins(place);
        if let Err(error) = &followed {
            tracing::debug!("no event tells of other processes' operations: {error}");
        }
        followed.is_ok() && key.protocol == Protocol::Tcp
    }

    fn follow_pins(&mut self, place: &Place) -> io::Result<()> {
        let pins = match self.pins.take() {
            Some(pins) => pins,
            None => Pins::open()?,
        };
        self.pins.insert(pins).follow(place)
    }

    /// Collects no more of what happens to a group.
    pub(crate) fn remove_pins(&mut self, key: &GroupKey) {
        self.directories.remove(&directory_name(key));
    }

    /// How often a group on the port has to be looked at without an event.
    pub(crate) fn interval(&self, port: Port) -> Duration {
        match port.protocol {
            Protocol::Udp if !self.is_own(port) && self.traces_binds != Some(true) => {
                WITHOUT_EVENTS
            }
            _ => REGULARLY,
        }
    }

    fn is_own(&self, port: Port) -> bool {
        port.netns == self.own.cookie
    }

    /// A port on which sockets of groups may come that are not there yet: in all network namespaces, as far as
    /// events tell.
    pub(crate) fn expected_port(&self, protocol: Protocol, port: u16) -> Port {
        let netns = match protocol {
            Protocol::Tcp => Port::ANYWHERE,
            Protocol::Udp => self.own.cookie,
        };
        Port { protocol, netns, port }
    }

    fn open_events(&mut self) -> Result<(), AnyError> {
        if self.events.is_none() {
            let ring = self.programs.take_map("events").ok_or(MapError::KeyNotFound)?;
            self.events = Some(RingBuf::try_from(ring)?);
        }
        Ok(())
    }

    fn trace_listeners(&mut self) -> Result<(), AnyError> {
        if !self.traces_listeners {
            self.open_events()?;
            let program: &mut BtfTracePoint =
                program(&mut self.programs, "on_state")?.try_into()?;
            program.load("inet_sock_set_state", types()?)?;
            program.attach()?;
            self.traces_listeners = true;
        }
        Ok(())
    }

    fn follow_udp(&mut self, port: Port) -> Result<(), AnyError> {
        if self.traces_binds.is_none() {
            self.traces_binds = Some(self.try_to_trace_binds());
        }
        if self.is_own(port) {
            if self.listing.is_none() {
                self.list_udp()?;
            }
            self.udp_ports.insert(port);
        }
        Ok(())
    }

    /// Returns whether it succeeded: without, UDP groups are looked at more often.
    fn try_to_trace_binds(&mut self) -> bool {
        let Err(error) = self.trace_binds() else { return true };
        let failed = "no event tells of UDP sockets that are bound";
        tracing::debug!("{}", caps::failed(failed, error, caps::CGROUPS).report());
        for name in BINDS {
            // It may be the other one that failed.
            let _ = program(&mut self.programs, name).and_then(Program::unload);
        }
        false
    }

    fn trace_binds(&mut self) -> Result<(), AnyError> {
        let root = cgroup::root()?;
        self.open_events()?;
        for name in BINDS {
            let program: &mut CgroupSock = program(&mut self.programs, name)?.try_into()?;
            program.load()?;
            program.attach(&root)?;
        }
        Ok(())
    }

    fn list_udp(&mut self) -> Result<(), AnyError> {
        let program: &mut Iter = program(&mut self.programs, "udp_members")?.try_into()?;
        program.load("udp", types()?)?;
        let id = program.attach()?;
        let link = program.take_link(id)?;
        let finds = if self.traces_binds == Some(true) { Finds::Leaving } else { Finds::Changes };
        self.listing = Some(Listing::new(link, finds));
        Ok(())
    }

    /// Waits for events, at most until the deadline, or until `interrupt` is readable. Returns also whether it is.
    ///
    /// # Errors
    ///
    /// If waiting or listing fails.
    pub(crate) fn wait(
        &mut self,
        stop: &Stop,
        deadline: Option<Instant>,
        interrupt: Option<BorrowedFd<'_>>,
    ) -> io::Result<(Vec<Event>, bool)> {
        let waker = stop.waker()?;
        let mut is_interrupted = false;
        loop {
            if stop.is_set() {
                return Ok((vec![Event::Stop], is_interrupted));
            }
            let events = self.take()?;
            let now = Instant::now();
            let polled = self.polled().map(|listing| listing.next());
            let lent = stop.is_lent().then(|| now + STOP_INTERVAL);
            let is_over = deadline.is_some_and(|deadline| deadline <= now);
            if !events.is_empty() || is_over || is_interrupted {
                return Ok((events, is_interrupted));
            }
            let end = [deadline, polled, lent].into_iter().flatten().min();
            let left = end.map(|end| timespec(end.saturating_duration_since(now)));
            let waker = PollFd::from_borrowed_fd(waker, PollFlags::IN);
            let ring = self.events.as_ref().map(|ring| PollFd::new(ring, PollFlags::IN));
            let pins = self.pins.as_ref().map(|pins| PollFd::new(pins, PollFlags::IN));
            let first = interrupt.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            let mut fds: Vec<PollFd<'_>> =
                first.into_iter().chain([waker]).chain(ring).chain(pins).collect();
            match poll(&mut fds, left.as_ref()) {
                // A handled signal ends it: perhaps the request to stop.
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            is_interrupted = interrupt.is_some() && !fds[0].revents().is_empty();
        }
    }

    fn polled(&mut self) -> Option<&mut Listing> {
        self.listing.as_mut().filter(|_| !self.udp_ports.is_empty())
    }

    /// All events that are ready.
    fn take(&mut self) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        while let Some(record) = self.events.as_mut().and_then(RingBuf::next) {
            if let Ok((raw, _)) = RawEvent::ref_from_prefix(&record) {
                events.extend(event(raw));
            }
        }
        let lost = self.lost.get(&0, 0).map_err(io::Error::other)?;
        if std::mem::replace(&mut self.known_lost, lost) != lost {
            events.push(Event::Anything);
        }
        for touched in self.pins.as_ref().map_or(Ok(Vec::new()), Pins::take)? {
            match touched {
                Touched::Group(name) => {
                    let port = self.directories.get(&name);
                    events.extend(port.map(|port| Event::Changed { port: *port }));
                }
                Touched::All => events.push(Event::Anything),
            }
        }
        let netns = self.own.cookie;
        if let Some(listing) = self.polled().filter(|listing| listing.next() <= Instant::now()) {
            let changed = listing.changed()?;
            let port = |port| Port { protocol: Protocol::Udp, netns, port };
            events.extend(changed.into_iter().map(|number| Event::Changed { port: port(number) }));
        }
        Ok(events)
    }
}

/// A program of the object.
fn program<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, ProgramError> {
    programs.program_mut(name).ok_or(ProgramError::NotLoaded)
}

fn event(raw: &RawEvent) -> Option<Event> {
    let protocol = protocol(raw.protocol)?;
    let port = Port { protocol, netns: raw.netns, port: raw.port };
    let cookie = Cookie::new(raw.cookie);
    match raw.happened {
        CAME => Some(Event::Came { port, cookie: cookie?, process: raw.process }),
        WENT => Some(Event::Went { port, cookie: cookie? }),
        BUSY => Some(Event::Busy { port }),
        _ => None,
    }
}

fn raw(port: Port) -> RawPort {
    let protocol = protocol_number(port.protocol).into();
    RawPort { netns: port.netns, number: port.port, protocol, reserved: 0 }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests;
