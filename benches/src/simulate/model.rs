//! The server: a policy picks a member for each SYN, a round trip later the connection is in that member's
//! accept queue, and its worker accepts it in the next turn of its loop.
//!
//! Not simulated: processors that workers share, what accepting and picking cost, lost packets, queues that
//! overflow.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use fastrand::Rng;
use hdrhistogram::Histogram;
use policy_model::{Candidate, Config, Model, Packet, Queue, Table};

/// Simulated time in nanoseconds.
pub(super) type Time = u64;
pub(super) const MS: Time = 1_000_000;
pub(super) const SECOND: Time = 1000 * MS;

/// What deals connections to workers: a policy's C, for flows that are independent of each other, or without
/// one a queue that all workers share: the bound of what is possible.
pub(super) type Decider = Option<Config>;

/// The program among members of weight 1, each with at most twice its share of a window.
fn program(config: Config, members: u16) -> Model {
    let limit = 2 * config.window as u16;
    let candidates = (0..members).map(|slot| Candidate { slot, weight: 1, limit }).collect();
    let mut program = Model::new(config, members);
    program.set_table(&Table { candidates, ..Table::equal(members) });
    (0..members).for_each(|slot| program.fill(slot));
    program
}

/// How long a request keeps its worker busy.
#[derive(Debug, Clone, Copy, Default)]
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

/// How often workers hang, and for how long.
const HANG_EVERY: Time = 500 * MS;
const HANG_LASTING: Time = 200 * MS;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Scenario {
    pub(super) workers: usize,
    pub(super) per_second: f64,
    /// All of them are served; the first fifth is not measured.
    pub(super) connections: u64,
    pub(super) work: Work,
    pub(super) round_trip: Time,
    /// The first ones of this number stop again and again.
    pub(super) hanging: usize,
    /// The first worker fails every request, which takes it a microsecond.
    pub(super) failing: bool,
    pub(super) seed: u64,
}

/// What came out.
pub(super) struct Outcome {
    /// From the end of the handshake to the response, in nanoseconds.
    pub(super) latencies: Histogram<u64>,
    pub(super) arrived: u64,
    pub(super) served: u64,
    /// Connections by worker.
    pub(super) dealt: Vec<u64>,
    /// Connections that were given to workers while they hung, and how often any hung.
    pub(super) to_hung: (u64, u64),
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    since: Time,
    takes: Time,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Syn,
    Established(usize, Request),
    /// A worker has served the request that began then.
    Done(usize, Time),
    Stall(usize),
    Resume(usize),
}

#[derive(Default)]
struct Worker {
    half_open: u32,
    /// Accepted only when it is to be served.
    queue: VecDeque<Request>,
    busy: bool,
    hangs_until: Time,
}

struct Simulation<'a> {
    scenario: &'a Scenario,
    now: Time,
    /// `None`: all workers take from the first one's queue.
    program: Option<Model>,
    flows: Rng,
    arrivals: Rng,
    work: Rng,
    workers: Vec<Worker>,
    /// Workers that wait for the shared queue; some are busy again.
    idle: Vec<usize>,
    /// In the order of time, then in that in which they were scheduled.
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    scheduled: u64,
    outcome: Outcome,
}

/// Simulates one scenario under one policy. The same again gives the same.
pub(super) fn simulate(scenario: &Scenario, decider: Decider) -> Outcome {
    let mut simulation = Simulation::new(scenario, decider);
    while let Some(Reverse((time, _, event))) = simulation.events.pop() {
        simulation.now = time;
        simulation.happens(event);
    }
    simulation.outcome
}

impl<'a> Simulation<'a> {
    fn new(scenario: &'a Scenario, decider: Decider) -> Self {
        let stream = |number| Rng::with_seed(scenario.seed << 8 | number);
        let outcome = Outcome {
            latencies: Histogram::new_with_bounds(1, 3600 * SECOND, 3)
                .expect("an hour with three digits is what a histogram can hold"),
            arrived: 0,
            served: 0,
            dealt: vec![0; scenario.workers],
            to_hung: (0, 0),
        };
        let mut new = Self {
            scenario,
            now: 0,
            program: decider.map(|config| program(config, scenario.workers as u16)),
            flows: stream(0),
            arrivals: stream(1),
            work: stream(2),
            workers: (0..scenario.workers).map(|_| Worker::default()).collect(),
            idle: (0..scenario.workers).collect(),
            events: BinaryHeap::new(),
            scheduled: 0,
            outcome,
        };
        new.after(0, Event::Syn);
        (0..scenario.hanging).for_each(|worker| new.after(HANG_EVERY, Event::Stall(worker)));
        new
    }

