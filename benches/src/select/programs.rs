//! What decides for a group. Programs are loaded once over one socket array: changing from one to another
//! is one socket option.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use aya::sys::{Stats, enable_stats};
use reuseport::group::{GroupKey, Protocol};
use reuseport::{Balancer, Host, Policy};
use rustix::net::sockopt::socket_cookie;
use sk_reuseport::maps::{ArrayOfMaps, Map, MapData, PerCpuArray, ReusePortSockArray};
use sk_reuseport::programs::{Program, SkReuseport};
use sk_reuseport::{BtfKind, EbpfLoader, KernelBtf};
use test_support::btf::Btf;

use super::traffic::{Group, Traffic};

static BARE: &[u8] = include_bytes!("../../bpf/bare.bpf.o");
/// The variant that reads queues directly, which is attached where the kernel allows it.
pub(super) static SELECT: &[u8] =
    include_bytes!("../../../crates/reuseport/bpf/select_direct.bpf.o");
/// The number in that object that stands for the kernel's function `bpf_rdonly_cast`.
const RDONLY_CAST: u32 = 0x7265_6164;
/// Pins of the programs that count open connections. They run as long as they are pinned.
const COUNTING: [&str; 2] =
    ["/sys/fs/bpf/reuseport/host/count_open", "/sys/fs/bpf/reuseport/host/count_nested"];

/// What decides for a group.
pub(super) struct Variant<'a> {
    pub(super) name: String,
    /// The policy that is compared.
    pub(super) policy: Option<Policy>,
    by: By<'a>,
    /// What it costs, round by round: nanoseconds per datagram or connection.
    pub(super) whole: Vec<f64>,
    /// The program's running time, by the kernel's own count, which includes two looks at the clock.
    pub(super) program: Vec<f64>,
}

enum By<'a> {
    /// No program: the kernel's hash.
    Hash,
    /// The program with this name in this object, and nothing else.
    Program(&'static str, &'a [u8]),
    /// What the command attaches, anew for each measurement.
    Command(Policy, Parts),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Parts {
    /// Nothing, right after it detached: what attaching leaves behind.
    Nothing,
    /// All but the programs that count: sockets are only marked.
    Marks,
    /// All that the policy needs.
    All,
}

impl<'a> Variant<'a> {
    fn new(name: impl Into<String>, policy: Option<Policy>, by: By<'a>) -> Self {
        Self { name: name.into(), policy, by, whole: Vec::new(), program: Vec::new() }
    }

    /// A program that leaves the choice to the kernel's hash.
    pub(super) fn empty() -> Self {
        Self::new("empty program", None, By::Program("empty", BARE))
    }

    /// The program of a policy, from this object.
    pub(super) fn of(policy: Policy, object: &'a [u8]) -> Self {
        Self::new(policy.name(), Some(policy), By::Program("reuseport", object))
    }

    /// The variants that are compared, first the one without a program, then the empty program.
    pub(super) fn all(traffic: Traffic) -> Vec<Self> {
        let none = Self::new("no program", None, By::Hash);
        // The least that a program which selects can do.
        let bare = Self::new("bare select", None, By::Program("bare", BARE));
        let mut all = vec![none, Self::empty(), bare];
        all.extend(Policy::ALL.iter().map(|policy| Self::of(*policy, SELECT)));
        if traffic != Traffic::Connections {
            return all;
        }
        for alone in all.iter_mut().filter(|variant| variant.policy.is_some()) {
            alone.name += ", the program alone";
        }
        // Of the policies, only this one has connections counted.
        let by = |parts| By::Command(Policy::default_for(Protocol::Tcp), parts);
        all.push(Self::new("no program, just detached", None, by(Parts::Nothing)));
        all.push(Self::new("least-loaded, attached, marked only", None, by(Parts::Marks)));
        all.extend(Policy::ALL.iter().map(|policy| {
            let name = format!("{policy}, attached by the command");
            Self::new(name, Some(*policy), By::Command(*policy, Parts::All))
        }));
        all
    }
}

/// What a policy's program has counted, by reason.
type Counters = PerCpuArray<MapData, u64>;

/// A group with the variants that take turns in deciding for it.
pub(super) struct Steered<'a> {
    pub(super) variants: Vec<Variant<'a>>,
    programs: Vec<Option<SkReuseport>>,
    /// Whose program is attached.
    attached: Option<usize>,
    pub(super) group: Group,
    host: Host,
    key: GroupKey,
    /// The maps of the programs, and the slot of each member.
    sockets: ReusePortSockArray<MapData>,
    counters: Counters,
    slots: Vec<u32>,
}

