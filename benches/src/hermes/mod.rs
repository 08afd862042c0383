//! Hermes, written from what is published of it, to compare with: Pan et al., "Hermes: Enhancing
//! Layer-7 Cloud Load Balancers with Userspace-Directed I/O Event Notification", SIGCOMM 2025. Its
//! own code is not public.
//!
//! Each worker reports in shared memory when it came round its loop, how many connections it has and
//! how many events wait for it. At the end of each round it reads all reports, computes which workers
//! may get connections ([`schedule()`]) and publishes them as 64 bits. The kernel's program picks among
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

mod schedule;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::time::{ClockId, clock_gettime};
use sk_reuseport::EbpfLoader;
use sk_reuseport::maps::{Array, MapData, MappedArray, PerCpuArray, ReusePortSockArray};
use sk_reuseport::programs::{Program, SkReuseport};

use schedule::{MOST_WORKERS, Status, schedule};

static OBJECT: &[u8] = include_bytes!("../../bpf/hermes.bpf.o");

/// How long a worker may wait for events, as in the paper.
pub(crate) const WAIT: Duration = Duration::from_millis(5);

/// A worker that has not come round its loop for this long is hung. Ten times as long as one waits:
/// shorter than the stalls that it is to find, longer than a busy round.
const HUNG_AFTER: Duration = Duration::from_millis(50);

/// A worker's report, one word each. On a cache line of its own.
type Row = [u64; 8];
const ENTERED: usize = 0;
const OPEN: usize = 1;
const PENDING: usize = 2;
/// In the place of a time: the worker waits for events.
const WAITING: u64 = 0;

/// `enum count` in bpf/hermes.bpf.c.
const COUNT_PICKS: u32 = 0;
const COUNT_FALLBACKS: u32 = 1;

/// The maps that workers share, and the program. It stays attached when this is dropped.
pub(crate) struct Hermes {
    status: Array<MapData, Row>,
    bitmap: Array<MapData, u64>,
    counts: PerCpuArray<MapData, u64>,
    program: SkReuseport,
}

impl Hermes {
    /// For the listeners of a group, each that of the worker with its index.
    ///
    /// Until a worker comes to the end of its loop, the kernel's hash decides.
    pub(crate) fn load<S: AsFd>(listeners: &[S]) -> Result<Self> {
        let workers = listeners.len();
        ensure!((1..=MOST_WORKERS).contains(&workers), "Hermes is for 1 to {MOST_WORKERS} workers");
        let workers = workers as u32;
        let mut sockets = ReusePortSockArray::create("sockets", workers)?;
        for (index, listener) in (0..).zip(listeners) {
            sockets.set(index, &listener.as_fd(), 0)?;
        }
        let mut ebpf = EbpfLoader::new().map("sockets", sockets.map_data()).load(OBJECT)?;
        let Some(Program::SkReuseport(mut program)) = ebpf.take_program("hermes") else {
            bail!("no such program")
        };
        program.load()?;
        let status = Array::create_named("status", workers, Array::<MapData, Row>::MMAPABLE)?;
        let bitmap = ebpf.take_map("bitmap").context("no bitmap")?.try_into()?;
        let counts = ebpf.take_map("counts").context("no counters")?.try_into()?;
        Ok(Self { status, bitmap, counts, program })
    }

    /// Lets the program decide for the group of `listener`.
    pub(crate) fn attach(&self, listener: impl AsFd) -> Result<()> {
        Ok(self.program.attach(listener)?)
    }

    /// How often the program picked one of the candidates.
    pub(crate) fn picks(&self) -> Result<u64> {
        Ok(self.counts.get(&COUNT_PICKS, 0)?.iter().sum())
    }

    /// How often it left the choice to the kernel.
    pub(crate) fn fallbacks(&self) -> Result<u64> {
        Ok(self.counts.get(&COUNT_FALLBACKS, 0)?.iter().sum())
    }

    /// The maps of reports and of bits, for [`HermesWorker::new`].
    pub(crate) fn map_ids(&self) -> Result<[u32; 2]> {
        Ok([self.status.map_data().info()?.id(), self.bitmap.map_data().info()?.id()])
    }
}

/// One worker's part. Its loop calls, in this order: [`loop_entered`](Self::loop_entered),
/// [`pending`](Self::pending) for each event, [`loop_ended`](Self::loop_ended).
pub(crate) struct HermesWorker {
    status: MappedArray<Row>,
    bitmap: MappedArray<u64>,
    index: u32,
    open: u64,
}

impl HermesWorker {
    /// The worker with this index. `maps` are [`Hermes::map_ids`].
    pub(crate) fn new(maps: [u32; 2], index: u32) -> Result<Self> {
        let status: Array<_, Row> = Array::over(MapData::from_id(maps[0])?)?;
        let bitmap: Array<_, u64> = Array::over(MapData::from_id(maps[1])?)?;
        ensure!(index < status.len(), "there is no worker {index} among {}", status.len());
        Ok(Self { status: status.mapped()?, bitmap: bitmap.mapped()?, index, open: 0 })
    }

    /// `epoll_wait` has returned.
    pub(crate) fn loop_entered(&mut self) {
        self.report(ENTERED, now().as_nanos() as u64);
    }

    /// How many events are still to be handled, the one at hand included.
    pub(crate) fn pending(&mut self, events: usize) {
        self.report(PENDING, events as u64);
    }

    /// A connection was accepted.
    pub(crate) fn opened(&mut self) {
        self.open += 1;
        self.report(OPEN, self.open);
    }

