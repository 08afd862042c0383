//! The kernel program: configured, loaded, its maps made or taken over.
//!
//! Which socket is in which slot, and what the table says, is not decided here.

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::Path;

use sk_reuseport::maps::{
    Array, ArrayOfMaps, Map, MapData, MapError, PerCpuArray, ReusePortSockArray, SockMap,
};
use sk_reuseport::pin::PinError;
use sk_reuseport::programs::{Program, SkReuseport};
use sk_reuseport::{BtfKind, EbpfError, EbpfLoader, KernelBtf};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::cpus;
use crate::group::Protocol;
use crate::id::{Cookie, Slot};
use crate::policy::Policy;
use crate::state::layout::HostMember;
use crate::state::reports::Reports;
use crate::table::{self, Table};
use crate::{Error, ErrorKind, Result, rights};

/// The program, the one that reads queues too, and the one that does so without a call for each field.
const OBJECT: &[u8] = include_bytes!("../bpf/select.bpf.o");
const OBJECT_WITH_LOAD: &[u8] = include_bytes!("../bpf/select_load.bpf.o");
const OBJECT_DIRECT: &[u8] = include_bytes!("../bpf/select_direct.bpf.o");

/// Stands for the kernel's bpf_rdonly_cast in the last one: `RDONLY_CAST` in bpf/config.h.
const RDONLY_CAST: u32 = 0x7265_6164;

/// The program's name in the object.
const PROGRAM: &str = "reuseport";

/// What the program is told before it is loaded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Config {
    pub(crate) policy: Policy,
    /// The key of hashes.
    pub(crate) seed: u64,
    pub(crate) protocol: Protocol,
}

impl Config {
    fn globals(self) -> Globals {
        let (load, payload) = match self.policy {
            Policy::LeastLoaded(options) => (Some(options), None),
            Policy::Payload(payload) => (None, Some(payload)),
            _ => (None, None),
        };
        Globals {
            policy: self.policy.code(),
            protocol: match self.protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
            },
            seed: self.seed,
            load: load.map_or(0, |options| options.load.bits()),
            stale_after: load.unwrap_or_default().stale_after.nanoseconds(),
            cpus: cpus::topology().nodes.len() as u32,
            payload_offset: payload.map_or(0, |payload| payload.offset().into()),
            payload_length: payload.map_or(1, |payload| payload.length().into()),
        }
    }
}

/// The values of bpf/config.h.
struct Globals {
    policy: u32,
    protocol: u32,
    seed: u64,
    load: u32,
    /// In ns.
    stale_after: u64,
    cpus: u32,
    payload_offset: u32,
    payload_length: u32,
}

impl Globals {
    fn loader(&self) -> EbpfLoader<'_> {
        let mut loader = EbpfLoader::new();
        loader
            .override_global("POLICY", &self.policy, true)
            .override_global("PROTOCOL", &self.protocol, true)
            .override_global("SEED", &self.seed, true)
            .override_global("LOAD", &self.load, true)
            .override_global("STALE_AFTER", &self.stale_after, true)
            .override_global("CPUS", &self.cpus, true)
            .override_global("PAYLOAD_OFFSET", &self.payload_offset, true)
            .override_global("PAYLOAD_LENGTH", &self.payload_length, true);
        loader
    }
}

/// A program that is loaded, and why it does without something, if it does.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) program: SkReuseport,
    /// Why it cannot read the members' queues.
    pub(crate) lost: Option<Error>,
}

/// What least-loaded remembers of a slot: `struct pace` in bpf/least_loaded.h.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Pace {
    window: u32,
    picked: u32,
    length: u32,
    empty: u32,
    start: u32,
    joined: u32,
}

/// How a member begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// With the others: there is nobody who has been there for longer.
    Together,
    /// While others serve already: least-loaded lets it begin slowly.
    Slow,
}

/// The sockets that the program selects from.
#[derive(Debug)]
pub(crate) enum Sockets {
    /// The map type made for it.
    Array(ReusePortSockArray<MapData>),
    /// For sockets that are in another program's socket maps already: a socket can be in any number
    /// of those, or in one socket array, but not in both.
    Map(SockMap<MapData>),
}

