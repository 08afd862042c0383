//! The programs of one group, loaded once over one socket array: changing from one to another is one
//! socket option.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use reuseport::id::{MaxShare, Slot, State, Weight};
use reuseport::policy::LeastLoaded;
use reuseport::table::{self, Fill, Share, Table};
use reuseport::{Attach, Balancer, Host, Policy};
use rustix::net::sockopt;
use sk_reuseport::maps::{Array, ArrayOfMaps, Map, MapData, PerCpuArray, ReusePortSockArray};
use sk_reuseport::programs::{Program, SkReuseport};
use sk_reuseport::{BtfKind, EbpfLoader, KernelBtf};

static BARE: &[u8] = include_bytes!("../../bpf/bare.bpf.o");
/// The variant that reads queues directly, which is attached where the kernel allows it.
pub(super) static SELECT: &[u8] =
    include_bytes!("../../../crates/reuseport/bpf/select_direct.bpf.o");
/// The number in that object that stands for the kernel's function `bpf_rdonly_cast`.
const RDONLY_CAST: u32 = 0x7265_6164;

/// The hash policy's secret; any will do.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// What decides for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// No program: the kernel's hash.
    None,
    /// A program that leaves the choice to the kernel's hash.
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

/// The transport protocol of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp = 6,
    Udp = 17,
}

/// Variants, each with the object that a policy's program comes from.
pub(super) type Variants<'a> = Vec<(Variant, &'a [u8])>;

/// [`Variant::ALL`], with the object that the command attaches.
pub(super) fn built_in() -> Variants<'static> {
    Variant::ALL.into_iter().map(|variant| (variant, SELECT)).collect()
}

/// A variant's program, and whether it picked whenever it should have.
struct Loaded {
    name: &'static str,
    program: Option<SkReuseport>,
    /// What a policy's program has counted, by reason.
    counters: Option<PerCpuArray<MapData, u64>>,
    /// Datagrams or connections that arrived while it was attached.
    arrived: u64,
}

/// The programs of one group, in the order of the variants.
pub(super) struct Programs {
    loaded: Vec<Loaded>,
    attached: Option<usize>,
    // The programs hold a reference of their own; this one keeps the array's entries.
    _sockets: ReusePortSockArray<MapData>,
}

impl Programs {
    /// For the group of `members` at this address.
    pub(super) fn load<S: AsRawFd + AsFd>(
        members: &[S],
        address: SocketAddr,
        protocol: Protocol,
        variants: &Variants<'_>,
    ) -> Result<Self> {
        let addresses = addresses(members, address, protocol)?;
        // As `attach` has it: room for four times the members.
        let capacity = (members.len() as u32).saturating_mul(4).next_power_of_two();
        let mut sockets = ReusePortSockArray::create("sockets", capacity.clamp(64, Slot::LIMIT))?;
        for (index, member) in (0..).zip(members) {
            sockets.set(index, member, 0)?;
        }
        let load = |&(variant, object): &(Variant, &[u8])| {
            let (program, counters) = match variant {
                Variant::None => (None, None),
                Variant::Empty => (Some(bare("empty", members.len(), &sockets)?), None),
                Variant::Bare => (Some(bare("bare", members.len(), &sockets)?), None),
                Variant::Policy(policy) => {
                    let (program, counters) =
                        select(policy, &addresses, protocol, &sockets, object)?;
                    (Some(program), Some(counters))
                }
            };
            Ok(Loaded { name: variant.name(), program, counters, arrived: 0 })
        };
        let loaded = variants.iter().map(load).collect::<Result<_>>()?;
        Ok(Self { loaded, attached: None, _sockets: sockets })
    }

    /// Lets the variant with this index decide for the group of `socket`.
    pub(super) fn attach(&mut self, variant: usize, socket: impl AsFd) -> Result<()> {
        if self.attached != Some(variant) {
            match &self.loaded[variant].program {
                Some(program) => program.attach(socket)?,
                None if self.attached.is_none() => {}
                None => SkReuseport::detach(socket)?,
            }
            self.attached = Some(variant);
        }
        Ok(())
    }

    /// Records that `count` datagrams or connections arrive for the attached program.
    pub(super) fn arrive(&mut self, count: usize) {
        if let Some(attached) = self.attached {
            self.loaded[attached].arrived += count as u64;
        }
    }

    /// How long the attached program ran, in nanoseconds, and how often, while runs were counted.
    pub(super) fn ran(&self) -> Result<(u64, u64)> {
        let attached = self.attached.and_then(|attached| self.loaded[attached].program.as_ref());
        let program = attached.context("no program runs")?;
        let info = program.info()?;
        Ok((info.run_time_ns(), info.run_count()))
    }

