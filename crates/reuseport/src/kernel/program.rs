//! The select program: configured, and loaded over a group's maps.

use std::error::Error as StdError;

use sk_reuseport::maps::{Array, MapData, MapError};
use sk_reuseport::programs::{Program, SkReuseport};
use sk_reuseport::{BtfKind, EbpfError, EbpfLoader, KernelBtf};

use super::barrier;
use super::caps;
use super::cpus;
use super::maps::PolicyMaps;
use super::object::log_verdict;
use super::sockets::{Sockets, SocketsKind};
use super::tables::{Length, TableMap, Tables};
use super::types::types;
use crate::error::{Error, ErrorKind, Hint, Result};
use crate::model::degraded::Degraded;
use crate::model::group::Protocol;
use crate::model::policy::{Global, Policy};
use crate::model::roster::Roster;
use crate::model::table::Table;
use crate::wire::config;
use crate::wire::host::HostMember;

/// Reads no queues: CAP_BPF is enough.
const OBJECT: &[u8] = include_bytes!("../../bpf/select.bpf.o");
/// Reads queues by a helper call for each field.
const OBJECT_WITH_HELPER: &[u8] = include_bytes!("../../bpf/select_load.bpf.o");
/// Reads queues by direct memory access, through `bpf_rdonly_cast` (Linux 6.2).
const OBJECT_DIRECT: &[u8] = include_bytes!("../../bpf/select_direct.bpf.o");
/// Tests whether programs may read the kernel's memory.
const PROBE: &[u8] = include_bytes!("../../bpf/probe.bpf.o");

/// The program's name in each object.
const PROGRAM: &str = "reuseport";

/// The configuration of a program, fixed when it is loaded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Config {
    pub(crate) policy: Policy,
    /// The key of hashes.
    pub(crate) seed: u64,
    pub(crate) protocol: Protocol,
}

impl Config {
    /// The globals of `bpf/wire/config.h`.
    fn globals(self) -> Vec<Global> {
        let mut globals = vec![
            Global::U32(config::POLICY, self.policy.code()),
            Global::U32(config::PROTOCOL, config::protocol_number(self.protocol).into()),
            Global::U64(config::SEED, self.seed),
            Global::U32(config::CPUS, cpus::topology().nodes.len() as u32),
        ];
        globals.extend(self.policy.globals());
        globals
    }
}

/// A program that is loaded.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) program: SkReuseport,
    /// What it cannot do.
    pub(crate) degraded: Option<Degraded>,
}

/// How a program reads the members' queues.
#[derive(Debug)]
enum QueueAccess {
    Direct(Direct),
    Helper,
    /// Not at all, for this reason.
    None(Error),
}

/// The kernel's BTF ids that direct reads need.
#[derive(Debug)]
struct Direct {
    btf: &'static KernelBtf,
    rdonly_cast: u32,
    socket: u32,
    context: u32,
    shared_info: u32,
}

/// Creates the maps and loads the program over them, `sockets`, `tables` and the host's `members`. Without `members`,
/// the program must not compare open connections.
pub(crate) fn load(
    config: Config,
    sockets: &Sockets,
    tables: &Tables,
    members: Option<&Array<MapData, HostMember>>,
) -> Result<(Loaded, PolicyMaps)> {
    let capacity = sockets.capacity();
    // All objects have the same maps; this one needs none of the kernel's types.
    let mut loader = EbpfLoader::new();
    loader.map("sockets", sockets.data()).map("tables", tables.data());
    give_members(&mut loader, members);
    for map in PolicyMaps::per_slot() {
        loader.map_max_entries(map, capacity);
    }
    let mut ebpf = loader.load(OBJECT).map_err(cannot_load)?;
    let maps = PolicyMaps::take(&mut ebpf).map_err(cannot_load)?;
    let loaded = load_over(config, sockets, tables, members, &maps)?;
    Ok((loaded, maps))
}