impl Sockets {
    pub(crate) fn array(capacity: u32) -> Result<Self, MapError> {
        ReusePortSockArray::create("sockets", capacity).map(Self::Array)
    }

    pub(crate) fn map(capacity: u32) -> Result<Self, MapError> {
        SockMap::create("sockets", capacity).map(Self::Map)
    }

    pub(crate) fn from_map(map: Map) -> Result<Self, MapError> {
        match map {
            Map::SockMap(_) => Ok(Self::Map(map.try_into()?)),
            other => Ok(Self::Array(other.try_into()?)),
        }
    }

    pub(crate) fn data(&self) -> &MapData {
        match self {
            Self::Array(array) => array.map_data(),
            Self::Map(map) => map.map_data(),
        }
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.data().max_entries()
    }

    pub(crate) fn set(&mut self, slot: Slot, socket: BorrowedFd<'_>) -> Result<(), MapError> {
        let socket = socket.as_raw_fd();
        match self {
            Self::Array(array) => array.set(slot.index(), &socket, 0),
            Self::Map(map) => map.set(slot.index(), &socket, 0),
        }
    }

    /// Empties a slot. One that the kernel has emptied already is fine.
    pub(crate) fn clear(&mut self, slot: Slot) {
        // ENOENT (array) and EINVAL (map) say that it was empty.
        let _ = match self {
            Self::Array(array) => array.clear_index(&slot.index()),
            Self::Map(map) => map.clear_index(&slot.index()),
        };
    }

    /// Which socket is in a slot.
    pub(crate) fn occupant(&self, slot: Slot) -> Result<Occupant, MapError> {
        let cookie = match self {
            Self::Array(array) => array.get(&slot.index()),
            Self::Map(map) => map.get(&slot.index()),
        };
        match cookie {
            Ok(cookie) => {
                Ok(cookie.and_then(Cookie::new).map_or(Occupant::Nobody, Occupant::Socket))
            }
            Err(MapError::CookiesUnreadable) => Ok(Occupant::Unknown),
            Err(error) => Err(error),
        }
    }
}

/// Who is in a slot of the socket array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occupant {
    Nobody,
    Socket(Cookie),
    /// The array, a user's own, cannot be read.
    Unknown,
}

/// The maps of the program, beside the sockets.
#[derive(Debug)]
pub(crate) struct PolicyMaps {
    pub(crate) tables: ArrayOfMaps<MapData>,
    pub(crate) cursor: Array<MapData, u64>,
    pub(crate) counters: PerCpuArray<MapData, u64>,
    pub(crate) picks: PerCpuArray<MapData, u64>,
    /// The kernel's addresses of the members' sockets, by slot, for reading their queues. A secret of
    /// the kernel: pinned for its owner only, and never mapped into memory.
    addresses: Array<MapData, u64>,
    paces: Array<MapData, Pace>,
    /// What workers say of themselves, by slot.
    pub(crate) reports: Reports,
}

