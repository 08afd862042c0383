//! The select program on the host: the C of `bpf/select.bpf.c`, unchanged, over plain arrays instead of the
//! kernel's maps and sockets. For simulation, and for tests of policies that need neither a kernel nor root.
//!
//! It is not the verifier and not the kernel: whether a program loads, and what it costs, is for other tests.
//!
//! ```
//! use policy_model::{Config, Model, Packet, Policy, Table};
//!
//! let mut model = Model::new(Config::tcp(Policy::RoundRobin), 4);
//! model.set_table(&Table::equal(2));
//! (0..2).for_each(|slot| model.fill(slot));
//! assert_eq!(model.run(&Packet::default()), Some(0));
//! assert_eq!(model.run(&Packet::default()), Some(1));
//! ```

mod sys;
mod table;

pub use table::{Candidate, Table};

/// `enum policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the policies")]
pub enum Policy {
    Hash = 1,
    Source = 2,
    RoundRobin = 3,
    Random = 4,
    Cpu = 5,
    LeastLoaded = 6,
    Payload = 7,
}

impl Policy {
    /// Every policy, in the order of its numbers.
    pub const ALL: [Self; 7] = [
        Self::Hash,
        Self::Source,
        Self::RoundRobin,
        Self::Random,
        Self::Cpu,
        Self::LeastLoaded,
        Self::Payload,
    ];
}

/// What the loader sets, and the constants of `bpf/wire/tuning.h`.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// How a member is picked.
    pub policy: Policy,
    /// TCP, or else UDP.
    pub tcp: bool,
    /// The key of hashes.
    pub seed: u64,
    /// least-loaded: queues count.
    pub load_queue: bool,
    /// least-loaded: open connections count.
    pub load_open: bool,
    /// least-loaded: how long a worker may be busy, in nanoseconds.
    pub stale_after: u64,
    /// cpu: the number of CPUs.
    pub cpus: u32,
    /// payload: offset and length.
    pub payload: (u32, u32),
    /// `SAMPLE`, a multiple of 4.
    pub sample: u32,
    /// `WINDOW`.
    pub window: u32,
    /// `HALF_OPEN_BOUND`, below 2^31.
    pub half_open_bound: u32,
    /// `UNCOUNTED`.
    pub uncounted: u32,
}

impl Config {
    /// The program's values for TCP.
    pub fn tcp(policy: Policy) -> Self {
        Self {
            policy,
            tcp: true,
            seed: 1,
            load_queue: true,
            load_open: true,
            stale_after: 100_000_000,
            cpus: 1,
            payload: (0, 1),
            sample: 16,
            window: 8,
            half_open_bound: 256,
            uncounted: 8,
        }
    }

    /// The program's values for UDP.
    pub fn udp(policy: Policy) -> Self {
        Self { tcp: false, ..Self::tcp(policy) }
    }
}

/// `enum arrival`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arrival {
    /// A SYN or a datagram.
    #[default]
    New,
    /// A segment that begins no connection and belongs to none. TCP only.
    Stray,
    /// A connection whose listener closes.
    Migration,
}

/// What arrives.
#[derive(Debug, Clone, Copy, Default)]
pub struct Packet<'a> {
    /// The kernel's hash of its flow.
    pub hash: u32,
    /// What it is.
    pub arrival: Arrival,
    /// Whether it came over IPv6.
    pub v6: bool,
    /// Its source address; of IPv4 in the first four bytes.
    pub source: [u8; 16],
    /// What follows the transport header, of which 236 bytes are seen at most.
    pub payload: &'a [u8],
    /// The ports: source, destination.
    pub ports: (u16, u16),
    /// TCP: its sequence number.
    pub sequence: u32,
    /// Between the IP header and the transport header, 64 bytes at most: IPv4 options, a multiple of 4 bytes; or
    /// IPv6 extension headers, the last of which names no next one.
    pub extensions: &'a [u8],
    /// The number of the first of these extension headers, if there are any.
    pub first_extension: u8,
    /// It is looked up before it is delivered, so `data` begins at the IP header.
    pub early: bool,
    /// UDP: how many bytes of a receive buffer it takes.
    pub truesize: u32,
    /// UDP: how long the datagrams of a train (GSO) are; 0 for a single one.
    pub train: u16,
}

/// A member's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// TCP: connections to accept; UDP: bytes to read.
    pub waiting: u32,
    /// TCP: half-open requests.
    pub half_open: u32,
    /// TCP: the backlog; UDP: the size of the receive buffer.
    pub limit: u32,
}

impl Queue {
    /// With a limit that is not reached.
    pub fn new(waiting: u32, half_open: u32) -> Self {
        Self { waiting, half_open, limit: i32::MAX as u32 }
    }
}

