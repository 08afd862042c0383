//! Sends requests at their scheduled times, whether or not those before are answered, and measures
//! from the scheduled time: if it is late itself, that counts as waiting, and how late it was is
//! recorded.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, recv, send,
    socket_with, sockopt,
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use super::dialect::Dialect;
use super::schedule::{Arrival, Schedule};

/// So few at once, that arrivals do not wait for answers.
const EVENTS: usize = 64;
const TIMER: u64 = u64::MAX;
/// Received at once.
const BUFFER: usize = 64 * 1024;
/// Between two looks at how many connections each worker has.
const SAMPLE: Duration = Duration::from_millis(10);

/// What became of a schedule's requests.
#[derive(Debug)]
pub(super) struct Observed {
    /// Microseconds from scheduled to answered, and of those that were never answered until the end.
    pub(super) latency: Histogram<u64>,
    /// Microseconds from scheduled to sent.
    pub(super) lag: Histogram<u64>,
    /// Answered in the schedule's time.
    pub(super) in_time: u64,
    /// Not answered until the end.
    pub(super) unanswered: u64,
    /// Refused: the connection was reset or closed instead.
    pub(super) reset: u64,
    /// Connections that were made.
    pub(super) connections: u64,
    /// Standard deviation over workers of their open connections, on average over time.
    pub(super) deviation: f64,
}

/// A histogram of microseconds, up to ten minutes.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("these bounds are valid")
}

/// Asks `target`, which has so many workers, for what is scheduled. Returns when all is answered, but
/// not later than `patience` after the schedule's end.
pub(super) fn drive(
    target: SocketAddr,
    workers: u8,
    dialect: Dialect,
    schedule: &Schedule,
    patience: Duration,
) -> Result<Observed> {
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let mut generator = Generator::new(target, workers, dialect, schedule)?;
    generator.run(patience)?;
    Ok(generator.observed())
}

struct Generator<'a> {
    target: SocketAddr,
    dialect: Dialect,
    schedule: &'a Schedule,
    epoll: OwnedFd,
    timer: OwnedFd,
    start: Instant,
    clients: Vec<Option<Client>>,
    buffer: Vec<u8>,
    /// Requests under way.
    outstanding: usize,
    /// Connections by worker.
    open: Vec<u32>,
    deviations: Vec<f64>,
    seen: Observed,
}

struct Client {
    stream: OwnedFd,
    to_send: Vec<u8>,
    /// When requests were scheduled that wait for an answer.
    pending: VecDeque<Duration>,
    received: Vec<u8>,
    worker: Option<u8>,
    /// No request will follow.
    last: bool,
}