impl<'a> Steered<'a> {
    /// Loads the programs over the maps of the command, which knows where the kernel keeps each member's
    /// socket and fills each policy's table, and detaches the command.
    pub(super) fn new(traffic: Traffic, members: u16, variants: Vec<Variant<'a>>) -> Result<Self> {
        let (group, host) = (Group::new(traffic, members.into())?, Host::open()?);
        let key = host.group_of(&group.members[0])?.key;
        let (balancer, attached) = Balancer::attach(&host, &key, &Policy::RoundRobin.into())?;
        ensure!(attached.degraded.is_empty(), "queues cannot be read");
        let sockets: ReusePortSockArray<MapData> = pinned("sockets")?.try_into()?;
        let counters: Counters = pinned("counters")?.try_into()?;
        let cpus = counters.get(&0, 0)?.len() as u32;
        let mut programs = Vec::new();
        for variant in &variants {
            variant.policy.map(|policy| balancer.set_policy(policy)).transpose()?;
            programs.push(load(variant, &group, cpus)?);
        }
        let mut slots = HashMap::new();
        for slot in 0..sockets.map_data().max_entries() {
            sockets.get(&slot)?.map(|cookie| slots.insert(cookie, slot));
        }
        balancer.detach()?;
        let slot = |member| slots.get(&socket_cookie(member)?).copied().context("not enrolled");
        let slots = group.members.iter().map(slot).collect::<Result<_>>()?;
        let attached = None;
        let mut steered =
            Self { variants, programs, attached, group, host, key, sockets, counters, slots };
        steered.enrol()?;
        Ok(steered)
    }

    /// Puts the members into the programs' socket array.
    fn enrol(&mut self) -> Result<()> {
        for (slot, member) in self.slots.iter().zip(&self.group.members) {
            self.sockets.set(*slot, member, 0)?;
        }
        Ok(())
    }

    /// Attaches the program of this variant, or none if it has none.
    fn attach(&mut self, variant: usize) -> Result<()> {
        let program = self.programs[variant].as_ref();
        let attached = program.map(|_| variant);
        if self.attached != attached {
            let socket = &self.group.members[0];
            program
                .map_or_else(|| SkReuseport::detach(socket), |program| program.attach(socket))?;
            self.attached = attached;
        }
        Ok(())
    }

    /// Measures a variant once.
    pub(super) fn measure(&mut self, variant: usize) -> Result<()> {
        self.attach(variant)?;
        let Variant { policy, by, .. } = &self.variants[variant];
        let whole = match *by {
            By::Command(policy, parts) => self.measure_command(policy, parts)?,
            _ => check(&mut self.group, policy.map(|_| &self.counters), Group::measure)?,
        };
        self.variants[variant].whole.push(whole);
        self.attached.map_or(Ok(()), |variant| self.time_program(variant))
    }

    /// Measures only the program's running time.
    pub(super) fn time_program(&mut self, variant: usize) -> Result<()> {
        self.attach(variant)?;
        let program = self.programs[variant].as_ref().context("no program runs")?;
        let Variant { policy, program: times, .. } = &mut self.variants[variant];
        times.push(check(&mut self.group, policy.map(|_| &self.counters), |group| {
            group.lap()?;
            let counting = enable_stats(Stats::RunTime).context("cannot count programs' runs")?;
            let before = program.info()?;
            group.send()?;
            let after = program.info()?;
            drop(counting);
            group.receive()?;
            let runs = after.run_count() - before.run_count();
            Ok((after.run_time_ns() - before.run_time_ns()) as f64 / runs.max(1) as f64)
        })?);
        Ok(())
    }

    /// A socket can be in one socket array only: meanwhile, the members are in the command's.
    fn measure_command(&mut self, policy: Policy, parts: Parts) -> Result<f64> {
        for slot in &self.slots {
            self.sockets.clear_index(slot)?;
        }
        let whole;
        let (balancer, _) = Balancer::attach(&self.host, &self.key, &policy.into())?;
        if parts == Parts::Marks {
            COUNTING.iter().try_for_each(fs::remove_file).context("cannot stop counting")?;
        }
        if parts == Parts::Nothing {
            balancer.detach()?;
            whole = self.group.measure()?;
        } else {
            let counters = pinned("counters")?.try_into()?;
            whole = check(&mut self.group, Some(&counters), Group::measure)?;
            balancer.detach()?;
        }
        self.enrol().map(|()| whole)
    }
}

