//! The open-loop client: sends requests at their scheduled times, whether or not those before are
//! answered, and measures from the scheduled time. When it is late itself, that counts as waiting, and
//! how late it was is recorded.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, recv, send,
    socket_with, sockopt,
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::schedule::{Arrival, Schedule};
use super::wire::Dialect;

/// Few at once, so that arrivals do not wait for answers.
const EVENTS: usize = 64;
/// The timer's key among the connections'.
const TIMER: u64 = u64::MAX;
/// Bytes received at once.
const BUFFER: usize = 64 * 1024;
/// Between two samples of how many connections each worker has.
const SAMPLE: Duration = Duration::from_millis(10);

/// What became of a schedule's requests.
#[derive(Debug)]
pub(super) struct Observed {
    /// Microseconds from scheduled to answered; of unanswered requests, until the end.
    pub(super) latency: Histogram<u64>,
    /// Microseconds from scheduled to sent.
    pub(super) lag: Histogram<u64>,
    /// Requests answered in the schedule's time.
    pub(super) in_time: u64,
    /// Requests not answered until the end.
    pub(super) unanswered: u64,
    /// Requests whose connection was reset or closed instead.
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

/// Asks `target`, which has this number of workers, for what is scheduled. Returns when all is answered,
/// but not later than `patience` after the schedule's end.
pub(super) fn drive(
    target: SocketAddr,
    workers: u8,
    dialect: Dialect,
    schedule: &Schedule,
    patience: Duration,
) -> Result<Observed> {
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), edge)?;
    let mut generator = Generator {
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
    };
    generator.run(schedule.length + patience)?;
    let observed = generator.observed();
    let (seen, asked) = (observed.latency.len() + observed.reset, schedule.arrivals.len());
    ensure!(seen == asked as u64, "{seen} requests are accounted for, {asked} were sent");
    Ok(observed)
}

struct Generator<'a> {
    target: SocketAddr,
    dialect: Dialect,
    schedule: &'a Schedule,
    epoll: OwnedFd,
    /// More precise than a timeout of epoll, which is in milliseconds.
    timer: OwnedFd,
    start: Instant,
    /// By number of the connection.
    clients: Vec<Option<Client>>,
    buffer: Vec<u8>,
    /// Requests under way.
    outstanding: usize,
    /// Open connections by worker.
    open: Vec<u32>,
    deviations: Vec<f64>,
    seen: Observed,
}

struct Client {
    stream: OwnedFd,
    to_send: Vec<u8>,
    /// When the requests were scheduled that wait for an answer.
    pending: VecDeque<Duration>,
    received: Vec<u8>,
    worker: Option<u8>,
    /// No request will follow.
    last: bool,
}

impl Generator<'_> {
    fn run(&mut self, end: Duration) -> Result<()> {
        let arrivals = &self.schedule.arrivals;
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
            let wake = arrivals.get(next).map_or(end, |arrival| arrival.at);
            self.wake_in(wake.saturating_sub(now))?;
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
        let it_value = Timespec::try_from(time.max(Duration::from_nanos(1)))?;
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    fn ask(&mut self, arrival: &Arrival) -> Result<()> {
        let key = arrival.connection as usize;
        let client = match &mut self.clients[key] {
            Some(client) => client,
            none => {
                let stream = connecting(self.target, arrival.source).context("cannot connect")?;
                let both = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
                epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(key as u64), both)?;
                self.seen.connections += 1;
                none.insert(Client::new(stream))
            }
        };
        client.to_send.extend(self.dialect.request(arrival.request));
        client.pending.push_back(arrival.at);
        client.last = arrival.request.last;
        self.outstanding += 1;
        // It fails if the connection is lost; then reading fails, too, which an event starts.
        let _ = client.flush();
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
        let (answers, worker) = self.dialect.answers(&mut client.received, end);
        let now = self.start.elapsed();
        for scheduled in client.pending.drain(..answers.min(client.pending.len())) {
            self.outstanding -= 1;
            self.seen.latency.saturating_record((now - scheduled).as_micros() as u64);
            self.seen.in_time += u64::from(now <= self.schedule.length);
        }
        if client.worker.is_none()
            && let Some(open) = worker.and_then(|worker| self.open.get_mut(usize::from(worker)))
        {
            client.worker = worker;
            *open += 1;
        }
        let done = client.last && client.pending.is_empty();
        if lost || end || done {
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
    fn new(stream: OwnedFd) -> Self {
        let (to_send, pending, received) = (Vec::new(), VecDeque::new(), Vec::new());
        Self { stream, to_send, pending, received, worker: None, last: false }
    }

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
fn connecting(target: SocketAddr, source: u16) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let stream = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    sockopt::set_tcp_nodelay(&stream, true)?;
    bind(&stream, &SocketAddr::new(address(source), 0))?;
    match connect(&stream, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(stream),
        Err(errno) => Err(errno),
    }
}

/// One of the many loopback addresses.
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
