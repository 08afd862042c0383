//! What tells a watcher of changes, one for all of its groups: a tracing program for TCP, an iterator that is
//! polled for UDP, and a descriptor that ends the wait.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sk_reuseport::maps::{HashMap as BpfHashMap, MapData, MapError, RingBuf};
use sk_reuseport::programs::iter::IterLink;
use sk_reuseport::programs::{BtfTracePoint, Iter, ProgramError};
use sk_reuseport::{Ebpf, EbpfLoader, KernelBtf};
use zerocopy::FromBytes as _;

use super::follower::{Event, REGULARLY, WITHOUT_EVENTS};
use super::seen::Port;
use crate::error::Result;
use crate::kernel::caps;
use crate::kernel::observe::read_all;
use crate::model::group::Protocol;
use crate::model::id::{Cookie, Netns};
use crate::stop::Stop;
use crate::wire::config::protocol_number;
use crate::wire::event::{Event as RawEvent, RawPort, UdpMember};

const OBJECT: &[u8] = include_bytes!("../../bpf/watch.bpf.o");

/// How often to check for a request to stop that wakes nothing.
const STOP_INTERVAL: Duration = Duration::from_millis(200);

/// How often to list the UDP sockets of the followed ports.
const UDP_INTERVAL: Duration = Duration::from_millis(50);

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// The events of any number of ports.
pub(crate) struct Source {
    /// The namespace whose UDP sockets the iterator lists.
    own: Netns,
    /// Keeps the programs attached.
    programs: Ebpf,
    ports: BpfHashMap<MapData, RawPort, u8>,
    /// From the first TCP port on.
    listeners: Option<RingBuf<MapData>>,
    /// From the first UDP port on.
    udp: Option<UdpPoll>,
    /// The UDP ports that are followed: without one, there is nothing to list.
    udp_ports: HashSet<Port>,
}

struct UdpPoll {
    link: IterLink,
    next: Instant,
    /// The sockets by port, at the last look.
    last: HashMap<u16, BTreeSet<u64>>,
}

impl Source {
    /// Loads the programs. `own`: the caller's network namespace.
    ///
    /// # Errors
    ///
    /// If the caller lacks the rights.
    pub(crate) fn open(own: Netns) -> Result<Self> {
        let open = || -> Result<Self, AnyError> {
            let btf = KernelBtf::from_sys_fs()?;
            let mut programs = EbpfLoader::new().kernel_btf(&btf).load(OBJECT)?;
            let ports = programs.take_map("ports").ok_or(MapError::KeyNotFound)?.try_into()?;
            Ok(Self { own, programs, ports, listeners: None, udp: None, udp_ports: HashSet::new() })
        };
        open().map_err(|error| caps::failed("cannot watch groups", error, caps::TRACING))
    }

    /// Collects events of the port from now on.
    ///
    /// # Errors
    ///
    /// If a program cannot be attached.
    pub(crate) fn add(&mut self, port: Port) -> Result<()> {
        let mut add = || -> Result<(), AnyError> {
            self.ports.insert(raw(port), 1, 0)?;
            match port.protocol {
                Protocol::Tcp if self.listeners.is_none() => self.trace_listeners()?,
                Protocol::Udp if self.is_own(port) => {
                    if self.udp.is_none() {
                        self.list_udp()?;
                    }
                    self.udp_ports.insert(port);
                }
                _ => {}
            }
            Ok(())
        };
        let failed = format!("cannot watch {} port {}", port.protocol, port.port);
        add().map_err(|error| caps::failed(&failed, error, caps::TRACING))
    }

    /// Collects no more events of a port.
    pub(crate) fn remove(&mut self, port: Port) {
        self.udp_ports.remove(&port);
        if let Err(error) = self.ports.remove(&raw(port)) {
            tracing::debug!("cannot unwatch {port:?}: {error}");
        }
    }

    /// How often a group on the port has to be looked at without an event.
    pub(crate) fn interval(&self, port: Port) -> Duration {
        match port.protocol {
            Protocol::Udp if !self.is_own(port) => WITHOUT_EVENTS,
            _ => REGULARLY,
        }
    }

    fn is_own(&self, port: Port) -> bool {
        port.netns == self.own.cookie
    }

    /// A port in the caller's network namespace.
    pub(crate) fn own_port(&self, protocol: Protocol, port: u16) -> Port {
        Port { protocol, netns: self.own.cookie, port }
    }

