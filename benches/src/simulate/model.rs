//! What is simulated: SYNs come, a policy chooses a member for each, a round trip later the connection
//! is in that member's accept queue, and its worker accepts when it comes round its loop.
//!
//! Not simulated: processors that workers share, what accepting and choosing cost, packets that are lost,
//! queues that overflow.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::mem;

use hdrhistogram::Histogram;

use super::choose::{Chooser, Member, Policy};
use super::random::Random;

/// Simulated time in nanoseconds.
pub(super) type Time = u64;
pub(super) const MS: Time = 1_000_000;
pub(super) const SECOND: Time = 1000 * MS;

/// How long a request keeps its worker busy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    /// What a short one takes: exactly that, or on average.
    pub(super) unit: f64,
    pub(super) exponential: bool,
    /// So many of them take so many times as long as a short one.
    pub(super) long: (f64, f64),
}

impl Work {
    pub(super) fn mean(&self) -> f64 {
        self.unit * (1.0 + self.long.0 * (self.long.1 - 1.0))
    }

    fn draw(&self, random: &mut Random) -> Time {
        let (long, short) = (random.share() < self.long.0, random.exponential(self.unit));
        let time = match (long, self.exponential) {
            (true, _) => self.unit * self.long.1,
            (false, true) => short,
            (false, false) => self.unit,
        };
        time.max(1.0) as Time
    }
}

/// Some workers stop again and again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hang {
    pub(super) workers: usize,
    pub(super) every: Time,
    pub(super) lasting: Time,
    /// They close their connections before.
    pub(super) drops: bool,
}

/// SYNs to which nothing follows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flood {
    pub(super) per_second: f64,
    /// After so long the kernel forgets one.
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
    /// Arrivals, after which it goes on until all are served. The first fifth is not looked at.
    pub(super) connections: u64,
    pub(super) work: Work,
    pub(super) round_trip: Time,
    /// The most connections that a worker accepts when it comes round its loop.
    pub(super) accepts: usize,
    pub(super) hang: Option<Hang>,
    pub(super) flood: Option<Flood>,
    pub(super) keep_alive: Option<KeepAlive>,
    /// The first worker fails at once: each request takes it a microsecond.
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

/// A request. It can be in one place only: it is moved, never copied.
struct Request {
    since: Time,
    takes: Time,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
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
    /// Requests on connections that are open, which the next round sees.
    ready: VecDeque<Request>,
    /// What is left of this round.
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
    arrivals: Random,
    work: Random,
    members: Vec<Member>,
    workers: Vec<Worker>,
    /// The queue that all share, and workers that wait for it; some are busy again.
    central: Option<(VecDeque<Request>, Vec<usize>)>,
    /// All round trips take the same time: who began first ends first.
    handshakes: VecDeque<(Time, usize, Request)>,
    flooded: VecDeque<(Time, usize)>,
    /// In the order of time, then in that in which they were thought of.
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    thought_of: u64,
    next_syn: Time,
    next_flood: Time,
    outcome: Outcome,
}

/// Simulates one scenario under one policy. The same again gives the same.
pub(super) fn simulate(scenario: &Scenario, policy: Policy) -> Outcome {
    let mut simulation = Simulation::new(scenario, policy);
    while simulation.step() {}
    simulation.outcome
}

