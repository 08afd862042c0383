//! A program with its maps, loaded without changing any group.

use std::path::Path;

use sk_reuseport::maps::MapError;
use sk_reuseport::programs::SkReuseport;

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::caps;
use crate::kernel::object::{self, LoadedObject, NewPins};
use crate::kernel::program::{self, Config, Loaded};
use crate::kernel::sockets::{Sockets, SocketsKind};
use crate::kernel::tables::{Length, TableMap, Tables};
use crate::model::degraded::Degraded;
use crate::model::group::{Group, GroupKey};
use crate::model::id::Slot;
use crate::model::roster::Roster;
use crate::model::selection::{ObjectSpec, Program, Selection};
use crate::model::table::Table;
use crate::pins::group::GroupState;
use crate::pins::host_layer::SharedLayer;
use crate::pins::instance::Instance;
use crate::wire::header::Header;
use crate::wire::setup::Setup;

/// The program and the maps, not yet pinned, attached or filled.
pub(super) struct Prepared {
    pub(super) program: SkReuseport,
    pub(super) state: GroupState,
    /// What the program cannot do.
    pub(super) degraded: Option<Degraded>,
    /// What the user's object pinned.
    pub(super) pins: NewPins,
}

pub(super) fn prepare_selection(
    key: &GroupKey,
    selection: Selection,
    kind: SocketsKind,
    slots: u32,
    layer: Option<&SharedLayer>,
) -> Result<Prepared> {
    let denied = |error| match kind {
        SocketsKind::Array => cannot_make_maps(key, error),
        SocketsKind::Map => {
            let why = "which has sockets in another program's";
            let failed = format!("cannot make a socket map for {key}, {why}");
            caps::failed(&failed, error, caps::SOCKET_MAPS)
        }
    };
    let seed = seed()?;
    let sockets = Sockets::create(kind, slots).map_err(denied)?;
    let roster = Roster::empty(sockets.slots().count());
    let table = NewTable::unset(Length::of_policy(slots), &Table::default(), roster);
    let table = table.map_err(denied)?;
    let config = Config { policy: selection.policy, seed, protocol: key.protocol };
    let members = layer.map(|layer| &layer.members);
    let (Loaded { program, degraded }, maps) =
        program::load(config, &sockets, &table.tables, members)?;
    let setup = Setup::new(selection.into(), degraded.is_none(), layer.map(|layer| layer.id));
    let state = table.instance(1, setup).and_then(|instance| {
        GroupState::create(Header::new(key, seed), sockets, Some(maps), instance)
    });
    let state = state.map_err(denied)?;
    state.bind(&program, &state.instance)?;
    Ok(Prepared { program, state, degraded, pins: NewPins::default() })
}

pub(super) fn prepare_object(key: &GroupKey, spec: &ObjectSpec, bpffs: &Path) -> Result<Prepared> {
    let LoadedObject { program, sockets, pins, followed } = object::load(spec, bpffs)?;
    let slots = sockets.slots().count();
    let header = Header::new(key, seed()?);
    let setup = Setup::new(Program::Object(()), false, None);
    let mut state =
        NewTable::unset(Length::of_object(slots), &Table::default(), Roster::empty(slots))
            .and_then(|table| table.instance(1, setup))
            .and_then(|instance| GroupState::create(header, sockets, None, instance))
            .map_err(|error| cannot_make_maps(key, error))?;
    state.followed = followed;
    state.bind(&program, &state.instance)?;
    Ok(Prepared { program, state, degraded: None, pins })
}

fn cannot_make_maps(key: &GroupKey, error: MapError) -> Error {
    caps::failed(&format!("cannot make the maps for {key}"), error, caps::LOADING)
}

/// A table, and the array of tables that a program of its own reads.
pub(super) struct NewTable {
    roster: Roster,
    table: TableMap,
    pub(super) tables: Tables,
}

impl NewTable {
    /// In force: programs read it.
    pub(super) fn new(length: Length, table: &Table, roster: Roster) -> Result<Self, MapError> {
        let mut new = Self::unset(length, table, roster)?;
        new.tables.set(&new.table)?;
        Ok(new)
    }

    /// Not in force. The first table comes with the members: each change takes a grace period of RCU.
    fn unset(length: Length, table: &Table, roster: Roster) -> Result<Self, MapError> {
        let table = TableMap::create(length, table, &roster)?;
        let tables = Tables::empty(&table)?;
        Ok(Self { roster, table, tables })
    }

    /// The instance that begins with it.
    pub(super) fn instance(self, number: u32, setup: Setup) -> Result<Instance, MapError> {
        Instance::create(number, setup, self.tables, self.table, self.roster)
    }
}

/// Room for four times the members: a server that replaces all its workers needs room for twice.
pub(super) fn capacity(group: &Group, wanted: Option<u32>) -> Result<u32> {
    const SMALLEST: u32 = 64;

    let members = u32::try_from(group.members.len()).unwrap_or(u32::MAX);
    let roomy = members.saturating_mul(4).checked_next_power_of_two().unwrap_or(Slot::LIMIT);
    let capacity = wanted.unwrap_or(roomy.clamp(SMALLEST, Slot::LIMIT));
    if !(1..=Slot::LIMIT).contains(&capacity) {
        return Err(Error::new(ErrorKind::Invalid, format!("cannot make {capacity} slots"))
            .with_hint(format!("a group has between 1 and {} slots", Slot::LIMIT)));
    }
    Ok(capacity)
}

/// A secret: no remote sender can compute which member its flows reach.
fn seed() -> Result<u64> {
    let mut bytes = [0; 8];
    let flags = rustix::rand::GetRandomFlags::empty();
    rustix::rand::getrandom(&mut bytes[..], flags).map_err(|error| {
        Error::new(ErrorKind::System, "cannot draw a random number").because(error)
    })?;
    Ok(u64::from_ne_bytes(bytes))
}

/// A program's id.
pub(super) fn program_id(program: &SkReuseport) -> Result<u32> {
    let info = program.info().map_err(|error| {
        Error::new(ErrorKind::System, "cannot read the program's id").because(error)
    })?;
    Ok(info.id())
}
