//! The server: a policy picks a member for each SYN, a round trip later the connection is in that member's
//! accept queue, and its worker accepts it in the next turn of its loop.
//!
//! Not simulated: processors that workers share, what accepting and picking cost, lost packets, queues that
//! overflow.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::mem;

use fastrand::Rng;
use hdrhistogram::Histogram;

use super::choose::{Chooser, Member, Policy};

/// Simulated time in nanoseconds.
pub(super) type Time = u64;
pub(super) const MS: Time = 1_000_000;
pub(super) const SECOND: Time = 1000 * MS;

/// How long a request keeps its worker busy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    /// What a short one takes, exactly or on average.
    pub(super) unit: f64,
    pub(super) exponential: bool,
    /// A share of them takes this many times as long as a short one.
    pub(super) long: (f64, f64),
}

impl Work {
    pub(super) fn mean(&self) -> f64 {
        self.unit * (1.0 + self.long.0 * (self.long.1 - 1.0))
    }

    fn draw(&self, random: &mut Rng) -> Time {
        let (long, short) = (random.f64() < self.long.0, exponential(random, self.unit));
        let time = match (long, self.exponential) {
            (true, _) => self.unit * self.long.1,
            (false, true) => short,
            (false, false) => self.unit,
        };
        time.max(1.0) as Time
    }
}

fn exponential(random: &mut Rng, mean: f64) -> f64 {
    -mean * (1.0 - random.f64()).ln()
}

/// Some workers stop again and again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hang {
    pub(super) workers: usize,
    pub(super) every: Time,
    pub(super) lasting: Time,
    /// They close their connections first.
    pub(super) drops: bool,
}

/// SYNs to which nothing follows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flood {
    pub(super) per_second: f64,
    /// When the kernel forgets one.
    pub(super) remembered: Time,
}

/// Connections that stay, with requests now and then.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeepAlive {
    pub(super) requests: f64,
    /// Between a response and the next request, on average.
    pub(super) pause: f64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Scenario {
    pub(super) workers: usize,
    pub(super) per_second: f64,
    /// Arrivals. All of them are served; the first fifth is not measured.
    pub(super) connections: u64,
    pub(super) work: Work,
    pub(super) round_trip: Time,
    /// The most connections that a worker accepts in a turn of its loop.
    pub(super) accepts: usize,
    pub(super) hang: Option<Hang>,
    pub(super) flood: Option<Flood>,
    pub(super) keep_alive: Option<KeepAlive>,
    /// The first worker fails every request, which takes it a microsecond.
    pub(super) failing: bool,
    pub(super) seed: u64,
}

/// What came out.
pub(super) struct Outcome {
    /// From the end of the handshake, or from a request's arrival, to the response; in nanoseconds.
    pub(super) latencies: Histogram<u64>,
    /// Connections.
    pub(super) arrived: u64,
    /// Requests on connections that were open already.
    pub(super) further: u64,
    /// Requests.
    pub(super) served: u64,
    /// Connections by worker, without a flood's.
    pub(super) dealt: Vec<u64>,
    /// Connections that were given to workers while they hung, and how often any hung.
    pub(super) to_hung: (u64, u64),
    /// The standard deviation of open connections between workers, over all looks, and how many
    /// looks there were.
    pub(super) deviations: (f64, u64),
}

/// A request. It is in one place at a time: moved, never copied.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    since: Time,
    takes: Time,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Syn,
    FloodSyn,
    /// The flood's request at this member is forgotten.
    Forgotten(usize),
    Established(usize, Request),
    Done(usize),
    Stall(usize),
    Resume(usize),
    /// Another request on a connection of this worker, of this generation.
    Request(usize, u32),
    Look,
}

#[derive(Default)]
struct Worker {
    accept: VecDeque<Request>,
    /// Requests on open connections, for the next turn of its loop.
    ready: VecDeque<Request>,
    /// What is left of this turn.
    round: VecDeque<Request>,
    serving: Option<Request>,
    hangs_until: Time,
    /// Changes when it drops its connections.
    generation: u32,
}