    fn trace_listeners(&mut self) -> Result<(), AnyError> {
        let ring = self.programs.take_map("events").ok_or(MapError::KeyNotFound)?;
        let ring = RingBuf::try_from(ring)?;
        let program = self.programs.program_mut("on_listen").ok_or(ProgramError::NotLoaded)?;
        let program: &mut BtfTracePoint = program.try_into()?;
        program.load("inet_sock_set_state", &KernelBtf::from_sys_fs()?)?;
        program.attach()?;
        self.listeners = Some(ring);
        Ok(())
    }

    fn list_udp(&mut self) -> Result<(), AnyError> {
        let program = self.programs.program_mut("udp_members").ok_or(ProgramError::NotLoaded)?;
        let program: &mut Iter = program.try_into()?;
        program.load("udp", &KernelBtf::from_sys_fs()?)?;
        let id = program.attach()?;
        let link = program.take_link(id)?;
        self.udp = Some(UdpPoll { link, next: Instant::now(), last: HashMap::new() });
        Ok(())
    }

    /// Waits for events, at most until the deadline.
    ///
    /// # Errors
    ///
    /// If waiting or listing fails.
    pub(crate) fn wait(
        &mut self,
        stop: &Stop,
        deadline: Option<Instant>,
    ) -> io::Result<Vec<Event>> {
        let waker = stop.waker()?;
        loop {
            if stop.is_set() {
                return Ok(vec![Event::Stop]);
            }
            let events = self.take()?;
            let now = Instant::now();
            let polled = self.polled().map(|udp| udp.next);
            let lent = stop.is_lent().then(|| now + STOP_INTERVAL);
            if !events.is_empty() || deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(events);
            }
            let end = [deadline, polled, lent].into_iter().flatten().min();
            let left = end.map(|end| timespec(end.saturating_duration_since(now)));
            let waker = PollFd::from_borrowed_fd(waker, PollFlags::IN);
            let ring = self.listeners.as_ref().map(|ring| PollFd::new(ring, PollFlags::IN));
            let mut fds: Vec<PollFd<'_>> = [waker].into_iter().chain(ring).collect();
            match poll(&mut fds, left.as_ref()) {
                // A handled signal ends it: perhaps the request to stop.
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn polled(&mut self) -> Option<&mut UdpPoll> {
        self.udp.as_mut().filter(|_| !self.udp_ports.is_empty())
    }

    /// All events that are ready.
    fn take(&mut self) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        while let Some(record) = self.listeners.as_mut().and_then(RingBuf::next) {
            if let Ok((raw, _)) = RawEvent::ref_from_prefix(&record) {
                events.extend(listener(raw));
            }
        }
        let netns = self.own.cookie;
        if let Some(udp) = self.polled().filter(|udp| udp.next <= Instant::now()) {
            let changed = udp.changed()?;
            let port = |port| Port { protocol: Protocol::Udp, netns, port };
            events.extend(changed.into_iter().map(|number| Event::Changed { port: port(number) }));
        }
        Ok(events)
    }
}

impl UdpPoll {
    /// The ports whose sockets are others than at the last look.
    fn changed(&mut self) -> io::Result<BTreeSet<u16>> {
        self.next = Instant::now() + UDP_INTERVAL;
        let now = self.sockets()?;
        let ports = now.keys().chain(self.last.keys()).copied();
        let changed = ports.filter(|port| now.get(port) != self.last.get(port)).collect();
        self.last = now;
        Ok(changed)
    }

    fn sockets(&self) -> io::Result<HashMap<u16, BTreeSet<u64>>> {
        let bytes = read_all(self.link.open().map_err(io::Error::other)?)?;
        let mut sockets: HashMap<u16, BTreeSet<u64>> = HashMap::new();
        for record in bytes.chunks_exact(size_of::<UdpMember>()) {
            if let Ok(member) = UdpMember::read_from_bytes(record) {
                sockets.entry(member.port).or_default().insert(member.cookie);
            }
        }
        Ok(sockets)
    }
}

fn listener(raw: &RawEvent) -> Option<Event> {
    let port = Port { protocol: Protocol::Tcp, netns: raw.netns, port: raw.port };
    let cookie = Cookie::new(raw.cookie)?;
    Some(match raw.listening {
        1 => Event::Came { port, cookie, process: raw.process },
        _ => Event::Went { port, cookie },
    })
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
