//! Event-loop workers with connections that last: what the kernel shows of them to the program.

use std::collections::VecDeque;

use policy_model::{Config, Model, Packet, Queue, Table};

/// Nanoseconds.
pub(crate) type Time = u64;
pub(crate) const US: Time = 1_000;
pub(crate) const MS: Time = 1_000 * US;

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Worker {
    /// Handshakes under way.
    pub(crate) half_open: u32,
    /// Connections to accept.
    pub(crate) waiting: u32,
    /// Connections that were accepted and are open.
    pub(crate) open: u32,
    /// When it wakes up; until then it accepts nothing.
    pub(crate) wakes: Time,
    /// How long it is busy with a connection before it accepts another one; 0: it accepts all that wait.
    pub(crate) busy: Time,
    /// Connections that reached it.
    pub(crate) dealt: u32,
}

/// A group and its workers.
pub(crate) struct Server {
    pub(crate) model: Model,
    pub(crate) now: Time,
    pub(crate) workers: Vec<Worker>,
    /// Whether connections are counted.
    pub(crate) counts: bool,
    /// The member that the counting programs do not know.
    pub(crate) uncounted: Option<usize>,
    /// What is counted of each.
    pub(crate) counted: Vec<u32>,
    /// How long a handshake takes.
    pub(crate) round_trip: Time,
    /// When handshakes end, in order, and whose they are.
    handshakes: VecDeque<(Time, usize)>,
    random: u64,
}

impl Server {
    /// Workers with this many open connections each, which are counted.
    pub(crate) fn new(config: Config, open: &[u32]) -> Self {
        let members = open.len() as u16;
        let mut model = Model::new(config, members);
        model.set_table(&Table::equal(members));
        (0..members).for_each(|slot| model.fill(slot));
        open.iter().zip(0..).for_each(|(open, host)| model.count(host, *open, 0));
        let workers = open.iter().map(|open| Worker { open: *open, ..Worker::default() }).collect();
        Self {
            model,
            now: 1_000 * MS,
            workers,
            counts: true,
            uncounted: None,
            counted: open.to_vec(),
            round_trip: 0,
            handshakes: VecDeque::new(),
            random: 1,
        }
    }

    pub(crate) fn weigh(&mut self, weights: &[u16]) {
        let mut table = Table::equal(weights.len() as u16);
        for (candidate, weight) in table.candidates.iter_mut().zip(weights) {
            (candidate.weight, candidate.limit) = (*weight, 16 * *weight);
        }
        let entries =
            weights.iter().zip(0..).flat_map(|(weight, slot)| vec![slot; (*weight).into()]);
        table.entries = entries.collect();
        self.model.set_table(&table);
    }

    /// Time passes, and those that are awake accept all that waits.
    pub(crate) fn pass(&mut self, time: Time) {
        self.now += time;
        self.model.set_clock(self.now);
        while let Some((_, slot)) = self.handshakes.pop_front_if(|(ends, _)| *ends <= self.now) {
            self.workers[slot].half_open -= 1;
            self.establish(slot);
        }
        for slot in 0..self.workers.len() {
            let worker = &mut self.workers[slot];
            while worker.waiting > 0 && worker.wakes <= self.now {
                worker.waiting -= 1;
                worker.open += 1;
                if worker.busy > 0 {
                    worker.wakes = self.now + worker.busy;
                }
            }
            self.show(slot);
        }
    }

    /// A client connects: which worker gets it.
    pub(crate) fn connect(&mut self) -> usize {
        self.connect_from(self.round_trip)
    }

    /// The same for a client that is this far away.
    pub(crate) fn connect_from(&mut self, round_trip: Time) -> usize {
        let hash = self.random() as u32;
        let slot =
            self.model.run(&Packet { hash, ..Packet::default() }).expect("a member is there");
        let index = usize::from(slot);
        self.workers[index].dealt += 1;
        if round_trip == 0 {
            self.establish(index);
        } else {
            self.workers[index].half_open += 1;
            let ends = self.now + round_trip;
            let place = self.handshakes.partition_point(|(other, _)| *other <= ends);
            self.handshakes.insert(place, (ends, index));
            self.show(index);
        }
        index
    }

    fn establish(&mut self, slot: usize) {
        self.workers[slot].waiting += 1;
        self.count(slot, 1, 0);
        self.show(slot);
    }

    /// A worker closes this many of its connections.
    pub(crate) fn close(&mut self, slot: usize, connections: u32) {
        self.workers[slot].open -= connections;
        // Those from before counting began, or while it did not, are not counted when they end, either.
        let counted = self.counted[slot].min(connections);
        self.count(slot, 0, counted);
    }

    /// Any of all accepted connections is closed.
    pub(crate) fn close_any(&mut self) {
        let all: u32 = self.workers.iter().map(|worker| worker.open).sum();
        if all == 0 {
            return;
        }
        let mut nth = self.random() as u32 % all;
        for slot in 0..self.workers.len() {
            match nth.checked_sub(self.workers[slot].open) {
                Some(further) => nth = further,
                None => return self.close(slot, 1),
            }
        }
    }

    fn count(&mut self, slot: usize, opened: u32, closed: u32) {
        if self.counts && self.uncounted != Some(slot) {
            self.counted[slot] += opened;
            self.counted[slot] -= closed;
            self.model.count(slot as u16, opened, closed);
        }
    }

    /// A worker does nothing for so long.
    pub(crate) fn hang(&mut self, slot: usize, time: Time) {
        self.workers[slot].wakes = self.now + time;
    }

    pub(crate) fn show(&mut self, slot: usize) {
        self.model.set_queue(
            slot as u16,
            Queue::new(self.workers[slot].waiting, self.workers[slot].half_open),
        );
    }

    pub(crate) fn dealt(&self) -> Vec<u32> {
        self.workers.iter().map(|worker| worker.dealt).collect()
    }

    pub(crate) fn forget(&mut self) {
        self.workers.iter_mut().for_each(|worker| worker.dealt = 0);
    }

    /// The time to the next of `per_second` clients that know nothing of each other.
    pub(crate) fn pause(&mut self, per_second: f64) -> Time {
        let uniform = (self.random() >> 11) as f64 / (1u64 << 53) as f64;
        (-(1.0 - uniform).ln() / per_second * 1e9) as Time
    }

    /// Time passes until the next of `per_second` clients comes. Workers may take something at any moment.
    pub(crate) fn idle(&mut self, per_second: f64) {
        let next = self.now + self.pause(per_second);
        while self.now < next {
            self.pass((next - self.now).min(200 * US));
        }
    }

    /// Other clients than without it.
    pub(crate) fn seed(&mut self, seed: u64) {
        self.random = seed;
    }

    /// Yes or no, equally often.
    pub(crate) fn tosses(&mut self) -> bool {
        self.random() & 1 == 1
    }

    fn random(&mut self) -> u64 {
        // splitmix64
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }
}

/// The standard deviation over workers.
pub(crate) fn deviation(dealt: &[u32]) -> f64 {
    let mean = dealt.iter().sum::<u32>() as f64 / dealt.len() as f64;
    let squares = dealt.iter().map(|dealt| (f64::from(*dealt) - mean).powi(2));
    (squares.sum::<f64>() / dealt.len() as f64).sqrt()
}