struct Simulation<'a> {
    scenario: &'a Scenario,
    now: Time,
    /// The first fifth is over then.
    warm: Time,
    chooser: Chooser,
    arrivals: Rng,
    work: Rng,
    members: Vec<Member>,
    workers: Vec<Worker>,
    /// The queue that all share, and workers that wait for it; some are busy again.
    central: Option<(VecDeque<Request>, Vec<usize>)>,
    /// In the order of time, then in that in which they were scheduled.
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    scheduled: u64,
    outcome: Outcome,
}

/// Simulates one scenario under one policy. The same again gives the same.
pub(super) fn simulate(scenario: &Scenario, policy: Policy) -> Outcome {
    let mut simulation = Simulation::new(scenario, policy);
    while let Some(Reverse((time, _, event))) = simulation.events.pop() {
        simulation.now = time;
        simulation.happens(event);
    }
    simulation.outcome
}

impl<'a> Simulation<'a> {
    fn new(scenario: &'a Scenario, policy: Policy) -> Self {
        let stream = |number| Rng::with_seed(scenario.seed << 8 | number);
        let count = scenario.workers;
        let outcome = Outcome {
            latencies: Histogram::new_with_bounds(1, 3600 * SECOND, 3)
                .expect("an hour with three digits is what a histogram can hold"),
            arrived: 0,
            further: 0,
            served: 0,
            dealt: vec![0; count],
            to_hung: (0, 0),
            deviations: (0.0, 0),
        };
        let seconds = scenario.connections as f64 / scenario.per_second;
        let mut new = Self {
            scenario,
            now: 0,
            warm: (seconds * SECOND as f64 / 5.0) as Time,
            chooser: Chooser::new(policy, count as u16, stream(0)),
            arrivals: stream(1),
            work: stream(2),
            members: vec![Member::default(); count],
            workers: (0..count).map(|_| Worker::default()).collect(),
            central: (policy == Policy::Central).then(|| (VecDeque::new(), (0..count).collect())),
            events: BinaryHeap::new(),
            scheduled: 0,
            outcome,
        };
        new.after(0, Event::Syn);
        if scenario.flood.is_some() {
            new.after(0, Event::FloodSyn);
        }
        if let Some(hang) = scenario.hang {
            (0..hang.workers).for_each(|worker| new.after(hang.every, Event::Stall(worker)));
        }
        if scenario.keep_alive.is_some() {
            new.after(new.warm, Event::Look);
        }
        new
    }

    /// Whether connections still come: what repeats ends with them.
    fn goes_on(&self) -> bool {
        self.outcome.arrived < self.scenario.connections
    }

    fn change(&mut self, index: usize, change: impl FnOnce(&mut Member)) {
        change(&mut self.members[index]);
        self.chooser.show(index, self.members[index]);
    }