/// What the program counts: `enum reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "bpf/wire/reason.h describes them")]
pub enum Reason {
    Pick,
    FallbackActive,
    FallbackDraining,
    FallbackKernel,
    Stray,
    Migration,
    MigrationKernel,
    EmptySlot,
    SelectError,
    QueueFull,
    ShareCapped,
    PayloadShort,
    Stale,
    Repeated,
    FallbackFull,
}

/// A group with its program. Slots are empty and the table too at first.
#[derive(Debug)]
pub struct Model(sys::Handle);

impl Model {
    /// # Panics
    ///
    /// Without memory.
    pub fn new(config: Config, slots: u16) -> Self {
        let raw = sys::Config {
            seed: config.seed,
            stale_after: config.stale_after,
            policy: config.policy as u32,
            protocol: if config.tcp { 6 } else { 17 },
            load: u32::from(config.load_queue) | u32::from(config.load_open) << 1,
            cpus: config.cpus,
            payload_offset: config.payload.0,
            payload_length: config.payload.1,
            sample: config.sample,
            window: config.window,
            slow_start: 8,
            half_open_bound: config.half_open_bound,
            uncounted: config.uncounted,
            uncounted_blind: 64,
        };
        let words = 64 + 4 * u32::from(slots);
        Self(sys::Handle::new(&raw, slots.into(), words).expect("memory for a model"))
    }

    /// Puts a table into force. It has at most eight entries for each slot.
    pub fn set_table(&mut self, table: &Table) {
        (0..).zip(table.encode()).for_each(|(index, word)| self.0.set_word(index, word));
    }

    /// A socket is in the slot; what was remembered of the slot is forgotten, as when a member is enrolled.
    pub fn fill(&mut self, slot: u16) {
        self.0.set_socket(slot.into(), 0);
        self.begin(slot, false);
    }

    /// No socket is in the slot.
    pub fn empty(&mut self, slot: u16) {
        const ENOENT: i32 = 2;
        self.0.set_socket(slot.into(), -ENOENT);
    }

    /// A socket of another group is in the slot.
    pub fn fill_with_stranger(&mut self, slot: u16) {
        const EBADFD: i32 = 77;
        self.0.set_socket(slot.into(), -EBADFD);
    }

    /// What waits at the member.
    pub fn set_queue(&mut self, slot: u16, queue: Queue) {
        let Queue { waiting, half_open, limit } = queue;
        self.0.set_queue(slot.into(), &sys::Queue { waiting, half_open, limit });
    }

    /// More connections of the member are counted as opened (those that wait included) and as closed.
    pub fn count(&mut self, host: u16, opened: u32, closed: u32) {
        self.0.count(host.into(), opened, closed);
    }

    /// Whether the member's queue can be read.
    pub fn set_known(&mut self, slot: u16, known: bool) {
        self.0.set_address(slot.into(), known);
    }

    /// What the member's worker reports: a word of `epoch` busy since then, and requests in flight. Times
    /// are in units of 2^16 nanoseconds.
    pub fn set_report(&mut self, slot: u16, epoch: u64, busy: u64, in_flight: u64) {
        self.0.set_report(slot.into(), [epoch, busy, in_flight]);
    }

    /// The member is new: slowly, if others were there before.
    pub fn begin(&mut self, slot: u16, slowly: bool) {
        self.0.set_start(slot.into(), slowly.into());
    }

    /// The clock, in nanoseconds.
    pub fn set_clock(&mut self, now: u64) {
        self.0.set_clock(now);
    }

    /// On which CPU the program runs.
    pub fn set_cpu(&mut self, cpu: u32) {
        self.0.set_cpu(cpu);
    }

    /// Runs the program: the slot that it selects, or `None` if it leaves the choice to the kernel.
    pub fn run(&mut self, packet: &Packet<'_>) -> Option<u16> {
        let Packet { hash, arrival, v6, source, payload, ports, sequence, .. } = *packet;
        let Packet { extensions, first_extension, early, truesize, train, .. } = *packet;
        let arrival = arrival as u32;
        let packet = sys::Packet {
            hash,
            arrival,
            v6,
            source,
            payload,
            ports,
            sequence,
            extensions,
            first_extension,
            early,
            truesize,
            train,
        };
        u16::try_from(self.0.run(&packet)).ok()
    }

    /// A counter.
    pub fn counter(&self, reason: Reason) -> u64 {
        self.0.counter(reason as u32)
    }

    /// How often the member in a slot was picked.
    pub fn picks(&self, slot: u16) -> u64 {
        self.0.picks(slot.into())
    }
}