impl PolicyMaps {
    /// The maps with the names that the program and the pins have for them.
    fn named(&self) -> [(&'static str, &MapData); 7] {
        [
            ("tables", self.tables.map_data()),
            ("cursor", self.cursor.map_data()),
            ("counters", self.counters.map_data()),
            ("picks", self.picks.map_data()),
            ("addresses", self.addresses.map_data()),
            ("paces", self.paces.map_data()),
            ("reports", self.reports.map_data()),
        ]
    }

    pub(crate) fn pin(&self, directory: &Path) -> Result<(), PinError> {
        self.named().into_iter().try_for_each(|(name, map)| map.pin(directory.join(name)))
    }

    pub(crate) fn from_pins(directory: &Path) -> Result<Self, MapError> {
        let open = |name| Map::from_map_data(MapData::from_pin(directory.join(name))?);
        Ok(Self {
            tables: open("tables")?.try_into()?,
            cursor: open("cursor")?.try_into()?,
            counters: open("counters")?.try_into()?,
            picks: open("picks")?.try_into()?,
            addresses: open("addresses")?.try_into()?,
            paces: open("paces")?.try_into()?,
            reports: open("reports")?.try_into()?,
        })
    }

    /// Puts a table into force. When this returns, no program reads the old one any more.
    pub(crate) fn swap_in(&mut self, table: &Table) -> Result<(), MapError> {
        let map = empty_table(self.picks.len())?;
        let memory = map.mapped()?;
        for (index, word) in (0..).zip(&table.encode()) {
            if !memory.set(index, *word) {
                return Err(MapError::OutOfBounds {
                    index,
                    max_entries: map.map_data().max_entries(),
                });
            }
        }
        self.tables.set(0, map.map_data(), 0)
    }

    /// Prepares a slot for a new member, that of this epoch, whose socket the kernel has at this
    /// address.
    pub(crate) fn receive(&mut self, slot: Slot, epoch: u32, address: u64) -> Result<(), MapError> {
        let cpus = self.picks.get(&slot.index(), 0)?.len();
        let zeros = vec![0; cpus].try_into()?;
        self.picks.set(slot.index(), zeros, 0)?;
        self.reports.welcome(slot, epoch);
        self.addresses.set(slot.index(), address, 0)
    }

    /// A slot has a socket that it had not: nothing that was learnt of it holds any more. To be
    /// called when the socket is in the slot, or the program might learn that there is none.
    pub(crate) fn begin_anew(&mut self, slot: Slot, start: Start) -> Result<(), MapError> {
        let start = match start {
            Start::Together => 0,
            Start::Slow => 1,
        };
        self.paces.set(slot.index(), Pace { start, ..Pace::default() }, 0)
    }

    /// Nobody is in the slot any more.
    pub(crate) fn forget(&mut self, slot: Slot) {
        self.reports.dismiss(slot);
        // A failure leaves what the next member overwrites.
        let _ = self.addresses.set(slot.index(), 0, 0);
    }

    /// How often the member in a slot was picked.
    pub(crate) fn picks_of(&self, slot: Slot) -> Result<u64, MapError> {
        Ok(self.picks.get(&slot.index(), 0)?.iter().sum())
    }
}

/// A table for a group with so many slots. All of a group's are of one length: see bpf/table.h.
fn empty_table(capacity: u32) -> Result<Array<MapData, u64>, MapError> {
    let words = table::maximum_words(capacity) as u32;
    Array::create_named("table", words, Array::<MapData, u64>::MMAPABLE)
}

/// Loads the program, with maps of its own beside the sockets and the members of the host.
pub(crate) fn load(
    config: Config,
    sockets: &Sockets,
    members: &Array<MapData, HostMember>,
) -> Result<(Loaded, PolicyMaps)> {
    let capacity = sockets.capacity();
    let tables = empty_table(capacity)
        .and_then(|pattern| ArrayOfMaps::create("tables", 1, pattern.map_data()))
        .map_err(cannot_load)?;
    // For the maps: they are the same in all objects, and this one needs nothing of the kernel's types.
    let mut ebpf = EbpfLoader::new()
        .map("sockets", sockets.data())
        .map("tables", tables.map_data())
        .map("members", members.map_data())
        .map_max_entries("picks", capacity)
        .map_max_entries("addresses", capacity)
        .map_max_entries("paces", capacity)
        .map_max_entries("reports", capacity)
        .load(OBJECT)
        .map_err(cannot_load)?;
    let mut take = |name| ebpf.take_map(name).ok_or(MapError::KeyNotFound);
    let maps = || -> Result<_, MapError> {
        Ok(PolicyMaps {
            tables,
            cursor: take("cursor")?.try_into()?,
            counters: take("counters")?.try_into()?,
            picks: take("picks")?.try_into()?,
            addresses: take("addresses")?.try_into()?,
            paces: take("paces")?.try_into()?,
            reports: take("reports")?.try_into()?,
        })
    };
    let maps = maps().map_err(cannot_load)?;
    let loaded = load_over(config, sockets, members, &maps)?;
    Ok((loaded, maps))
}

/// Loads the program over maps that exist: with another policy, say.
pub(crate) fn load_over(
    config: Config,
    sockets: &Sockets,
    members: &Array<MapData, HostMember>,
    maps: &PolicyMaps,
) -> Result<Loaded> {
    let globals = config.globals();
    let mut loader = globals.loader();
    loader.map("sockets", sockets.data()).map("members", members.map_data());
    for (name, map) in maps.named() {
        loader.map(name, map);
    }
    if let Some(program) = load_direct(config.protocol, &loader) {
        return Ok(Loaded { program, lost: None });
    }
    match load_object(OBJECT_WITH_LOAD, &mut loader) {
        Ok(program) => Ok(Loaded { program, lost: None }),
        // Queues cannot be read without CAP_PERFMON, nor where the kernel is locked down for
        // confidentiality. If the program loads when it does not, that was why; else the first error
        // stands.
        Err(error) => match load_object(OBJECT, &mut loader) {
            Ok(program) => Ok(Loaded { program, lost: Some(lost(error)) }),
            Err(_) => Err(error),
        },
    }
}

/// The fastest one. `None` where the kernel has not what it takes, or does not let us: the others say
/// what is to be said then.
fn load_direct(protocol: Protocol, loader: &EbpfLoader<'_>) -> Option<SkReuseport> {
    // The verifier lets reads like these pass where the lockdown forbids reading the kernel's memory.
    if !rights::has(rights::TRACING) || rights::confidential() {
        return None;
    }
    let btf = KernelBtf::from_sys_fs().ok()?;
    // Each begins with a struct sock.
    let socket = match protocol {
        Protocol::Tcp => "inet_connection_sock",
        Protocol::Udp => "udp_sock",
    };
    let types = [("bpf_rdonly_cast", BtfKind::Func), (socket, BtfKind::Struct)];
    let [rdonly_cast, socket] = btf.ids(types).ok()?;
    let mut loader = loader.clone();
    loader.kernel_btf(&btf).kernel_function(RDONLY_CAST, rdonly_cast).override_global(
        "SOCKET_TYPE",
        &socket,
        true,
    );
    load_object(OBJECT_DIRECT, &mut loader).ok()
}

fn lost(error: Error) -> Error {
    const TRIED: &str = "cannot read the members' queues";
    if rights::has(rights::TRACING) {
        return Error::new(ErrorKind::Unsupported, TRIED)
            .because(error)
            .remedy("a kernel that is locked down for confidentiality lets nobody read them");
    }
    Error::new(ErrorKind::Denied, TRIED)
        .because("the program does not load without CAP_PERFMON when it does")
        .remedy("attach again as root or with CAP_PERFMON: that changes it, under traffic")
}

fn load_object(object: &[u8], loader: &mut EbpfLoader<'_>) -> Result<SkReuseport> {
    loaded(&mut loader.load(object).map_err(cannot_load)?)
}

fn loaded(ebpf: &mut sk_reuseport::Ebpf) -> Result<SkReuseport> {
    match ebpf.take_program(PROGRAM) {
        Some(Program::SkReuseport(mut program)) => {
            program.load().map_err(cannot_load)?;
            Ok(program)
        }
        _ => Err(Error::new(ErrorKind::System, "the built-in program is missing")),
    }
}

fn cannot_load(error: impl Into<EbpfError>) -> Error {
    const TRIED: &str = "cannot load the select program";
    match error.into() {
        error @ EbpfError::NoBTF => Error::new(ErrorKind::Unsupported, TRIED)
            .because(error)
            .remedy("this kernel was built without CONFIG_DEBUG_INFO_BTF: use one with it"),
        error => rights::failed(TRIED, error, rights::LOADING),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Elsewhere it is the other one that every test of least-loaded is about.
    #[test]
    fn queues_are_read_directly_where_the_kernel_can() {
        let can = KernelBtf::from_sys_fs().unwrap().ids([("bpf_rdonly_cast", BtfKind::Func)]);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let policy = Policy::default_for(protocol);
            let config = Config { policy, seed: 1, protocol };
            let sockets = Sockets::array(4).unwrap();
            let members =
                Array::create_named("members", 4, Array::<MapData, HostMember>::MMAPABLE).unwrap();
            let (_, maps) = load(config, &sockets, &members).unwrap();
            let globals = config.globals();
            let mut loader = globals.loader();
            loader.map("sockets", sockets.data()).map("members", members.map_data());
            maps.named().into_iter().for_each(|(name, map)| _ = loader.map(name, map));
            let program = load_direct(protocol, &loader);
            assert_eq!(program.is_some(), can.is_ok(), "{protocol}: {can:?}");
        }
    }
}
