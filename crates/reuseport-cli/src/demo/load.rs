//! The demo's clients: connections at a steady rate, whether the server keeps up or not.
//!
//! The load is open-loop: connection number i is due at i/rate, and its latency counts from then,
//! not from when a client thread started it. Otherwise a server that stalls would slow the
//! clients down and so hide its own stall (coordinated omission).

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The time limit of a connection; exceeding it counts as a failure.
const PATIENCE: Duration = Duration::from_secs(10);

/// The load to generate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) target: SocketAddr,
    /// Connections per second.
    pub(crate) rate: u32,
    /// How many connections in all.
    pub(crate) connections: u32,
    /// How many can be under way at once. More than that start late, and their latency includes it.
    pub(crate) clients: usize,
}

impl Plan {
    /// When connection `number` is due, counted from the start.
    fn due(&self, number: u32) -> Duration {
        Duration::from_secs(u64::from(number)) / self.rate
    }
}

/// The result of a plan.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Every answer.
    pub(crate) answers: Vec<Answer>,
    /// Connections that were refused, reset or not answered in time.
    pub(crate) failed: usize,
    /// How late each connection was started, which is due to this machine and not to the server.
    pub(crate) lags: Vec<Duration>,
}

/// One connection that was answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    /// Which worker answered.
    pub(crate) worker: usize,
    /// From the scheduled time to the answer.
    pub(crate) latency: Duration,
}

/// Generates the load of `plan`. Returns when every connection is answered or failed, or soon after
/// `stop` becomes true. Calls `tick` about ten times a second meanwhile.
pub(crate) fn run(plan: &Plan, stop: &AtomicBool, mut tick: impl FnMut()) -> Outcome {
    let start = Instant::now();
    let next = AtomicU32::new(0);
    let mut outcome = Outcome::default();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..plan.clients)
            .filter_map(|index| {
                thread::Builder::new()
                    .name(format!("client-{index}"))
                    .stack_size(64 << 10)
                    // With fewer threads, connections start later, which is measured.
                    .spawn_scoped(scope, || client(plan, start, &next, stop))
                    .ok()
            })
            .collect();
        while clients.iter().any(|c| !c.is_finished()) {
            thread::sleep(Duration::from_millis(100));
            tick();
        }
        for client in clients {
            // A client that panicked has no outcome to add.
            let Ok(part) = client.join() else { continue };
            outcome.answers.extend(part.answers);
            outcome.failed += part.failed;
            outcome.lags.extend(part.lags);
        }
    });
    outcome
}

/// One client: takes the next number, waits until it is due, connects.
fn client(plan: &Plan, start: Instant, next: &AtomicU32, stop: &AtomicBool) -> Outcome {
    let mut outcome = Outcome::default();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= plan.connections || stop.load(Ordering::Relaxed) {
            return outcome;
        }
        let due = start + plan.due(number);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        outcome.lags.push(due.elapsed());
        match connect(plan.target) {
            Ok(worker) => outcome.answers.push(Answer { worker, latency: due.elapsed() }),
            Err(_) => outcome.failed += 1,
        }
    }
}

/// One connection; returns the number of the worker that answered.
fn connect(target: SocketAddr) -> io::Result<usize> {
    let mut connection = TcpStream::connect_timeout(&target, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.write_all(&[0])?;
    let mut answer = [0];
    connection.read_exact(&mut answer)?;
    Ok(usize::from(answer[0]))
}

/// The latency that `share` (0 to 1) of `sorted` do not exceed (nearest rank); None of nothing.
pub(crate) fn quantile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::super::server::{Server, WorkerSpec};
    use super::*;

    #[test]
    fn every_connection_of_the_plan_is_answered_at_its_rate() {
        let spec = WorkerSpec { service: Duration::from_micros(100), hang: None };
        let server = Server::start(&[spec; 2]).unwrap();
        let plan = Plan { target: server.address(), rate: 500, connections: 100, clients: 16 };
        let begun = Instant::now();
        let outcome = run(&plan, &AtomicBool::new(false), || {});
        assert!(begun.elapsed() >= plan.due(99));
        assert_eq!(outcome.failed, 0);
        assert_eq!(outcome.answers.len(), 100);
        assert_eq!(server.accepted().iter().sum::<u64>(), 100);
    }

    #[test]
    fn latency_counts_from_when_a_connection_was_due() {
        // One client, 20 ms of work, one connection due every 2 ms: the tenth is 180 ms late
        // before it starts. Counted from its start it would look like 20 ms.
        let server =
            Server::start(&[WorkerSpec { service: Duration::from_millis(20), hang: None }])
                .unwrap();
        let plan = Plan { target: server.address(), rate: 500, connections: 10, clients: 1 };
        let outcome = run(&plan, &AtomicBool::new(false), || {});
        let last = outcome.answers.last().unwrap().latency;
        assert!(last >= Duration::from_millis(10 * 20 - 9 * 2), "{last:?}");
    }

    #[test]
    fn a_closed_port_is_a_failure_and_no_answer() {
        let server = Server::start(&[WorkerSpec { service: Duration::ZERO, hang: None }]).unwrap();
        let target = server.address();
        drop(server);
        let plan = Plan { target, rate: 1000, connections: 5, clients: 2 };
        let outcome = run(&plan, &AtomicBool::new(false), || {});
        assert_eq!((outcome.answers.len(), outcome.failed), (0, 5));
    }

    #[test]
    fn after_stop_it_starts_no_connection() {
        let server = Server::start(&[WorkerSpec { service: Duration::ZERO, hang: None }]).unwrap();
        let plan = Plan { target: server.address(), rate: 10, connections: 1_000_000, clients: 2 };
        let outcome = run(&plan, &AtomicBool::new(true), || {});
        assert_eq!(outcome.answers.len(), 0);
    }

    #[test]
    fn quantiles_are_nearest_ranks() {
        let sorted: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile(&sorted, 0.5), Some(Duration::from_millis(50)));
        assert_eq!(quantile(&sorted, 0.99), Some(Duration::from_millis(99)));
        assert_eq!(quantile(&sorted, 1.0), Some(Duration::from_millis(100)));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
