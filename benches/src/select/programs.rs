//! What decides, in the variants that are compared, and a group's programs for all of them, loaded
//! once over one socket array so that changing from one to the other is one socket option.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use reuseport::id::{MaxShare, Slot, State, Weight};
use reuseport::policy::LeastLoaded;
use reuseport::table::{self, Share, Table};
use reuseport::{Attach, Balancer, Host, Policy};
use rustix::net::sockopt;
use sk_reuseport::maps::{Array, ArrayOfMaps, Map, MapData, PerCpuArray, ReusePortSockArray};
use sk_reuseport::programs::{Program, SkReuseport};
use sk_reuseport::{BtfKind, EbpfLoader, KernelBtf};

static BARE: &[u8] = include_bytes!("../../bpf/bare.bpf.o");
/// The one that reads queues directly: what is attached wherever that is allowed.
static SELECT: &[u8] = include_bytes!("../../../crates/reuseport/bpf/select_direct.bpf.o");
/// The kernel's function that it calls stands there under this number.
const RDONLY_CAST: u32 = 0x7265_6164;

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
    pub(super) const ALL: [Self; 9] = [
        Self::None,
        Self::Empty,
        Self::Bare,
        Self::Policy(Policy::LeastLoaded(LeastLoaded::DEFAULT)),
        Self::Policy(Policy::RoundRobin),
        Self::Policy(Policy::Hash),
        Self::Policy(Policy::Source),
        Self::Policy(Policy::Random),
        Self::Policy(Policy::Cpu),
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
    /// For the group at this address, of this IP protocol, 6 or 17.
    pub(super) fn load<S: AsRawFd + AsFd>(
        members: &[S],
        address: SocketAddr,
        protocol: u32,
    ) -> Result<Self> {
        let capacity = capacity(members.len());
        let addresses = addresses(members, address, protocol)?;
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
                        policy_program(policy, &addresses, protocol, &sockets)?;
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

/// Where the kernel keeps each member's socket, which `attach` finds out: in the members' order.
fn addresses<S: AsFd>(members: &[S], address: SocketAddr, protocol: u32) -> Result<Vec<u64>> {
    let host = Host::open()?;
    let name = if protocol == 6 { "tcp" } else { "udp" };
    let key = host.find(&format!("{name}:{address}").parse()?)?.key;
    let (balancer, _) = Balancer::attach(&host, &key, &Attach::default())?;
    let by_cookie = pinned_addresses()?;
    balancer.detach(&host)?;
    let of = |member: &S| {
        let cookie = sockopt::socket_cookie(member)?;
        by_cookie.get(&cookie).copied().context("a member was not enrolled")
    };
    members.iter().map(of).collect()
}

/// By cookie, of the one group that is attached.
fn pinned_addresses() -> Result<HashMap<u64, u64>> {
    let group: PathBuf = fs::read_dir("/sys/fs/bpf/reuseport/groups")?
        .next()
        .context("no group is attached")??
        .path();
    let pinned = |name| Map::from_map_data(MapData::from_pin(group.join(name))?);
    let sockets: ReusePortSockArray<MapData> = pinned("sockets")?.try_into()?;
    let addresses: Array<MapData, u64> = pinned("addresses")?.try_into()?;
    let mut by_cookie = HashMap::new();
    for slot in 0..sockets.map_data().max_entries() {
        if let Some(cookie) = sockets.get(&slot)? {
            by_cookie.insert(cookie, addresses.get(&slot, 0)?);
        }
    }
    Ok(by_cookie)
}

fn policy_program(
    policy: Policy,
    addresses: &[u64],
    protocol: u32,
    sockets: &ReusePortSockArray<MapData>,
) -> Result<(SkReuseport, PerCpuArray<MapData, u64>)> {
    let (capacity, code) = (sockets.map_data().max_entries(), policy.code());
    let topology = topology()?;
    let cpus = topology.nodes.len() as u32;
    let table = table(policy, addresses.len(), capacity, &topology)?;
    let mut tables = ArrayOfMaps::create("tables", 1, table.map_data())?;
    tables.set(0, table.map_data(), 0)?;
    let btf = KernelBtf::from_sys_fs()?;
    let socket = if protocol == 6 { "inet_connection_sock" } else { "udp_sock" };
    let types = [("bpf_rdonly_cast", BtfKind::Func), (socket, BtfKind::Struct)];
    let [rdonly_cast, socket] = btf.ids(types)?;
    let mut ebpf = EbpfLoader::new()
        .kernel_btf(&btf)
        .kernel_function(RDONLY_CAST, rdonly_cast)
        .override_global("SOCKET_TYPE", &socket, true)
        .override_global("POLICY", &code, true)
        .override_global("PROTOCOL", &protocol, true)
        .override_global("SEED", &SEED, true)
        .override_global("CPUS", &cpus, true)
        .map("sockets", sockets.map_data())
        .map("tables", tables.map_data())
        .map_max_entries("picks", capacity)
        .map_max_entries("addresses", capacity)
        .map_max_entries("paces", capacity)
        .map_max_entries("reports", capacity)
        .load(SELECT)?;
    let mut queues: Array<MapData, u64> =
        ebpf.take_map("addresses").context("no addresses")?.try_into()?;
    for (slot, address) in (0..).zip(addresses) {
        queues.set(slot, *address, 0)?;
    }
    let counters = ebpf.take_map("counters").context("no counters")?.try_into()?;
    Ok((loaded(ebpf.take_program("reuseport"))?, counters))
}

/// This machine's CPUs, in one node.
fn topology() -> Result<table::Topology> {
    let cpus = std::thread::available_parallelism()?.get();
    Ok(table::Topology { nodes: vec![0; cpus] })
}

fn table(
    policy: Policy,
    members: usize,
    capacity: u32,
    topology: &table::Topology,
) -> Result<Array<MapData, u64>> {
    let share = |slot| Share { slot, weight: Weight::DEFAULT, state: State::Active };
    let shares: Vec<Share> = (0..members as u16).map(|slot| share(Slot::new(slot))).collect();
    // Nobody counts open connections here; who is whom costs the same to look up.
    let mut table = Table::build(&shares, policy.fill(SEED), capacity).comparing(
        &shares,
        MaxShare::DEFAULT,
        |slot| Some(slot.get()),
    );
    if policy == Policy::Cpu {
        let cpus = topology.nodes.len() as u16;
        table = table.by_cpu(capacity, topology, |slot| Some(slot.get() % cpus));
    }
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