    /// Refuses the measurements if a policy's program did not pick for each arrival.
    pub(super) fn check(&self) -> Result<()> {
        const REASON_PICK: u32 = 0;

        for Loaded { name, counters, arrived, .. } in &self.loaded {
            let Some(counters) = counters else { continue };
            let picks: u64 = counters.get(&REASON_PICK, 0)?.iter().sum();
            ensure!(picks == *arrived, "{name} picked {picks} times for {arrived} arrivals");
        }
        Ok(())
    }
}

fn bare(name: &str, members: usize, sockets: &ReusePortSockArray<MapData>) -> Result<SkReuseport> {
    let mut ebpf = EbpfLoader::new()
        .override_global("MEMBERS", &(members as u32), true)
        .map("sockets", sockets.map_data())
        .load(BARE)?;
    into_kernel(ebpf.take_program(name))
}

/// Where the kernel keeps each member's socket, in the members' order: `attach` finds it out.
fn addresses<S: AsFd>(members: &[S], address: SocketAddr, protocol: Protocol) -> Result<Vec<u64>> {
    let host = Host::open()?;
    let name = if protocol == Protocol::Tcp { "tcp" } else { "udp" };
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
    let mut groups = fs::read_dir("/sys/fs/bpf/reuseport/groups")?;
    let group: PathBuf = groups.next().context("no group is attached")??.path();
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

/// A policy's program with its counters.
fn select(
    policy: Policy,
    addresses: &[u64],
    protocol: Protocol,
    sockets: &ReusePortSockArray<MapData>,
    object: &[u8],
) -> Result<(SkReuseport, PerCpuArray<MapData, u64>)> {
    let capacity = sockets.map_data().max_entries();
    let cpus = std::thread::available_parallelism()?.get();
    let topology = table::Topology { nodes: vec![0; cpus] };
    let table = table(policy, addresses.len(), capacity, &topology)?;
    let mut tables = ArrayOfMaps::create("tables", 1, table.map_data())?;
    tables.set(0, table.map_data(), 0)?;
    let btf = KernelBtf::from_sys_fs()?;
    let socket = match protocol {
        Protocol::Tcp => "inet_connection_sock",
        Protocol::Udp => "udp_sock",
    };
    let types = [("bpf_rdonly_cast", BtfKind::Func), (socket, BtfKind::Struct)];
    let [rdonly_cast, socket] = btf.ids(types)?;
    let mut ebpf = EbpfLoader::new()
        .kernel_btf(&btf)
        .kernel_function(RDONLY_CAST, rdonly_cast)
        .override_global("SOCKET_TYPE", &socket, true)
        .override_global("POLICY", &policy.code(), true)
        .override_global("PROTOCOL", &(protocol as u32), true)
        .override_global("SEED", &SEED, true)
        .override_global("CPUS", &(cpus as u32), true)
        .map("sockets", sockets.map_data())
        .map("tables", tables.map_data())
        .map_max_entries("picks", capacity)
        .map_max_entries("addresses", capacity)
        .map_max_entries("limiters", capacity)
        .map_max_entries("reports", capacity)
        .load(object)?;
    let mut queues: Array<MapData, u64> =
        ebpf.take_map("addresses").context("no addresses")?.try_into()?;
    for (slot, address) in (0..).zip(addresses) {
        queues.set(slot, *address, 0)?;
    }
    let counters = ebpf.take_map("counters").context("no counters")?.try_into()?;
    Ok((into_kernel(ebpf.take_program("reuseport"))?, counters))
}

/// A policy's table of equal members, which are in the first slots.
fn table(
    policy: Policy,
    members: usize,
    capacity: u32,
    topology: &table::Topology,
) -> Result<Array<MapData, u64>> {
    let share = |slot| Share { slot, weight: Weight::DEFAULT, state: State::Active };
    let shares: Vec<Share> = (0..members as u16).map(|slot| share(Slot::new(slot))).collect();
    let index = |slot: Slot| Some(slot.get());
    let fill = match policy {
        Policy::Hash | Policy::Source | Policy::Payload(_) => Fill::Maglev { seed: SEED },
        _ => Fill::Interleave,
    };
    let table = Table::build(&shares, fill, capacity);
    let mut table = table.comparing(&shares, MaxShare::DEFAULT, index);
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

fn into_kernel(program: Option<Program>) -> Result<SkReuseport> {
    let Some(Program::SkReuseport(mut program)) = program else {
        anyhow::bail!("no such program");
    };
    program.load()?;
    Ok(program)
}