    /// A connection was closed.
    pub(crate) fn closed(&mut self) {
        self.open = self.open.saturating_sub(1);
        self.report(OPEN, self.open);
    }

    /// All events are handled, `epoll_wait` comes next: publishes who may get connections.
    pub(crate) fn loop_ended(&mut self) -> Result<()> {
        self.report(PENDING, 0);
        let now = now();
        let workers: Vec<Status> = (0..self.status.len()).map(|i| self.read(i, now)).collect();
        let bitmap = self.bitmap.atomic_u64(0, 0).context("there is no bitmap")?;
        bitmap.store(schedule(&workers, HUNG_AFTER), Ordering::Relaxed);
        self.report(ENTERED, WAITING);
        Ok(())
    }

    fn report(&self, what: usize, value: u64) {
        if let Some(word) = self.word(self.index, what) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn read(&self, worker: u32, now: Duration) -> Status {
        let word = |what| self.word(worker, what).map_or(0, |word| word.load(Ordering::Relaxed));
        let entered = word(ENTERED);
        let busy = || now.saturating_sub(Duration::from_nanos(entered));
        Status { busy: (entered != WAITING).then(busy), open: word(OPEN), pending: word(PENDING) }
    }

    fn word(&self, worker: u32, what: usize) -> Option<&AtomicU64> {
        self.status.atomic_u64(worker, what * size_of::<u64>())
    }
}

/// The same for all processes.
fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use sk_reuseport::net::{Bind, loopback};
    use test_support::{netns, wait};

    use super::*;

    const CONNECTIONS: u64 = 60;

    struct Group {
        listeners: Vec<TcpListener>,
        hermes: Hermes,
        workers: Vec<HermesWorker>,
    }

    impl Group {
        fn new(members: usize) -> Self {
            let listeners = Bind::new(loopback(false)).nonblocking(true).listeners(members);
            let listeners = listeners.unwrap();
            let hermes = Hermes::load(&listeners).unwrap();
            hermes.attach(&listeners[0]).unwrap();
            let maps = hermes.map_ids().unwrap();
            let worker = |index| HermesWorker::new(maps, index).unwrap();
            let workers = (0..members as u32).map(worker).collect();
            Self { listeners, hermes, workers }
        }

        /// How many of [`CONNECTIONS`] each worker got.
        fn deal(&self) -> Vec<u64> {
            let address = self.listeners[0].local_addr().unwrap();
            let clients: Vec<TcpStream> =
                (0..CONNECTIONS).map(|_| TcpStream::connect(address).unwrap()).collect();
            let mut got = vec![0; self.listeners.len()];
            wait::until("all connections are accepted", wait::BOUND, || {
                for (listener, got) in self.listeners.iter().zip(&mut got) {
                    *got += std::iter::from_fn(|| listener.accept().ok()).count() as u64;
                }
                got.iter().sum::<u64>() == CONNECTIONS
            });
            drop(clients);
            got
        }

        fn bits(&self, bits: u64) {
            self.workers[0].bitmap.atomic_u64(0, 0).unwrap().store(bits, Ordering::Relaxed);
        }

        fn counts(&self) -> (u64, u64) {
            (self.hermes.picks().unwrap(), self.hermes.fallbacks().unwrap())
        }
    }

    #[test]
    fn a_worker_whose_bit_is_not_set_gets_nothing() {
        netns::isolated(|| {
            let mut group = Group::new(3);
            (0..10).for_each(|_| group.workers[1].opened());
            group.workers[0].loop_ended().unwrap();
            let got = group.deal();
            assert!(got[1] == 0 && got[0] > 0 && got[2] > 0, "{got:?}");
            assert_eq!(group.counts(), (CONNECTIONS, 0));

            // It closes them, and is one of them again.
            (0..10).for_each(|_| group.workers[1].closed());
            group.workers[2].loop_ended().unwrap();
            let got = group.deal();
            assert!(got.iter().all(|&got| got > 0), "{got:?}");
            assert_eq!(group.counts(), (2 * CONNECTIONS, 0));
        });
    }

    #[test]
    fn with_fewer_than_two_candidates_the_kernel_decides() {
        netns::isolated(|| {
            let mut group = Group::new(2);
            group.deal();
            assert_eq!(group.counts(), (0, CONNECTIONS));
            group.workers[0].opened();
            group.workers[1].loop_ended().unwrap();
            let got = group.deal();
            assert!(got[0] > 0 && got[1] > 0, "{got:?}");
            assert_eq!(group.counts(), (0, 2 * CONNECTIONS));
        });
    }

    #[test]
    fn a_worker_that_does_not_come_round_its_loop_is_hung() {
        netns::isolated(|| {
            let mut group = Group::new(3);
            group.workers[0].loop_entered();
            group.workers[0].pending(1);
            wait::until("the first worker is hung", wait::BOUND, || {
                group.workers[1].loop_ended().unwrap();
                group.workers[1].bitmap.get(0) == Some(0b110)
            });
            assert_eq!(group.deal()[0], 0);
            assert_eq!(group.counts(), (CONNECTIONS, 0));
            group.workers[0].loop_ended().unwrap();
            assert!(group.deal().iter().all(|&got| got > 0));
        });
    }

    #[test]
    fn a_bit_names_its_worker_among_64() {
        netns::isolated(|| {
            let group = Group::new(MOST_WORKERS);
            group.bits(1 | 1 << 31 | 1 << 32 | 1 << 63);
            let got = group.deal();
            let who: Vec<usize> = (0..MOST_WORKERS).filter(|&worker| got[worker] > 0).collect();
            assert_eq!(who, [0, 31, 32, 63]);
        });
    }
}