/// Loads the program over existing maps: for another policy, for example.
pub(crate) fn load_over(
    config: Config,
    sockets: &Sockets,
    tables: &Tables,
    members: Option<&Array<MapData, HostMember>>,
    maps: &PolicyMaps,
) -> Result<Loaded> {
    let globals = config.globals();
    let mut loader = EbpfLoader::new();
    for global in &globals {
        match global {
            Global::U32(name, value) => loader.override_global(name, value, true),
            Global::U64(name, value) => loader.override_global(name, value, true),
        };
    }
    loader.map("sockets", sockets.data()).map("tables", tables.data());
    give_members(&mut loader, members);
    for (name, map) in maps.named() {
        loader.map(name, map);
    }
    let (program, degraded) = match queue_access(config.protocol) {
        QueueAccess::Direct(direct) => match load_direct(&direct, &loader) {
            Ok(program) => (program, None),
            Err(error) => {
                tracing::debug!("reading queues by helper instead: {}", error.report());
                load_with_helper(&mut loader)?
            }
        },
        QueueAccess::Helper => load_with_helper(&mut loader)?,
        QueueAccess::None(why) => {
            (load_object(OBJECT, &mut loader)?, Some(Degraded::QueuesUnread(why)))
        }
    };
    Ok(Loaded { program, degraded })
}

/// Loads the program of a policy over maps of its own, and lets go of them.
pub(crate) fn try_to_load(protocol: Protocol) -> Result<Loaded> {
    const SLOTS: u32 = 4;

    let failed = |error: MapError| caps::failed("cannot make maps", error, caps::LOADING);
    let sockets = Sockets::create(SocketsKind::Array, SLOTS).map_err(failed)?;
    let (length, roster) = (Length::of_policy(SLOTS), Roster::empty(SLOTS as usize));
    let table = TableMap::create(length, &Table::default(), &roster).map_err(failed)?;
    let tables = Tables::empty(&table).map_err(failed)?;
    let config = Config { policy: Policy::Hash, seed: 1, protocol };
    load(config, &sockets, &tables, None).map(|(loaded, _)| loaded)
}

/// Whether programs can read the kernel's memory directly, as far as the kernel's types tell.
pub(crate) fn reads_directly(btf: &'static KernelBtf) -> bool {
    direct_access(btf, Protocol::Tcp).is_some()
}

/// A program that does not read the host's members has a map of that name all the same: a small one of its own.
fn give_members<'a>(loader: &mut EbpfLoader<'a>, members: Option<&'a Array<MapData, HostMember>>) {
    match members {
        Some(members) => loader.map("members", members.map_data()),
        None => loader.map_max_entries("members", 1),
    };
}

/// Asks the kernel how the caller's programs may read queues.
fn queue_access(protocol: Protocol) -> QueueAccess {
    if !caps::has(caps::TRACING) {
        return QueueAccess::None(
            Error::new(ErrorKind::Denied, UNREADABLE).because("this needs CAP_PERFMON").with_hint(
                "attach again as root or with CAP_PERFMON; this does not interrupt traffic",
            ),
        );
    }
    let btf = match types() {
        Ok(btf) => btf,
        Err(error) => return QueueAccess::None(unreadable(error)),
    };
    // The verifier accepts direct reads where lockdown forbids the helper.
    if barrier::confidential() {
        return QueueAccess::None(
            unreadable("the kernel is locked down for confidentiality").with_hint(LOCKDOWN),
        );
    }
    if let Err(error) = probe() {
        return QueueAccess::None(unreadable(error));
    }
    direct_access(btf, protocol).map_or(QueueAccess::Helper, QueueAccess::Direct)
}

const UNREADABLE: &str = "cannot read the members' queues";
const LOCKDOWN: &str = "boot without lockdown in confidentiality mode";

fn unreadable(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Unsupported, UNREADABLE).because(error)
}

/// Loads a program that reads the kernel's memory.
fn probe() -> Result<SkReuseport> {
    const FAILED: &str = "cannot load a program that reads the kernel's memory";
    let failed = |error: EbpfError| match caps::failed(FAILED, error, caps::TRACING) {
        error if error.hint().is_some() => error,
        // Lockdown that securityfs does not show, for example because it is not mounted.
        error => error.with_hint(LOCKDOWN),
    };
    let mut ebpf = EbpfLoader::new().load(PROBE).map_err(failed)?;
    loaded(&mut ebpf, "read_kernel", failed)
}

