//! Hermes, written from what is published of it, to compare with: Pan et al., "Hermes: Enhancing
//! Layer-7 Cloud Load Balancers with Userspace-Directed I/O Event Notification", SIGCOMM 2025. Its
//! own code is not public.
//!
//! Each worker reports in shared memory when it came round its loop, how many connections it has and
//! how many events wait for it. At the end of each round it reads all reports, computes which workers
//! may get connections ([`schedule`]) and publishes them as 64 bits. The kernel's program picks among
//! the set bits by the flow's hash (`bpf/hermes.bpf.c`).
//!
//! From the paper: the three values, the filters and their order, θ as half the average, the schedule
//! at the end of the loop, the program, and the kernel's hash with fewer than two candidates. Guessed:
//!
//! - After which time a worker counts as hung ([`HUNG_AFTER`]); a shorter one would notice a worker
//!   that blocks sooner, and take healthy ones for hung more often.
//! - There `epoll_wait` returns after 5 ms at the latest, so that an idle worker has never been away
//!   for long. Here a worker reports that it waits, and its wait is that short as well ([`WAIT`]), so
//!   that the bits are up to date when nothing comes.
//! - Workers without connections or events all have exactly the average, and "less than" it would
//!   leave none. They all stay.
//! - There a system call writes the bits, which is the largest part of what Hermes costs. Here it is a
//!   store into memory.
//!
//! Left out: resetting connections of hung workers, more than 64 workers.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::time::{ClockId, clock_gettime};
use sk_reuseport::EbpfLoader;
use sk_reuseport::maps::{Array, MapData, MappedArray, PerCpuArray, ReusePortSockArray};
use sk_reuseport::programs::Program;

static OBJECT: &[u8] = include_bytes!("../../bpf/hermes.bpf.o");

/// How long a worker may wait for events, as in the paper.
pub(crate) const WAIT: Duration = Duration::from_millis(5);
/// A worker that has not come round its loop for this long is hung. Ten times as long as one waits:
/// shorter than the stalls that it is to find, longer than a busy round.
const HUNG_AFTER: Duration = Duration::from_millis(50);
/// A bit for each.
const MOST_WORKERS: usize = u64::BITS as usize;

/// A worker's report, one word each. On a cache line of its own.
type Row = [u64; 8];
const ENTERED: usize = 0;
const OPEN: usize = 1;
const PENDING: usize = 2;
/// In the place of a time: the worker waits for events.
const WAITING: u64 = 0;

/// `enum count` in bpf/hermes.bpf.c: picks among the candidates, and choices left to the kernel.
const COUNTS: [u32; 2] = [0, 1];

/// The maps that workers share, and the program. It stays attached when this is dropped.
pub(crate) struct Hermes {
    status: Array<MapData, Row>,
    bitmap: Array<MapData, u64>,
    counts: PerCpuArray<MapData, u64>,
}

impl Hermes {
    /// Lets the program decide for these listeners of a group, each that of the worker with its index.
    ///
    /// Until a worker comes to the end of its loop, the kernel's hash decides.
    pub(crate) fn attach<S: AsFd>(listeners: &[S]) -> Result<Self> {
        ensure!(listeners.len() <= MOST_WORKERS, "Hermes is for {MOST_WORKERS} workers at most");
        let workers = listeners.len() as u32;
        let mut sockets = ReusePortSockArray::create("sockets", workers)?;
        for (index, listener) in (0..).zip(listeners) {
            sockets.set(index, &listener.as_fd(), 0)?;
        }
        let mut ebpf = EbpfLoader::new().map("sockets", sockets.map_data()).load(OBJECT)?;
        let Some(Program::SkReuseport(mut program)) = ebpf.take_program("hermes") else {
            bail!("no such program")
        };
        program.load()?;
        program.attach(&listeners[0])?;
        let status = Array::create_named("status", workers, Array::<MapData, Row>::MMAPABLE)?;
        let bitmap = ebpf.take_map("bitmap").context("no bitmap")?.try_into()?;
        let counts = ebpf.take_map("counts").context("no counters")?.try_into()?;
        Ok(Self { status, bitmap, counts })
    }