    /// Whether connections still come: what repeats ends with them.
    fn goes_on(&self) -> bool {
        self.outcome.arrived < self.scenario.connections
    }

    fn after(&mut self, time: Time, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((self.now + time, self.scheduled, event)));
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Syn => self.syn(),
            Event::Established(member, request) => self.established(member, request),
            Event::Done(worker, since) => self.done(worker, since),
            Event::Stall(worker) => self.stall(worker),
            Event::Resume(worker) => self.go_on(worker),
        }
    }

    fn syn(&mut self) {
        let pause = exponential(&mut self.arrivals, SECOND as f64 / self.scenario.per_second);
        let takes = self.scenario.work.draw(&mut self.work);
        self.tell_time();
        let member = self.choose();
        self.outcome.arrived += 1;
        self.outcome.dealt[member] += 1;
        let hangs = self.workers[member].hangs_until > self.now;
        self.outcome.to_hung.0 += u64::from(hangs && self.program.is_some());
        self.workers[member].half_open += 1;
        self.show(member);
        let request = Request { since: self.now + self.scenario.round_trip, takes };
        self.after(self.scenario.round_trip, Event::Established(member, request));
        if self.goes_on() {
            self.after(pause as Time, Event::Syn);
        }
    }

    /// The member that gets the next connection.
    fn choose(&mut self) -> usize {
        let Some(program) = &mut self.program else { return 0 };
        let packet = Packet { hash: self.flows.u32(..), ..Packet::default() };
        program.run(&packet).expect("all members are there").into()
    }

    /// Lets the program see what the kernel knows of a member.
    fn show(&mut self, index: usize) {
        let Some(program) = &mut self.program else { return };
        let worker = &self.workers[index];
        let waiting = worker.queue.len() as u32;
        program.set_queue(index as u16, Queue::new(waiting, worker.half_open));
    }

    fn count(&mut self, index: usize, opened: u32, closed: u32) {
        if let Some(program) = &mut self.program {
            program.count(index as u16, opened, closed);
        }
    }

    /// The clock of the program.
    fn tell_time(&mut self) {
        if let Some(program) = &mut self.program {
            program.set_clock(self.now + SECOND); // 0 is no time
        }
    }

    fn established(&mut self, member: usize, request: Request) {
        self.workers[member].queue.push_back(request);
        self.workers[member].half_open -= 1;
        self.count(member, 1, 0);
        self.show(member);
        if self.program.is_some() {
            return self.go_on(member);
        }
        while let Some(worker) = self.idle.pop() {
            if self.is_free(worker) {
                return self.go_on(worker);
            }
        }
    }

    fn is_free(&self, index: usize) -> bool {
        !self.workers[index].busy && self.workers[index].hangs_until <= self.now
    }

    /// Starts a worker on what there is to do, unless it is busy or hangs.
    fn go_on(&mut self, index: usize) {
        if !self.is_free(index) {
            return;
        }
        let from = if self.program.is_some() { index } else { 0 };
        if let Some(Request { since, takes }) = self.workers[from].queue.pop_front() {
            self.workers[index].busy = true;
            let takes = if self.scenario.failing && index == 0 { 1000 } else { takes };
            self.after(takes, Event::Done(index, since));
        } else if self.program.is_none() {
            self.idle.push(index);
        }
        self.show(index);
    }

    fn done(&mut self, index: usize, since: Time) {
        let seconds = self.scenario.connections as f64 / self.scenario.per_second;
        if since >= (seconds * SECOND as f64 / 5.0) as Time {
            self.outcome.latencies.saturating_record(self.now - since);
        }
        self.outcome.served += 1;
        self.workers[index].busy = false;
        self.count(index, 0, 1);
        self.show(index);
        self.go_on(index);
    }

    fn stall(&mut self, index: usize) {
        if self.goes_on() {
            self.workers[index].hangs_until = self.now + HANG_LASTING;
            self.outcome.to_hung.1 += 1;
            self.after(HANG_LASTING, Event::Resume(index));
            self.after(HANG_EVERY, Event::Stall(index));
        }
    }
}