/// The ids for direct reads; `None` if the kernel lacks the function. Without the JIT, loading fails.
fn direct_access(btf: &'static KernelBtf, protocol: Protocol) -> Option<Direct> {
    // Each begins with a struct sock.
    let socket = match protocol {
        Protocol::Tcp => "inet_connection_sock",
        Protocol::Udp => "udp_sock",
    };
    let types = [
        ("bpf_rdonly_cast", BtfKind::Func),
        (socket, BtfKind::Struct),
        ("sk_reuseport_kern", BtfKind::Struct),
        ("skb_shared_info", BtfKind::Struct),
    ];
    let [rdonly_cast, socket, context, shared_info] = btf.ids(types).ok()?;
    Some(Direct { btf, rdonly_cast, socket, context, shared_info })
}

/// With the helper; if that program does not load although it may read, without reading queues.
fn load_with_helper(loader: &mut EbpfLoader<'_>) -> Result<(SkReuseport, Option<Degraded>)> {
    let error = match load_object(OBJECT_WITH_HELPER, loader) {
        Ok(program) => return Ok((program, None)),
        Err(error) => error,
    };
    match load_object(OBJECT, loader) {
        Ok(program) => Ok((program, Some(Degraded::QueuesUnread(unreadable(error))))),
        Err(_) => Err(error),
    }
}

fn load_direct(direct: &Direct, loader: &EbpfLoader<'_>) -> Result<SkReuseport> {
    let mut loader = loader.clone();
    loader
        .kernel_btf(direct.btf)
        .kernel_function(config::RDONLY_CAST, direct.rdonly_cast)
        .override_global(config::SOCKET_TYPE, &direct.socket, true)
        .override_global(config::CONTEXT_TYPE, &direct.context, true)
        .override_global(config::SHARED_INFO_TYPE, &direct.shared_info, true);
    load_object(OBJECT_DIRECT, &mut loader)
}

fn load_object(object: &[u8], loader: &mut EbpfLoader<'_>) -> Result<SkReuseport> {
    loaded(&mut loader.load(object).map_err(cannot_load)?, PROGRAM, cannot_load)
}

fn loaded(
    ebpf: &mut sk_reuseport::Ebpf,
    name: &str,
    failed: impl Fn(EbpfError) -> Error,
) -> Result<SkReuseport> {
    match ebpf.take_program(name) {
        Some(Program::SkReuseport(mut program)) => {
            program.load().map_err(|error| {
                log_verdict(&error);
                failed(error.into())
            })?;
            Ok(program)
        }
        _ => Err(Error::new(ErrorKind::System, "the built-in program is missing")),
    }
}

fn cannot_load(error: impl Into<EbpfError>) -> Error {
    const FAILED: &str = "cannot load the select program";
    match error.into() {
        error @ EbpfError::NoBTF => Error::new(ErrorKind::Unsupported, FAILED)
            .because(error)
            .with_hint(Hint::KernelOption("CONFIG_DEBUG_INFO_BTF")),
        error => caps::failed_own(FAILED, error, caps::LOADING),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes sure that the tests of least-loaded test the direct program.
    #[test]
    fn queues_are_read_directly_where_the_kernel_can() {
        let can = KernelBtf::from_sys_fs().unwrap().ids([("bpf_rdonly_cast", BtfKind::Func)]);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let access = queue_access(protocol);
            assert_eq!(
                matches!(access, QueueAccess::Direct(_)),
                can.is_ok(),
                "{access:?}, {can:?}"
            );
            assert!(!matches!(access, QueueAccess::None(_)), "{access:?}");
            let sockets = Sockets::create(SocketsKind::Array, 4).unwrap();
            let members =
                Array::create_named("members", 4, Array::<MapData, HostMember>::MMAPABLE).unwrap();
            let config = Config { policy: Policy::default_for(protocol), seed: 1, protocol };
            let (length, roster) = (Length::of_policy(4), Roster::empty(4));
            let table = TableMap::create(length, &Table::default(), &roster).unwrap();
            let tables = Tables::empty(&table).unwrap();
            let (loaded, _) = load(config, &sockets, &tables, Some(&members)).unwrap();
            assert!(loaded.degraded.is_none(), "{protocol}");
        }
    }
}