    /// How often the program picked one of the candidates, and how often it left the choice to the
    /// kernel.
    pub(crate) fn counts(&self) -> Result<[u64; 2]> {
        let [picks, fallbacks] = COUNTS.map(|count| self.counts.get(&count, 0));
        Ok([picks?.iter().sum(), fallbacks?.iter().sum()])
    }

    /// Of reports and of bits, for [`HermesWorker::new`].
    pub(crate) fn map_ids(&self) -> Result<[u32; 2]> {
        Ok([self.status.map_data().info()?.id(), self.bitmap.map_data().info()?.id()])
    }
}

/// One worker's part, to be told of each step of its loop.
pub(crate) struct HermesWorker {
    status: MappedArray<Row>,
    bitmap: MappedArray<u64>,
    index: u32,
}

impl HermesWorker {
    /// The worker with this index. `maps` are [`Hermes::map_ids`].
    pub(crate) fn new(maps: [u32; 2], index: u32) -> Result<Self> {
        let status: Array<_, Row> = Array::over(MapData::from_id(maps[0])?)?;
        let bitmap: Array<_, u64> = Array::over(MapData::from_id(maps[1])?)?;
        Ok(Self { status: status.mapped()?, bitmap: bitmap.mapped()?, index })
    }

    /// `epoll_wait` has returned.
    pub(crate) fn loop_entered(&self) {
        self.word(self.index, ENTERED).store(now().as_nanos() as u64, Ordering::Relaxed);
    }

    /// How many events are still to be handled, the one at hand included.
    pub(crate) fn pending(&self, events: usize) {
        self.word(self.index, PENDING).store(events as u64, Ordering::Relaxed);
    }

    /// A connection was accepted or closed; this many are open.
    pub(crate) fn open(&self, connections: usize) {
        self.word(self.index, OPEN).store(connections as u64, Ordering::Relaxed);
    }

    /// All events are handled, `epoll_wait` comes next: publishes who may get connections.
    pub(crate) fn loop_ended(&self) {
        self.pending(0);
        let now = now();
        let workers: Vec<Status> = (0..self.status.len()).map(|i| self.read(i, now)).collect();
        self.bitmap().store(schedule(&workers), Ordering::Relaxed);
        self.word(self.index, ENTERED).store(WAITING, Ordering::Relaxed);
    }

    fn read(&self, worker: u32, now: Duration) -> Status {
        let [entered, open, pending] =
            [ENTERED, OPEN, PENDING].map(|what| self.word(worker, what).load(Ordering::Relaxed));
        let busy = || now.saturating_sub(Duration::from_nanos(entered));
        Status { busy: (entered != WAITING).then(busy), open, pending }
    }

    fn word(&self, worker: u32, what: usize) -> &AtomicU64 {
        self.status.atomic_u64(worker, what * size_of::<u64>()).expect("a row for each worker")
    }

    fn bitmap(&self) -> &AtomicU64 {
        self.bitmap.atomic_u64(0, 0).expect("the map has one element")
    }
}

/// The same for all processes.
fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// A worker's last report.
#[derive(Debug, Clone, Copy)]
struct Status {
    /// How long it has been in this round of its loop; `None` while it waits for events.
    busy: Option<Duration>,
    /// Open connections.
    open: u64,
    /// Events that it has not handled yet.
    pending: u64,
}

