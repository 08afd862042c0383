//! Which workers may get connections: the paper's algorithm 1, without clock and memory.

use std::time::Duration;

/// The most workers: a bit for each.
pub(super) const MOST_WORKERS: usize = u64::BITS as usize;

/// A worker's last report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    /// How long it has been in this round of its loop; `None` while it waits for events.
    pub(super) busy: Option<Duration>,
    /// Open connections.
    pub(super) open: u64,
    /// Events that it has not handled yet.
    pub(super) pending: u64,
}

/// The workers that may be picked, as bits: first those that are not hung, of these those without
/// too many connections, of these those without too many events.
pub(super) fn schedule(workers: &[Status], hung_after: Duration) -> u64 {
    let lively = |worker: &Status| worker.busy.is_none_or(|busy| busy < hung_after);
    let all = workers.iter().zip(0..MOST_WORKERS as u32);
    let bits = all.fold(0, |bits, (worker, bit)| bits | u64::from(lively(worker)) << bit);
    let bits = not_above_average(bits, workers, |worker| worker.open);
    not_above_average(bits, workers, |worker| worker.pending)
}

/// Those that have less than the average and θ, which is half the average.
///
/// All stay if none has anything: none has less than that, and the kernel's hash would feed hung ones.
fn not_above_average(bits: u64, workers: &[Status], count: impl Fn(&Status) -> u64) -> u64 {
    let candidates = || workers.iter().zip(0u32..).filter(|(_, bit)| bits >> bit & 1 == 1);
    let sum: u64 = candidates().map(|(worker, _)| count(worker)).sum();
    if sum == 0 {
        return bits;
    }
    // count < 3/2 * sum / candidates, in whole numbers
    let few = |worker: &Status| 2 * count(worker) * u64::from(bits.count_ones()) < 3 * sum;
    candidates().filter(|(worker, _)| few(worker)).fold(0, |bits, (_, bit)| bits | 1 << bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUNG_AFTER: Duration = Duration::from_millis(50);

    fn worker(open: u64, pending: u64) -> Status {
        Status { busy: Some(Duration::from_millis(1)), open, pending }
    }

    #[test]
    fn idle_workers_are_all_candidates() {
        assert_eq!(schedule(&[worker(0, 0); 3], HUNG_AFTER), 0b111);
        assert_eq!(schedule(&[worker(7, 2); 3], HUNG_AFTER), 0b111);
        assert_eq!(schedule(&[worker(0, 0); 64], HUNG_AFTER), u64::MAX);
    }

    #[test]
    fn a_hung_worker_is_none_and_one_that_waits_is() {
        let hung = Status { busy: Some(HUNG_AFTER), ..worker(0, 0) };
        let waiting = Status { busy: None, ..worker(0, 0) };
        assert_eq!(schedule(&[worker(0, 0), hung, waiting], HUNG_AFTER), 0b101);
        assert_eq!(schedule(&[hung; 2], HUNG_AFTER), 0);
    }

    #[test]
    fn connections_go_up_to_the_average_and_a_half() {
        // The average is 10: 14 is below 15, 15 is not.
        assert_eq!(schedule(&[worker(14, 0), worker(6, 0)], HUNG_AFTER), 0b11);
        assert_eq!(schedule(&[worker(15, 0), worker(5, 0)], HUNG_AFTER), 0b10);
    }

    #[test]
    fn events_are_compared_among_those_that_are_left() {
        // With the first one, which has too many connections, the average of events would be 13.
        let workers = [worker(30, 30), worker(3, 2), worker(3, 4), worker(3, 0)];
        assert_eq!(schedule(&workers, HUNG_AFTER), 0b1010);
    }

    #[test]
    fn hung_workers_do_not_raise_the_average() {
        let hung = Status { busy: Some(HUNG_AFTER), ..worker(100, 100) };
        assert_eq!(schedule(&[hung, worker(2, 0), worker(1, 0), worker(0, 0)], HUNG_AFTER), 0b1100);
    }
}
