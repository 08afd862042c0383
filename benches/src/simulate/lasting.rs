//! Connections that last, among workers with event loops: each accepts all that waits when it is awake.
//!
//! Not simulated: what connections ask for, and round trips.

use fastrand::Rng;
use policy_model::{Config, Model, Packet, Queue, Table};

use super::model::{MS, SECOND, Time};

#[derive(Debug, Default, Clone, Copy)]
struct Worker {
    waiting: u32,
    open: u32,
    /// Until then it accepts nothing.
    wakes: Time,
    dealt: u32,
}

struct Server {
    program: Model,
    random: Rng,
    now: Time,
    workers: Vec<Worker>,
}

impl Server {
    /// Workers with this many open connections each.
    fn new(config: Config, workers: u16, open: u32, seed: u64) -> Self {
        let mut program = Model::new(config, workers);
        program.set_table(&Table::equal(workers));
        for slot in 0..workers {
            program.fill(slot);
            program.count(slot, open, 0);
        }
        let worker = Worker { open, ..Worker::default() };
        let (random, workers) = (Rng::with_seed(seed), vec![worker; workers.into()]);
        Self { program, random, now: SECOND, workers }
    }

    fn pass(&mut self, time: Time) {
        self.now += time;
        self.program.set_clock(self.now);
        for slot in 0..self.workers.len() {
            if self.workers[slot].wakes <= self.now {
                self.workers[slot].open += std::mem::take(&mut self.workers[slot].waiting);
                self.show(slot);
            }
        }
    }

    fn connect(&mut self) {
        let packet = Packet { hash: self.random.u32(..), ..Packet::default() };
        let slot = self.program.run(&packet).expect("all members are there");
        self.program.count(slot, 1, 0);
        let worker = &mut self.workers[usize::from(slot)];
        (worker.waiting, worker.dealt) = (worker.waiting + 1, worker.dealt + 1);
        self.show(slot.into());
    }

    fn show(&mut self, slot: usize) {
        self.program.set_queue(slot as u16, Queue::new(self.workers[slot].waiting, 0));
    }

    fn close(&mut self, slot: usize, connections: u32) {
        self.workers[slot].open -= connections;
        self.program.count(slot as u16, 0, connections);
    }

    /// Any of all accepted connections ends.
    fn close_any(&mut self) {
        let mut nth = self.random.u32(0..self.workers.iter().map(|worker| worker.open).sum());
        for slot in 0..self.workers.len() {
            match nth.checked_sub(self.workers[slot].open) {
                Some(further) => nth = further,
                None => return self.close(slot, 1),
            }
        }
    }

    /// The time to the next of `per_second` clients that know nothing of each other.
    fn pause(&mut self, per_second: f64) -> Time {
        (-(1.0 - self.random.f64()).ln() / per_second * SECOND as f64) as Time
    }
}

/// Clients that connect at once, one each 20 µs, to workers that wake one after the other, this far apart:
/// the standard deviation of connections per worker.
pub(super) fn burst(config: Config, clients: u32, apart: Time, seed: u64) -> f64 {
    let mut server = Server::new(config, 4, 0, seed);
    for slot in 0..server.workers.len() {
        server.workers[slot].wakes = server.now + apart * slot as Time;
    }
    for _ in 0..clients {
        server.pass(MS / 50);
        server.connect();
    }
    let mean = f64::from(clients) / server.workers.len() as f64;
    let squares = server.workers.iter().map(|worker| (f64::from(worker.dealt) - mean).powi(2));
    (squares.sum::<f64>() / server.workers.len() as f64).sqrt()
}

/// Some of eight workers with 200 connections each close theirs and hang for 400 ms: how many of the
/// connections that come meanwhile, as many as go, reach each of them.
pub(super) fn drop_hang(config: Config, hung: usize, per_second: f64, seed: u64) -> f64 {
    let mut server = Server::new(config, 8, 200, seed);
    for _ in 0..2000 {
        let pause = server.pause(2000.0);
        server.pass(pause);
        server.connect();
        server.close_any();
    }
    let wakes = server.now + 400 * MS;
    server.workers.iter_mut().for_each(|worker| worker.dealt = 0);
    for slot in 0..hung {
        server.close(slot, server.workers[slot].open);
        server.workers[slot].wakes = wakes;
    }
    loop {
        let pause = server.pause(per_second);
        if server.now + pause >= wakes {
            let reached: u32 = server.workers[..hung].iter().map(|worker| worker.dealt).sum();
            return f64::from(reached) / hung as f64;
        }
        server.pass(pause);
        server.connect();
        server.close_any();
    }
}