impl<'a> Simulation<'a> {
    fn new(scenario: &'a Scenario, policy: Policy) -> Self {
        let stream = |number| Random::new(scenario.seed, number);
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
            chooser: Chooser::new(policy, count, stream(0)),
            arrivals: stream(1),
            work: stream(2),
            members: vec![Member::default(); count],
            workers: (0..count).map(|_| Worker::default()).collect(),
            central: (policy == Policy::Central).then(|| (VecDeque::new(), (0..count).collect())),
            handshakes: VecDeque::new(),
            flooded: VecDeque::new(),
            events: BinaryHeap::new(),
            thought_of: 0,
            next_syn: 0,
            next_flood: if scenario.flood.is_some() { 0 } else { Time::MAX },
            outcome,
        };
        if let Some(hang) = scenario.hang {
            (0..hang.workers).for_each(|worker| new.after(hang.every, Event::Stall(worker)));
        }
        if scenario.keep_alive.is_some() {
            new.after(new.warm, Event::Look);
        }
        new
    }

    /// Whatever comes next; false if nothing does.
    fn step(&mut self) -> bool {
        let handshake = self.handshakes.front().map_or(Time::MAX, |next| next.0);
        let expiry = self.flooded.front().map_or(Time::MAX, |next| next.0);
        let event = self.events.peek().map_or(Time::MAX, |Reverse(next)| next.0);
        let next = self.next_syn.min(self.next_flood).min(handshake).min(expiry).min(event);
        if next == Time::MAX {
            return false;
        }
        self.now = next;
        if next == event {
            self.event();
        } else if next == handshake {
            self.established();
        } else if next == expiry {
            if let Some((_, member)) = self.flooded.pop_front() {
                self.members[member].half_open -= 1;
            }
        } else if next == self.next_syn {
            self.syn();
        } else {
            self.flood();
        }
        true
    }

    /// Whether connections still come: what repeats ends with them.
    fn goes_on(&self) -> bool {
        self.outcome.arrived < self.scenario.connections
    }

    fn after(&mut self, time: Time, event: Event) {
        self.thought_of += 1;
        self.events.push(Reverse((self.now + time, self.thought_of, event)));
    }

    fn event(&mut self) {
        let Some(Reverse((_, _, event))) = self.events.pop() else { return };
        match event {
            Event::Done(worker) => self.done(worker),
            Event::Stall(worker) => self.stall(worker),
            Event::Resume(worker) => self.go_on(worker),
            Event::Request(worker, generation) => self.request(worker, generation),
            Event::Look => self.look(),
        }
    }

    fn syn(&mut self) {
        let pause = self.arrivals.exponential(SECOND as f64 / self.scenario.per_second);
        let takes = self.scenario.work.draw(&mut self.work);
        let member = self.chooser.choose(&self.members);
        self.outcome.arrived += 1;
        self.outcome.dealt[member] += 1;
        let hangs = self.workers[member].hangs_until > self.now;
        self.outcome.to_hung.0 += u64::from(hangs && self.central.is_none());
        self.members[member].half_open += 1;
        let established = self.now + self.scenario.round_trip;
        self.handshakes.push_back((established, member, Request { since: established, takes }));
        self.next_syn = if self.goes_on() { self.now + pause as Time } else { Time::MAX };
    }

    fn flood(&mut self) {
        let Some(flood) = self.scenario.flood.filter(|_| self.goes_on()) else {
            self.next_flood = Time::MAX;
            return;
        };
        let member = self.chooser.choose(&self.members);
        self.members[member].half_open += 1;
        self.flooded.push_back((self.now + flood.remembered, member));
        let pause = self.arrivals.exponential(SECOND as f64 / flood.per_second);
        self.next_flood = self.now + pause as Time;
    }

    fn established(&mut self) {
        let Some((_, member, request)) = self.handshakes.pop_front() else { return };
        self.members[member].half_open -= 1;
        if let Some((queue, idle)) = &mut self.central {
            queue.push_back(request);
            let free = |worker: &Worker| worker.serving.is_none() && worker.hangs_until <= self.now;
            while let Some(worker) = idle.pop() {
                if free(&self.workers[worker]) {
                    return self.go_on(worker);
                }
            }
            return;
        }
        self.members[member].waiting += 1;
        self.workers[member].accept.push_back(request);
        self.go_on(member);
    }

    /// A worker that may have something to do does it, unless it is busy or hangs.
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
        let (worker, member) = (&mut self.workers[index], &mut self.members[index]);
        mem::swap(&mut worker.round, &mut worker.ready);
        if let Some((queue, idle)) = &mut self.central {
            match queue.pop_front() {
                Some(request) => worker.round.push_back(request),
                None => idle.push(index),
            }
            return;
        }
        for _ in 0..self.scenario.accepts {
            let Some(request) = worker.accept.pop_front() else { break };
            member.waiting -= 1;
            member.open += 1;
            worker.round.push_back(request);
        }
    }

    fn done(&mut self, index: usize) {
        let Some(request) = self.workers[index].serving.take() else { return };
        if request.since >= self.warm {
            self.outcome.latencies.saturating_record(self.now - request.since);
        }
        self.outcome.served += 1;
        match self.scenario.keep_alive {
            Some(life) if self.work.share() * life.requests >= 1.0 && self.goes_on() => {
                let pause = self.work.exponential(life.pause) as Time;
                self.after(pause, Event::Request(index, self.workers[index].generation));
            }
            _ => {
                let open = &mut self.members[index].open;
                *open = open.saturating_sub(1);
            }
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
            self.members[index].open = u32::from(worker.serving.is_some());
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