    fn after(&mut self, time: Time, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((self.now + time, self.scheduled, event)));
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Syn => self.syn(),
            Event::FloodSyn => self.flood(),
            Event::Forgotten(member) => self.change(member, |member| member.half_open -= 1),
            Event::Established(member, request) => self.established(member, request),
            Event::Done(worker) => self.done(worker),
            Event::Stall(worker) => self.stall(worker),
            Event::Resume(worker) => self.go_on(worker),
            Event::Request(worker, generation) => self.request(worker, generation),
            Event::Look => self.look(),
        }
    }

    fn syn(&mut self) {
        let pause = exponential(&mut self.arrivals, SECOND as f64 / self.scenario.per_second);
        let takes = self.scenario.work.draw(&mut self.work);
        let member = self.chooser.choose();
        self.outcome.arrived += 1;
        self.outcome.dealt[member] += 1;
        let hangs = self.workers[member].hangs_until > self.now;
        self.outcome.to_hung.0 += u64::from(hangs && self.central.is_none());
        self.change(member, |member| member.half_open += 1);
        let request = Request { since: self.now + self.scenario.round_trip, takes };
        self.after(self.scenario.round_trip, Event::Established(member, request));
        if self.goes_on() {
            self.after(pause as Time, Event::Syn);
        }
    }

    fn flood(&mut self) {
        let Some(flood) = self.scenario.flood.filter(|_| self.goes_on()) else { return };
        let member = self.chooser.choose();
        self.change(member, |member| member.half_open += 1);
        self.after(flood.remembered, Event::Forgotten(member));
        let pause = exponential(&mut self.arrivals, SECOND as f64 / flood.per_second);
        self.after(pause as Time, Event::FloodSyn);
    }

    fn established(&mut self, member: usize, request: Request) {
        self.change(member, |member| member.half_open -= 1);
        let Some((queue, idle)) = &mut self.central else {
            self.change(member, |member| member.waiting += 1);
            self.workers[member].accept.push_back(request);
            return self.go_on(member);
        };
        queue.push_back(request);
        let free = |worker: &Worker| worker.serving.is_none() && worker.hangs_until <= self.now;
        while let Some(worker) = idle.pop() {
            if free(&self.workers[worker]) {
                return self.go_on(worker);
            }
        }
    }

    /// Starts a worker on what there is to do, unless it is busy or hangs.
    fn go_on(&mut self, index: usize) {
        let worker = &self.workers[index];
        if worker.serving.is_some() || self.now < worker.hangs_until {
            return;
        }
        if worker.round.is_empty() {
            self.come_round(index);
        }
        let worker = &mut self.workers[index];
        let Some(request) = worker.round.pop_front() else { return };
        let takes = if self.scenario.failing && index == 0 { 1000 } else { request.takes };
        worker.serving = Some(request);
        self.after(takes, Event::Done(index));
    }

    /// Sees what has become ready, and accepts.
    fn come_round(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        mem::swap(&mut worker.round, &mut worker.ready);
        if let Some((queue, idle)) = &mut self.central {
            match queue.pop_front() {
                Some(request) => worker.round.push_back(request),
                None => idle.push(index),
            }
            return;
        }
        let accepted = worker.accept.len().min(self.scenario.accepts);
        worker.round.extend(worker.accept.drain(..accepted));
        self.change(index, |member| {
            member.waiting -= accepted as u32;
            member.open += accepted as u32;
        });
    }

    fn done(&mut self, index: usize) {
        let Some(request) = self.workers[index].serving.take() else { return };
        if request.since >= self.warm {
            self.outcome.latencies.saturating_record(self.now - request.since);
        }
        self.outcome.served += 1;
        match self.scenario.keep_alive {
            Some(life) if self.work.f64() * life.requests >= 1.0 && self.goes_on() => {
                let pause = exponential(&mut self.work, life.pause) as Time;
                self.after(pause, Event::Request(index, self.workers[index].generation));
            }
            _ => self.change(index, |member| member.open = member.open.saturating_sub(1)),
        }
        self.go_on(index);
    }

    fn request(&mut self, index: usize, generation: u32) {
        if self.workers[index].generation != generation {
            return;
        }
        let takes = self.scenario.work.draw(&mut self.work);
        self.outcome.further += 1;
        self.workers[index].ready.push_back(Request { since: self.now, takes });
        self.go_on(index);
    }

    fn stall(&mut self, index: usize) {
        let Some(hang) = self.scenario.hang.filter(|_| self.goes_on()) else { return };
        let worker = &mut self.workers[index];
        worker.hangs_until = self.now + hang.lasting;
        if hang.drops {
            worker.generation += 1;
            let open = u32::from(worker.serving.is_some());
            self.change(index, |member| member.open = open);
        }
        self.outcome.to_hung.1 += 1;
        self.after(hang.lasting, Event::Resume(index));
        self.after(hang.every, Event::Stall(index));
    }

    /// How evenly open connections are spread, a hundred times.
    fn look(&mut self) {
        if !self.goes_on() {
            return;
        }
        let open = || self.members.iter().map(|member| f64::from(member.open));
        let count = self.members.len() as f64;
        let mean = open().sum::<f64>() / count;
        let variance = open().map(|open| (open - mean).powi(2)).sum::<f64>() / count;
        self.outcome.deviations.0 += variance.sqrt();
        self.outcome.deviations.1 += 1;
        self.after(self.warm / 25, Event::Look);
    }
}
