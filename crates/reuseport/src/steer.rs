//! The kernel program: configured, loaded, its maps made or taken over.
//!
//! Which socket is in which slot, and what the table says, is not decided here.

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::Path;

use sk_reuseport::EbpfLoader;
use sk_reuseport::maps::{
    Array, ArrayOfMaps, Map, MapData, MapError, PerCpuArray, ReusePortSockArray, SockMap,
};
use sk_reuseport::pin::PinError;
use sk_reuseport::programs::{Program, SkReuseport};

use crate::id::{Cookie, Slot};
use crate::policy::Policy;
use crate::table::{self, Table};
use crate::{Error, ErrorKind, Result, rights};

const OBJECT: &[u8] = include_bytes!("../bpf/select.bpf.o");

/// The program's name in the object.
const PROGRAM: &str = "reuseport";

/// What the program is told before it is loaded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Config {
    pub(crate) policy: Policy,
    /// The key of hashes.
    pub(crate) seed: u64,
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
}

impl PolicyMaps {
    /// The maps with the names that the program and the pins have for them.
    fn named(&self) -> [(&'static str, &MapData); 4] {
        [
            ("tables", self.tables.map_data()),
            ("cursor", self.cursor.map_data()),
            ("counters", self.counters.map_data()),
            ("picks", self.picks.map_data()),
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
        })
    }

    /// Puts a table into force. When this returns, no program reads the old one any more.
    pub(crate) fn swap_in(&mut self, table: &Table) -> Result<(), MapError> {
        let map = empty_table(self.picks.len())?;
        let memory = map.mapped()?;
        for (index, word) in table.encode().iter().enumerate() {
            let _ = memory.set(index as u32, *word);
        }
        self.tables.set(0, map.map_data(), 0)
    }

    /// Forgets how often the member that was in a slot before was picked.
    pub(crate) fn forget_picks(&mut self, slot: Slot) -> Result<(), MapError> {
        let cpus = self.picks.get(&slot.index(), 0)?.len();
        let zeros = vec![0; cpus].try_into()?;
        self.picks.set(slot.index(), zeros, 0)
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

/// Loads the program, with maps of its own beside the sockets.
pub(crate) fn load(config: Config, sockets: &Sockets) -> Result<(SkReuseport, PolicyMaps)> {
    let (policy, seed) = (config.policy.code(), config.seed);
    let tables = empty_table(sockets.capacity())
        .and_then(|pattern| ArrayOfMaps::create("tables", 1, pattern.map_data()))
        .map_err(cannot_load)?;
    let mut ebpf = EbpfLoader::new()
        .override_global("POLICY", &policy, true)
        .override_global("SEED", &seed, true)
        .map("sockets", sockets.data())
        .map("tables", tables.map_data())
        .map_max_entries("picks", sockets.capacity())
        .load(OBJECT)
        .map_err(cannot_load)?;
    let mut take = |name| ebpf.take_map(name).ok_or(MapError::KeyNotFound);
    let maps = || -> Result<_, MapError> {
        Ok(PolicyMaps {
            tables,
            cursor: take("cursor")?.try_into()?,
            counters: take("counters")?.try_into()?,
            picks: take("picks")?.try_into()?,
        })
    };
    let maps = maps().map_err(cannot_load)?;
    Ok((loaded(&mut ebpf)?, maps))
}

/// Loads the program over maps that exist: with another policy, say.
pub(crate) fn load_over(
    config: Config,
    sockets: &Sockets,
    maps: &PolicyMaps,
) -> Result<SkReuseport> {
    let (policy, seed) = (config.policy.code(), config.seed);
    let mut loader = EbpfLoader::new();
    loader
        .override_global("POLICY", &policy, true)
        .override_global("SEED", &seed, true)
        .map("sockets", sockets.data());
    for (name, map) in maps.named() {
        loader.map(name, map);
    }
    loaded(&mut loader.load(OBJECT).map_err(cannot_load)?)
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

fn cannot_load(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    rights::failed("cannot load the select program", error, rights::LOADING)
}
