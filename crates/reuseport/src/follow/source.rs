//! What tells a watcher that something changed: events for TCP, a look now and then for UDP.

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

/// How often to look whether somebody asked to stop: a signal may come before poll(2) waits.
const STOP_INTERVAL: Duration = Duration::from_millis(200);

/// How often to look for UDP sockets that came or went.
const UDP_INTERVAL: Duration = Duration::from_millis(50);

/// How often to look at UDP groups in other network namespaces, which takes a walk over the host.
const UDP_ELSEWHERE_INTERVAL: Duration = Duration::from_millis(150);

/// How often to look even if nothing seems to have changed: an event may have been lost, and what
/// failed may succeed now.
const REGULAR_INTERVAL: Duration = Duration::from_secs(2);

/// When to look again after a change.
const AGAIN_INTERVAL: Duration = Duration::from_millis(50);

/// Why a watcher should look at the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wake {
    /// These sockets began to listen.
    Came(Vec<Cookie>),
    /// A socket went, or something else changed, or it is time to look.
    Look,
    /// Somebody asked to stop.
    Stop,
}

/// The source of wake-ups for one port.
pub(crate) enum Events {
    Tcp(Box<TcpEvents>),
    Udp(UdpLook),
    /// UDP in another network namespace: no event, and nothing cheap to ask.
    Clock(Duration),
}

pub(crate) struct TcpEvents {
    ring: RingBuf<MapData>,
    /// Runs the program as long as it lives.
    _programs: Ebpf,
}

pub(crate) struct UdpLook {
    link: IterLink,
    last: Vec<u64>,
}

impl Events {
    /// Begins to notice what happens on the group's port.
    pub(crate) fn start(key: &GroupKey, own: Netns) -> Result<Self> {
        let tried = format!("cannot watch {key}");
        let start = || -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
            if key.protocol == Protocol::Udp && key.netns.cookie != own.cookie {
                return Ok(Self::Clock(UDP_ELSEWHERE_INTERVAL));
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
                    Ok(Self::Udp(UdpLook { link, last: Vec::new() }))
                }
            }
        };
        start().map_err(|error| caps::failed(&tried, error, caps::TRACING))
    }

    /// Waits until there is a reason to look at the group: at the latest, it is time to. That is
    /// soon if one should look `again`.
    pub(crate) fn wait(&mut self, stop: &Stop, again: bool) -> io::Result<Wake> {
        let end = Instant::now() + if again { AGAIN_INTERVAL } else { REGULAR_INTERVAL };
        match self {
            Self::Tcp(events) => events.wait(stop, end),
            Self::Udp(look) => look.wait(stop, end),
            Self::Clock(interval) => Ok(sleep(*interval, stop)),
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
                return Ok(Wake::Look);
            }
            let mut fds = [PollFd::new(&self.ring, PollFlags::IN)];
            match poll(&mut fds, Some(&timespec(left.min(STOP_INTERVAL)))) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes all events at once.
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
            (true, true) => Some(Wake::Look),
            (true, false) => None,
        }
    }
}

impl UdpLook {
    fn wait(&mut self, stop: &Stop, end: Instant) -> io::Result<Wake> {
        loop {
            if stop.is_set() {
                return Ok(Wake::Stop);
            }
            let now = self.look()?;
            if now != self.last || Instant::now() >= end {
                self.last = now;
                return Ok(Wake::Look);
            }
            sleep(UDP_INTERVAL, stop);
        }
    }

    /// The cookies of the port's sockets, in order.
    fn look(&self) -> io::Result<Vec<u64>> {
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

/// Sleeps, but not through a signal.
fn sleep(interval: Duration, stop: &Stop) -> Wake {
    // A signal that is handled ends poll(2) with EINTR, and that is all it is for here.
    let _ = poll(&mut [], Some(&timespec(interval)));
    if stop.is_set() { Wake::Stop } else { Wake::Look }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
