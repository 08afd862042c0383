//! The open-loop client: sends requests at their scheduled times, whether or not those before are
//! answered, and measures from the scheduled time. When it is late itself, that counts as waiting, and
//! how late it was is recorded.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};
use serde::{Serialize, Serializer};

use super::priority;
use super::schedule::{Arrival, Schedule};
use super::wire::Dialect;
use super::worker::Temper;

/// Few at once, so that arrivals do not wait for answers.
const EVENTS: usize = 64;
/// Between two samples of how many connections each worker has.
const SAMPLE: Duration = Duration::from_millis(10);

/// What one measurement found.
#[derive(Debug, Default, Serialize)]
pub(super) struct Outcome {
    /// From scheduled to answered; of unanswered requests, until the end.
    pub(super) latency: Times,
    /// From scheduled to sent.
    pub(super) lag: Times,
    /// Answers in a second, in the schedule's time.
    pub(super) throughput: f64,
    /// Requests not answered until the end.
    pub(super) unanswered: u32,
    /// Requests whose connection was reset or closed instead.
    pub(super) reset: u32,
    /// Connections that were made.
    pub(super) connections: u32,
    /// Standard deviation over workers of their open connections, on average over time.
    pub(super) deviation: f64,
    /// The most of a burst that one worker had, in fair shares, on average over bursts.
    pub(super) burst_share: f64,
    /// Connections that reached the first worker, which misbehaves if one does.
    pub(super) first: u32,
    /// How busy workers were, from 0 to 1.
    pub(super) busy: f64,
    /// Answers in a second to wrk, where it ran.
    pub(super) wrk: f64,
}

/// A histogram of microseconds, up to ten minutes.
#[derive(Debug)]
pub(super) struct Times(pub(super) Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, 600_000_000, 3).expect("these bounds are valid"))
    }
}

impl Times {
    fn record(&mut self, time: Duration) {
        self.0.saturating_record(time.as_micros() as u64);
    }

    pub(super) fn millis(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }
}

impl Serialize for Times {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)];
        serializer.collect_map(all.map(|(name, quantile)| (name, self.millis(quantile))))
    }
}

/// With what a contender is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup<'a> {
    pub(super) workers: u8,
    /// The first worker's; the others are steady.
    pub(super) temper: Temper,
    pub(super) schedule: &'a Schedule,
    /// How long answers are waited for after the schedule's end.
    pub(super) patience: Duration,
    /// For what is drawn in addition to the schedule.
    pub(super) seed: u64,
}

/// Asks `target` for what is scheduled, at a priority above the workers'. Returns when all is answered,
/// but not later than the patience after the schedule's end.
pub(super) fn drive(target: SocketAddr, dialect: Dialect, setup: &Setup<'_>) -> Result<Outcome> {
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let schedule = setup.schedule;
    priority::set(priority::GENERATOR);
    let mut generator = Generator {
        target,
        dialect,
        schedule,
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        start: Instant::now(),
        clients: (0..schedule.connections).map(|_| None).collect(),
        outstanding: 0,
        reconnects: setup.temper == Temper::Restarts,
        added: 0,
        open: vec![0; setup.workers.into()],
        bursts: Vec::new(),
        samples: 0,
        seen: Outcome::default(),
    };
    let driven = generator.run(schedule.length + setup.patience);
    let outcome = generator.outcome();
    priority::set(priority::WORKER);
    driven.and(outcome)
}

struct Generator<'a> {
    target: SocketAddr,
    dialect: Dialect,
    schedule: &'a Schedule,
    epoll: OwnedFd,
    start: Instant,
    /// By number of the connection.
    clients: Vec<Option<Client>>,
    /// Requests under way.
    outstanding: usize,
    /// Whether clients whose connection ends connect again at once.
    reconnects: bool,
    /// Requests that they ask in addition to the schedule's.
    added: usize,
    /// Open connections by worker.
    open: Vec<u64>,
    /// Answered connections of each burst, by worker.
    bursts: Vec<Vec<u32>>,
    /// How many are in the sum of deviations.
    samples: u32,
    seen: Outcome,
}

struct Client {
    stream: TcpStream,
    source: u16,
    to_send: Vec<u8>,
    /// What waits for an answer.
    pending: VecDeque<Request>,
    received: Vec<u8>,
    worker: Option<u8>,
    /// No request will follow.
    last: bool,
}

