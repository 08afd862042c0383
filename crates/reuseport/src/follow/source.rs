//! Wakes a watcher when the sockets on a port change: events for TCP, polling for UDP.

use std::io::{self, Read as _};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sk_reuseport::maps::{MapData, MapError, RingBuf};
use sk_reuseport::programs::iter::IterLink;
use sk_reuseport::programs::{BtfTracePoint, Iter, ProgramError};
use sk_reuseport::{Ebpf, EbpfLoader, KernelBtf};
use zerocopy::FromBytes as _;

use crate::error::Result;
use crate::kernel::caps;
use crate::model::group::{GroupKey, Protocol};
use crate::model::id::{Cookie, Netns};
use crate::stop::Stop;
use crate::wire::event::Event;

const OBJECT: &[u8] = include_bytes!("../../bpf/watch.bpf.o");

/// How often to check for a request to stop: a signal may arrive just before poll(2) waits.
const STOP_INTERVAL: Duration = Duration::from_millis(200);

/// How often to list the port's UDP sockets.
const UDP_INTERVAL: Duration = Duration::from_millis(50);

/// How often to check UDP groups in other network namespaces, which takes a walk over the host.
const UDP_ELSEWHERE_INTERVAL: Duration = Duration::from_millis(150);

/// How often to check the group without an event: an event may have been lost, and a failed step may
/// succeed now.
const REGULAR_INTERVAL: Duration = Duration::from_secs(2);

/// When to check again after a change.
const AGAIN_INTERVAL: Duration = Duration::from_millis(50);

/// Why a watcher should check the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wake {
    /// These sockets started to listen.
    Came(Vec<Cookie>),
    /// A socket closed, another change happened, or the interval is over.
    Check,
    /// A stop was requested.
    Stop,
}

/// The events of one port.
pub(crate) enum Events {
    Tcp(Box<TcpEvents>),
    Udp(UdpPoll),
    /// UDP in another network namespace: there are no events and no cheap iterator.
    Interval(Duration),
}

pub(crate) struct TcpEvents {
    ring: RingBuf<MapData>,
    /// Keeps the program attached.
    _programs: Ebpf,
}

pub(crate) struct UdpPoll {
    link: IterLink,
    last: Vec<u64>,
}

impl Events {
    /// Starts to collect events of the group's port.
    pub(crate) fn start(key: &GroupKey, own: Netns) -> Result<Self> {
        let failed = format!("cannot watch {key}");
        let start = || -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
            if key.protocol == Protocol::Udp && key.netns.cookie != own.cookie {
                return Ok(Self::Interval(UDP_ELSEWHERE_INTERVAL));
            }
            let btf = KernelBtf::from_sys_fs()?;
            let mut programs = EbpfLoader::new()
                .kernel_btf(&btf)
                .override_global("PORT", &key.address.port(), true)
                .override_global("NETNS", &key.netns.cookie, true)
                .load(OBJECT)?;
            match key.protocol {
                Protocol::Tcp => Ok(Self::Tcp(Box::new(TcpEvents::start(programs, &btf)?))),
                Protocol::Udp => {
                    let program: &mut Iter = programs
                        .program_mut("udp_members")
                        .ok_or(ProgramError::NotLoaded)?
                        .try_into()?;
                    program.load("udp", &btf)?;
                    let id = program.attach()?;
                    let link = program.take_link(id)?;
                    Ok(Self::Udp(UdpPoll { link, last: Vec::new() }))
                }
            }
        };
        start().map_err(|error| caps::failed(&failed, error, caps::TRACING))
    }

    /// Waits until there is a reason to check the group, at most for the regular interval, or for a
    /// short one if `again` is set.
    pub(crate) fn wait(&mut self, stop: &Stop, again: bool) -> io::Result<Wake> {
        let end = Instant::now() + if again { AGAIN_INTERVAL } else { REGULAR_INTERVAL };
        match self {
            Self::Tcp(events) => events.wait(stop, end),
            Self::Udp(poll) => poll.wait(stop, end),
            Self::Interval(interval) => Ok(sleep(*interval, stop)),
        }
    }
}

impl TcpEvents {
    fn start(mut programs: Ebpf, btf: &KernelBtf) -> Result<Self, ProgramError> {
        let ring = programs.take_map("events").ok_or(MapError::KeyNotFound)?;
        let ring = RingBuf::try_from(ring)?;
        let program: &mut BtfTracePoint =
            programs.program_mut("on_listen").ok_or(ProgramError::NotLoaded)?.try_into()?;
        program.load("inet_sock_set_state", btf)?;
        program.attach()?;
        Ok(Self { ring, _programs: programs })
    }

    fn wait(&mut self, stop: &Stop, end: Instant) -> io::Result<Wake> {
        loop {
            if stop.is_set() {
                return Ok(Wake::Stop);
            }
            if let Some(wake) = self.take() {
                return Ok(wake);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Wake::Check);
            }
            let mut fds = [PollFd::new(&self.ring, PollFlags::IN)];
            match poll(&mut fds, Some(&timespec(left.min(STOP_INTERVAL)))) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads all events that are ready.
    fn take(&mut self) -> Option<Wake> {
        let (mut came, mut any) = (Vec::new(), false);
        while let Some(record) = self.ring.next() {
            let Ok((event, _)) = Event::ref_from_prefix(&record) else { continue };
            any = true;
            match Cookie::new(event.cookie) {
                Some(cookie) if event.listening == 1 => came.push(cookie),
                Some(cookie) => came.retain(|other| *other != cookie),
                None => {}
            }
        }
        match (came.is_empty(), any) {
            (false, _) => Some(Wake::Came(came)),
            (true, true) => Some(Wake::Check),
            (true, false) => None,
        }
    }
}

impl UdpPoll {
    fn wait(&mut self, stop: &Stop, end: Instant) -> io::Result<Wake> {
        loop {
            if stop.is_set() {
                return Ok(Wake::Stop);
            }
            let now = self.cookies()?;
            if now != self.last || Instant::now() >= end {
                self.last = now;
                return Ok(Wake::Check);
            }
            sleep(UDP_INTERVAL, stop);
        }
    }

    /// The cookies of the port's sockets, sorted.
    fn cookies(&self) -> io::Result<Vec<u64>> {
        let mut bytes = Vec::new();
        self.link.open().map_err(io::Error::other)?.read_to_end(&mut bytes)?;
        let mut cookies: Vec<u64> = bytes
            .chunks_exact(size_of::<u64>())
            .filter_map(|cookie| u64::read_from_bytes(cookie).ok())
            .collect();
        cookies.sort_unstable();
        Ok(cookies)
    }
}

/// Sleeps; a signal ends the sleep.
fn sleep(interval: Duration, stop: &Stop) -> Wake {
    // A handled signal ends poll(2) with EINTR.
    let _ = poll(&mut [], Some(&timespec(interval)));
    if stop.is_set() { Wake::Stop } else { Wake::Check }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