/// The paper's algorithm 1: the workers that may be picked, as bits. First those that are not hung, of
/// these those without too many connections, of these those without too many events.
fn schedule(workers: &[Status]) -> u64 {
    let lively = |worker: &Status| worker.busy.is_none_or(|busy| busy < HUNG_AFTER);
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
    use std::net::{TcpListener, TcpStream};

    use sk_reuseport::net::Bind;
    use test_support::loopback;
    use test_support::{netns, wait};

    use super::*;

    const CONNECTIONS: u64 = 300;

    /// Who gets some of [`CONNECTIONS`].
    fn deal(listeners: &[TcpListener]) -> Vec<usize> {
        let address = listeners[0].local_addr().unwrap();
        let clients: Vec<TcpStream> =
            (0..CONNECTIONS).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut got = vec![0; listeners.len()];
        wait::until("all connections are accepted", wait::BOUND, || {
            for (listener, got) in listeners.iter().zip(&mut got) {
                *got += std::iter::from_fn(|| listener.accept().ok()).count() as u64;
            }
            got.iter().sum::<u64>() == CONNECTIONS
        });
        drop(clients);
        (0..listeners.len()).filter(|&worker| got[worker] > 0).collect()
    }

    #[test]
    fn the_program_picks_those_whose_reports_are_good_or_leaves_it_to_the_kernel() {
        netns::isolated(|| {
            let bind = Bind::new(loopback(false)).nonblocking(true);
            let listeners = bind.listeners(MOST_WORKERS).unwrap();
            let hermes = Hermes::attach(&listeners).unwrap();
            let maps = hermes.map_ids().unwrap();
            // None is running.
            let workers: Vec<HermesWorker> = (0..MOST_WORKERS as u32)
                .map(|index| HermesWorker::new(maps, index).unwrap())
                .collect();
            assert!(deal(&listeners).len() > 32);
            assert_eq!(hermes.counts().unwrap(), [0, CONNECTIONS]);
            let good = [0, 31, 32, 63];
            let hung = (0..MOST_WORKERS).filter(|worker| !good.contains(worker));
            hung.for_each(|worker| workers[worker].loop_entered());
            workers[31].open(10);
            wait::until("most workers are hung", wait::BOUND, || {
                workers[0].loop_ended();
                workers[0].bitmap().load(Ordering::Relaxed) == 1 | 1 << 32 | 1 << 63
            });
            assert_eq!(deal(&listeners), [0, 32, 63]);
            workers[31].open(0);
            workers[0].loop_ended();
            assert_eq!(deal(&listeners), good);
            assert_eq!(hermes.counts().unwrap(), [2 * CONNECTIONS, CONNECTIONS]);
        });
    }

    fn worker(open: u64, pending: u64) -> Status {
        Status { busy: Some(Duration::from_millis(1)), open, pending }
    }

    #[test]
    fn equal_workers_are_all_candidates_and_hung_ones_are_none() {
        assert_eq!(schedule(&[worker(0, 0); 64]), u64::MAX);
        assert_eq!(schedule(&[worker(7, 2); 3]), 0b111);
        let hung = Status { busy: Some(HUNG_AFTER), ..worker(0, 0) };
        let waiting = Status { busy: None, ..worker(0, 0) };
        assert_eq!(schedule(&[worker(0, 0), hung, waiting]), 0b101);
        assert_eq!(schedule(&[hung; 2]), 0);
    }

    #[test]
    fn candidates_have_less_than_the_average_of_those_left_and_a_half() {
        // The average is 10: 14 is below 15, 15 is not.
        assert_eq!(schedule(&[worker(14, 0), worker(6, 0)]), 0b11);
        assert_eq!(schedule(&[worker(15, 0), worker(5, 0)]), 0b10);
        // With the first one, which has too many connections, the average of events would be 13.
        let workers = [worker(30, 30), worker(3, 2), worker(3, 4), worker(3, 0)];
        assert_eq!(schedule(&workers), 0b1010);
        let hung = Status { busy: Some(HUNG_AFTER), ..worker(100, 100) };
        assert_eq!(schedule(&[hung, worker(2, 0), worker(1, 0), worker(0, 0)]), 0b1100);
    }
}