#[derive(Clone, Copy)]
struct Request {
    arrival: Arrival,
    /// It is not the schedule's: a client that has connected again asks it to be answered.
    added: bool,
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
                self.seen.lag.record(now - arrival.at);
                self.ask(arrival)?;
                next += 1;
                now = self.start.elapsed();
            }
            if now >= sample && now < self.schedule.length {
                let mut open = Histogram::<u64>::new(3)?;
                self.open.iter().try_for_each(|connections| open.record(*connections))?;
                self.seen.deviation += open.stdev();
                self.samples += 1;
                sample = now + SAMPLE;
            }
            if next == arrivals.len() && self.outstanding == 0 || now >= end {
                return Ok(());
            }
            let wake = arrivals.get(next).map_or(end, |arrival| arrival.at);
            self.wait(&mut events, wake.saturating_sub(now)).context("cannot wait for answers")?;
            events.iter().try_for_each(|event| self.progress(event.data.u64() as usize))?;
        }
    }

    fn wait(&self, events: &mut Vec<epoll::Event>, longest: Duration) -> Result<()> {
        // A timeout of epoll is in whole milliseconds.
        let mut readable = [PollFd::new(&self.epoll, PollFlags::IN)];
        let longest = Timespec::try_from(longest)?;
        retry_on_intr(|| poll(&mut readable, Some(&longest)))?;
        events.clear();
        let at_once = Timespec::default();
        retry_on_intr(|| epoll::wait(&self.epoll, spare_capacity(events), Some(&at_once)))?;
        Ok(())
    }

    fn ask(&mut self, arrival: &Arrival) -> Result<()> {
        self.outstanding += 1;
        self.send(Request { arrival: *arrival, added: false })?;
        self.progress(arrival.connection as usize)
    }

    /// Has a request sent on its connection, which is made if it is not there.
    fn send(&mut self, request: Request) -> Result<()> {
        let arrival = request.arrival;
        let key = arrival.connection as usize;
        let client = match &mut self.clients[key] {
            Some(client) => client,
            none => {
                let stream = connecting(self.target, arrival.source).context("cannot connect")?;
                let both = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
                epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(key as u64), both)?;
                self.seen.connections += 1;
                none.insert(Client::new(stream, arrival.source))
            }
        };
        client.to_send.extend(self.dialect.request(arrival.block, arrival.last));
        client.pending.push_back(request);
        client.last = arrival.last;
        Ok(())
    }

    /// Sends what a connection takes, and receives what there is.
    fn progress(&mut self, key: usize) -> Result<()> {
        let Some(client) = &mut self.clients[key] else { return Ok(()) };
        let (end, lost) = match client.exchange() {
            Ok(()) => (true, false),
            // It is not connected, or takes no more, or has no more.
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                (false, false)
            }
            Err(_) => (false, true),
        };
        let (answers, worker) = self.dialect.answers(&mut client.received, end);
        let answered = answers.min(client.pending.len());
        let answered: Vec<Request> = client.pending.drain(..answered).collect();
        if client.worker.is_none()
            && let Some(open) = worker.and_then(|worker| self.open.get_mut(usize::from(worker)))
        {
            client.worker = worker;
            *open += 1;
        }
        let done = client.last && client.pending.is_empty();
        answered.into_iter().for_each(|request| self.answered(request, worker));
        if (end || lost || done)
            && let Some(client) = self.clients[key].take()
        {
            self.ended(key, client, done)?;
        }
        Ok(())
    }

    fn answered(&mut self, Request { arrival, added }: Request, worker: Option<u8>) {
        let now = self.start.elapsed();
        self.outstanding -= 1;
        self.seen.latency.record(now - arrival.at);
        let counts = !added && now <= self.schedule.length;
        self.seen.throughput += f64::from(u8::from(counts));
        if let (Some(burst), Some(worker)) = (arrival.burst, worker) {
            let bursts = self.bursts.len().max(burst + 1);
            self.bursts.resize(bursts, vec![0; self.open.len()]);
            self.bursts[burst][usize::from(worker)] += 1;
        }
    }

    /// A connection ended, with a request that no other follows (`done`) or without.
    fn ended(&mut self, key: usize, client: Client, done: bool) -> Result<()> {
        if let Some(worker) = client.worker {
            self.open[usize::from(worker)] -= 1;
        }
        if done || !self.reconnects {
            self.outstanding -= client.pending.len();
            self.seen.reset += client.pending.len() as u32;
            return Ok(());
        }
        if client.pending.is_empty() {
            self.outstanding += 1;
            self.added += 1;
            let (at, block) = (self.start.elapsed(), Duration::ZERO);
            let (source, connection) = (client.source, key as u32);
            let arrival = Arrival { at, connection, source, block, last: false, burst: None };
            return self.send(Request { arrival, added: true });
        }
        // The new connection's first event sends them.
        client.pending.into_iter().try_for_each(|request| self.send(request))
    }

    /// Enters what was never answered with how long it has waited.
    fn outcome(mut self) -> Result<Outcome> {
        let now = self.start.elapsed();
        for request in self.clients.iter().flatten().flat_map(|client| &client.pending) {
            self.seen.latency.record(now - request.arrival.at);
            self.seen.unanswered += 1;
        }
        self.seen.throughput /= self.schedule.length.as_secs_f64();
        self.seen.deviation /= f64::from(self.samples.max(1));
        let seen = self.seen.latency.0.len() + u64::from(self.seen.reset);
        let asked = self.schedule.arrivals.len() + self.added;
        let most = self.bursts.iter().filter_map(|burst| {
            let all: u32 = burst.iter().sum();
            let most = burst.iter().max().filter(|_| all > 0)?;
            Some(f64::from(*most) * burst.len() as f64 / f64::from(all))
        });
        self.seen.burst_share = most.sum::<f64>() / self.bursts.len().max(1) as f64;
        ensure!(seen == asked as u64, "{seen} requests are accounted for, {asked} were sent");
        Ok(self.seen)
    }
}

impl Client {
    fn new(stream: TcpStream, source: u16) -> Self {
        let (to_send, pending, received) = (Vec::new(), VecDeque::new(), Vec::new());
        Self { stream, source, to_send, pending, received, worker: None, last: false }
    }

    /// It is done when nothing more will come.
    fn exchange(&mut self) -> io::Result<()> {
        while !self.to_send.is_empty() {
            let sent = self.stream.write(&self.to_send)?;
            self.to_send.drain(..sent);
        }
        self.stream.read_to_end(&mut self.received).map(drop)
    }
}

/// A connection on its way. It leaves nothing in TIME_WAIT: closing resets it.
fn connecting(target: SocketAddr, source: u16) -> rustix::io::Result<TcpStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let stream = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    sockopt::set_tcp_nodelay(&stream, true)?;
    // One of the many loopback addresses.
    let [high, low] = source.to_be_bytes();
    bind(&stream, &SocketAddr::from((Ipv4Addr::new(127, 1, high, low), 0)))?;
    match connect(&stream, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(stream.into()),
        Err(errno) => Err(errno),
    }
}