impl<'a> Generator<'a> {
    fn new(
        target: SocketAddr,
        workers: u8,
        dialect: Dialect,
        schedule: &'a Schedule,
    ) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), edge)?;
        Ok(Self {
            target,
            dialect,
            schedule,
            epoll,
            timer,
            start: Instant::now(),
            clients: (0..schedule.connections).map(|_| None).collect(),
            buffer: Vec::with_capacity(BUFFER),
            outstanding: 0,
            open: vec![0; workers.into()],
            deviations: Vec::new(),
            seen: Observed {
                latency: histogram(),
                lag: histogram(),
                in_time: 0,
                unanswered: 0,
                reset: 0,
                connections: 0,
                deviation: 0.0,
            },
        })
    }

    fn run(&mut self, patience: Duration) -> Result<()> {
        let arrivals = &self.schedule.arrivals;
        let end = self.schedule.length + patience;
        let mut next = 0;
        let mut sample = self.schedule.settled;
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let mut now = self.start.elapsed();
            while let Some(arrival) = arrivals.get(next).filter(|arrival| arrival.at <= now) {
                self.seen.lag.saturating_record((now - arrival.at).as_micros() as u64);
                self.ask(arrival)?;
                next += 1;
                now = self.start.elapsed();
            }
            if now >= sample && now < self.schedule.length {
                self.deviations.push(deviation(&self.open));
                sample = now + SAMPLE;
            }
            if next == arrivals.len() && self.outstanding == 0 || now >= end {
                return Ok(());
            }
            self.wake_in(arrivals.get(next).map_or(end, |arrival| arrival.at).saturating_sub(now))?;
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).context("cannot wait for answers"),
            }
            for event in events.iter().filter(|event| event.data.u64() != TIMER) {
                self.progress(event.data.u64() as usize);
            }
        }
    }

    fn wake_in(&self, time: Duration) -> Result<()> {
        // Zero would disarm it.
        let time = time.max(Duration::from_nanos(1));
        let it_value =
            Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec { it_interval, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    fn ask(&mut self, arrival: &Arrival) -> Result<()> {
        let key = arrival.connection as usize;
        if self.clients[key].is_none() {
            let stream = connecting(self.target, arrival.source).context("cannot connect")?;
            let both = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(key as u64), both)?;
            self.seen.connections += 1;
            self.clients[key] = Some(Client {
                stream,
                to_send: Vec::new(),
                pending: VecDeque::new(),
                received: Vec::new(),
                worker: None,
                last: false,
            });
        }
        if let Some(client) = &mut self.clients[key] {
            client.to_send.extend(self.dialect.request(arrival));
            client.pending.push_back(arrival.at);
            client.last = arrival.last;
            self.outstanding += 1;
            // It fails if the connection is lost; reading, which an event tells us to, then does, too.
            let _ = client.flush();
        }
        Ok(())
    }

    /// Something happened on a connection.
    fn progress(&mut self, key: usize) {
        let Some(client) = &mut self.clients[key] else { return };
        let (mut lost, mut end) = (client.flush().is_err(), false);
        while !lost && !end {
            self.buffer.clear();
            match recv(&client.stream, spare_capacity(&mut self.buffer), RecvFlags::empty()) {
                Ok((0, _)) => end = true,
                Ok(_) => client.received.extend(&self.buffer),
                // Not connected yet: there was no answer to the SYN.
                Err(Errno::AGAIN | Errno::NOTCONN) => break,
                Err(Errno::INTR) => {}
                Err(_) => lost = true,
            }
        }
        let read = self.dialect.read(&mut client.received, end);
        let now = self.start.elapsed();
        for _ in 0..read.answers {
            let Some(scheduled) = client.pending.pop_front() else { break };
            self.outstanding -= 1;
            self.seen.latency.saturating_record((now - scheduled).as_micros() as u64);
            self.seen.in_time += u64::from(now <= self.schedule.length);
        }
        if client.worker.is_none()
            && let Some(worker) = read.worker
            && let Some(open) = self.open.get_mut(usize::from(worker))
        {
            client.worker = read.worker;
            *open += 1;
        }
        let done = client.last && client.pending.is_empty();
        if lost || end || done || read.nonsense {
            self.close(key);
        }
    }

    fn close(&mut self, key: usize) {
        let Some(client) = self.clients[key].take() else { return };
        self.outstanding -= client.pending.len();
        self.seen.reset += client.pending.len() as u64;
        if let Some(worker) = client.worker {
            self.open[usize::from(worker)] -= 1;
        }
    }

    /// Enters what was never answered with how long it has waited.
    fn observed(mut self) -> Observed {
        let now = self.start.elapsed();
        for scheduled in self.clients.iter().flatten().flat_map(|client| &client.pending) {
            self.seen.latency.saturating_record((now - *scheduled).as_micros() as u64);
            self.seen.unanswered += 1;
        }
        let samples = self.deviations.len().max(1) as f64;
        self.seen.deviation = self.deviations.iter().sum::<f64>() / samples;
        self.seen
    }
}

impl Client {
    fn flush(&mut self) -> rustix::io::Result<()> {
        while !self.to_send.is_empty() {
            match send(&self.stream, &self.to_send, SendFlags::NOSIGNAL) {
                Ok(sent) => drop(self.to_send.drain(..sent)),
                Err(Errno::AGAIN | Errno::NOTCONN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

/// A connection on its way. It leaves nothing in TIME_WAIT: closing resets it.
fn connecting(target: SocketAddr, source: u16) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let stream = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    sockopt::set_tcp_nodelay(&stream, true)?;
    bind(&stream, &SocketAddr::new(address(source), 0))?;
    match connect(&stream, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(stream),
        Err(errno) => Err(errno.into()),
    }
}

/// One of many that are all this machine's.
fn address(source: u16) -> IpAddr {
    let [high, low] = source.to_be_bytes();
    Ipv4Addr::new(127, 1, high, low).into()
}

fn deviation(open: &[u32]) -> f64 {
    let count = open.len().max(1) as f64;
    let mean = open.iter().map(|open| f64::from(*open)).sum::<f64>() / count;
    let squares = open.iter().map(|open| (f64::from(*open) - mean).powi(2)).sum::<f64>();
    (squares / count).sqrt()
}

/// Refuses a measurement in which requests are missing.
impl Observed {
    pub(super) fn check(&self, schedule: &Schedule) -> Result<()> {
        let seen = self.latency.len() + self.reset;
        let asked = schedule.arrivals.len() as u64;
        ensure!(seen == asked, "{seen} requests are accounted for, {asked} were sent");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_workers_do_not_deviate() {
        assert_eq!(deviation(&[5, 5, 5]), 0.0);
        assert_eq!(deviation(&[2, 4]), 1.0);
    }

    #[test]
    fn sources_are_addresses_of_this_machine() {
        assert_eq!(address(0).to_string(), "127.1.0.0");
        assert_eq!(address(258).to_string(), "127.1.1.2");
    }
}