/// Measures a group. Fails if the program that counts here did not pick each time.
fn check(
    group: &mut Group,
    counters: Option<&Counters>,
    measure: impl FnOnce(&mut Group) -> Result<f64>,
) -> Result<f64> {
    let Some(counters) = counters else { return measure(group) };
    // Reason 0 is a pick.
    let picks = || -> Result<u64> { Ok(counters.get(&0, 0)?.iter().sum()) };
    let (picks_before, arrived_before) = (picks()?, group.arrived);
    let measured = measure(group)?;
    let (picks, arrived) = (picks()? - picks_before, group.arrived - arrived_before);
    ensure!(picks == arrived, "{picks} picks for {arrived} arrivals");
    Ok(measured)
}

/// The state of the one group to which the command is attached.
fn state() -> Result<PathBuf> {
    Ok(fs::read_dir("/sys/fs/bpf/reuseport/groups")?.next().context("no group")??.path())
}

fn pinned(name: &str) -> Result<Map> {
    Ok(Map::from_map_data(MapData::from_pin(state()?.join(name))?)?)
}

/// The array in which its program finds its table.
fn tables() -> Result<ArrayOfMaps<MapData>> {
    for pin in fs::read_dir(state()?)? {
        let tables = pin?.path().join("tables");
        if tables.exists() {
            return Ok(Map::from_map_data(MapData::from_pin(tables)?)?.try_into()?);
        }
    }
    bail!("the group has no program")
}

/// The policy's number in a select program: that of `enum policy` in the object.
fn number(policy: Policy, object: &[u8]) -> Result<u32> {
    let name = format!("POLICY_{}", policy.name().replace('-', "_").to_uppercase());
    let all = Btf::of(object).enumeration("policy").context("the object has no enum policy")?;
    let found = all.into_iter().find(|(known, _)| *known == name);
    Ok(found.with_context(|| format!("the object has no {name}"))?.1.try_into()?)
}

/// Loads a variant's program over the maps of the group to which the command is attached, with its
/// present table. An object ignores maps that it does not have.
fn load(variant: &Variant<'_>, group: &Group, cpus: u32) -> Result<Option<SkReuseport>> {
    let By::Program(name, object) = variant.by else { return Ok(None) };
    let table = MapData::from_id(tables()?.get(&0, 0)?)?;
    let mut tables = ArrayOfMaps::create("tables", 1, &table)?;
    tables.set(0, &table, 0)?;
    let (protocol, socket) = match group.traffic {
        Traffic::Connections => (6, "inet_connection_sock"),
        _ => (17, "udp_sock"),
    };
    let btf = KernelBtf::from_sys_fs()?;
    let types = [
        ("bpf_rdonly_cast", BtfKind::Func),
        (socket, BtfKind::Struct),
        ("sk_reuseport_kern", BtfKind::Struct),
        ("skb_shared_info", BtfKind::Struct),
    ];
    let [rdonly_cast, socket, context, shared_info] = btf.ids(types)?;
    let policy = variant.policy.map_or(Ok(0), |policy| number(policy, object))?;
    let globals =
        [("POLICY", policy), ("PROTOCOL", protocol), ("SOCKET_TYPE", socket), ("CPUS", cpus)];
    let members = group.members.len() as u32;
    let mut loader = EbpfLoader::new();
    loader.kernel_btf(&btf).kernel_function(RDONLY_CAST, rdonly_cast);
    loader.override_global("MEMBERS", &members, variant.policy.is_none());
    // Earlier objects have none.
    loader.override_global("CONTEXT_TYPE", &context, false).override_global(
        "SHARED_INFO_TYPE",
        &shared_info,
        false,
    );
    for (name, value) in &globals {
        loader.override_global(name, value, variant.policy.is_some());
    }
    loader.map("tables", tables.map_data()).map_pin_path("limiters", state()?.join("paces"));
    for name in ["sockets", "cursor", "counters", "picks", "addresses", "progress", "reports"] {
        loader.map_pin_path(name, state()?.join(name));
    }
    let mut ebpf = loader.load(object)?;
    let Some(Program::SkReuseport(mut program)) = ebpf.take_program(name) else {
        bail!("no program {name}");
    };
    program.load()?;
    Ok(Some(program))
}
