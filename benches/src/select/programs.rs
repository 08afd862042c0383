//! What decides, in the variants that are compared, and a group's programs for all of them, loaded
//! once over one socket array so that changing from one to the other is one socket option.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, ensure};
use reuseport::Policy;
use reuseport::id::{Slot, State, Weight};
use reuseport::table::{self, Share, Table};
use sk_reuseport::EbpfLoader;
use sk_reuseport::maps::{Array, ArrayOfMaps, MapData, PerCpuArray, ReusePortSockArray};
use sk_reuseport::programs::{Program, SkReuseport};

static BARE: &[u8] = include_bytes!("../../bpf/bare.bpf.o");
static SELECT: &[u8] = include_bytes!("../../../crates/reuseport/bpf/select.bpf.o");

/// The hash policy's secret; any will do.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// What decides for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// No program: the kernel's hash.
    None,
    /// A program that leaves it to the kernel's hash.
    Empty,
    /// The least that a program which selects can do.
    Bare,
    Policy(Policy),
}

impl Variant {
    pub(super) const ALL: [Self; 6] = [
        Self::None,
        Self::Empty,
        Self::Bare,
        Self::Policy(Policy::Hash),
        Self::Policy(Policy::RoundRobin),
        Self::Policy(Policy::Random),
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "no program",
            Self::Empty => "empty program",
            Self::Bare => "bare select",
            Self::Policy(policy) => policy.name(),
        }
    }
}

/// The programs of one group, in the order of [`Variant::ALL`], and which of them decides.
pub(super) struct Programs {
    programs: Vec<Option<SkReuseport>>,
    /// Of each policy's program: what it has counted.
    counters: Vec<Option<PerCpuArray<MapData, u64>>>,
    attached: usize,
    // The programs select from it by themselves; this keeps a handle to no purpose but its name.
    _sockets: ReusePortSockArray<MapData>,
}

impl Programs {
    /// For a group of this IP protocol, 6 or 17.
    pub(super) fn load<S: AsRawFd>(members: &[S], protocol: u32) -> Result<Self> {
        let capacity = capacity(members.len());
        let mut sockets = ReusePortSockArray::create("sockets", capacity)?;
        for (index, member) in (0..).zip(members) {
            sockets.set(index, member, 0)?;
        }
        let (mut programs, mut counters) = (Vec::new(), Vec::new());
        for variant in Variant::ALL {
            let (program, counter) = match variant {
                Variant::None => (None, None),
                Variant::Empty => (Some(bare("empty", members.len(), &sockets)?), None),
                Variant::Bare => (Some(bare("bare", members.len(), &sockets)?), None),
                Variant::Policy(policy) => {
                    let (program, counter) =
                        policy_program(policy, members.len(), protocol, &sockets)?;
                    (Some(program), Some(counter))
                }
            };
            programs.push(program);
            counters.push(counter);
        }
        Ok(Self { programs, counters, attached: 0, _sockets: sockets })
    }

    /// Lets the variant with this index decide for the group of `socket`.
    pub(super) fn attach(&mut self, variant: usize, socket: impl AsFd) -> Result<()> {
        if variant != self.attached {
            match &self.programs[variant] {
                Some(program) => program.attach(socket)?,
                None => SkReuseport::detach(socket)?,
            }
            self.attached = variant;
        }
        Ok(())
    }

    /// How long the variant's program ran, in nanoseconds, and how often, while somebody counted.
    pub(super) fn ran(&self, variant: usize) -> Result<(u64, u64)> {
        let program = self.programs[variant].as_ref().context("no program runs there")?;
        let info = program.info()?;
        Ok((info.run_time_ns(), info.run_count()))
    }

    /// Refuses a measurement in which the variant's program did not pick each time.
    pub(super) fn check_picks(&self, variant: usize, expected: u64) -> Result<()> {
        const REASON_PICK: u32 = 0;

        let Some(counters) = &self.counters[variant] else { return Ok(()) };
        let picks: u64 = counters.get(&REASON_PICK, 0)?.iter().sum();
        let name = Variant::ALL[variant].name();
        ensure!(picks == expected, "{name} picked {picks} times for {expected} datagrams");
        Ok(())
    }
}

/// As `attach` has it: room for four times the members.
fn capacity(members: usize) -> u32 {
    (members as u32).saturating_mul(4).next_power_of_two().clamp(64, Slot::LIMIT)
}

fn bare(name: &str, members: usize, sockets: &ReusePortSockArray<MapData>) -> Result<SkReuseport> {
    let members = members as u32;
    let mut ebpf = EbpfLoader::new()
        .override_global("MEMBERS", &members, true)
        .map("sockets", sockets.map_data())
        .load(BARE)?;
    loaded(ebpf.take_program(name))
}

fn policy_program(
    policy: Policy,
    members: usize,
    protocol: u32,
    sockets: &ReusePortSockArray<MapData>,
) -> Result<(SkReuseport, PerCpuArray<MapData, u64>)> {
    let (capacity, code) = (sockets.map_data().max_entries(), policy.code());
    let table = table(policy, members, capacity)?;
    let mut tables = ArrayOfMaps::create("tables", 1, table.map_data())?;
    tables.set(0, table.map_data(), 0)?;
    let mut ebpf = EbpfLoader::new()
        .override_global("POLICY", &code, true)
        .override_global("PROTOCOL", &protocol, true)
        .override_global("SEED", &SEED, true)
        .map("sockets", sockets.map_data())
        .map("tables", tables.map_data())
        .map_max_entries("picks", capacity)
        .load(SELECT)?;
    let counters = ebpf.take_map("counters").context("no counters")?.try_into()?;
    Ok((loaded(ebpf.take_program("reuseport"))?, counters))
}

fn table(policy: Policy, members: usize, capacity: u32) -> Result<Array<MapData, u64>> {
    let share = |slot| Share { slot, weight: Weight::DEFAULT, state: State::Active };
    let shares: Vec<Share> = (0..members as u16).map(|slot| share(Slot::new(slot))).collect();
    let table = Table::build(&shares, policy.fill(SEED), capacity);
    let words = table::maximum_words(capacity) as u32;
    let map: Array<_, u64> = Array::create_named("table", words, Array::<MapData, u64>::MMAPABLE)?;
    let memory = map.mapped()?;
    for (index, word) in (0..).zip(&table.encode()) {
        ensure!(memory.set(index, *word), "the table is longer than its map");
    }
    Ok(map)
}

fn loaded(program: Option<Program>) -> Result<SkReuseport> {
    match program {
        Some(Program::SkReuseport(mut program)) => {
            program.load()?;
            Ok(program)
        }
        _ => anyhow::bail!("no such program"),
    }
}
