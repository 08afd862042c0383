//! Prepares an attachment without changing the group: loads the program, creates the maps.

use std::path::Path;

use sk_reuseport::maps::MapError;
use sk_reuseport::programs::SkReuseport;

use super::request::Attach;
use super::transaction::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::caps;
use crate::kernel::maps::PolicyMaps;
use crate::kernel::object::{self, LoadedObject, NewPins};
use crate::kernel::program::{self, Config, Loaded};
use crate::kernel::sockets::{Sockets, SocketsKind};
use crate::kernel::tables::{Length, TableMap, Tables};
use crate::model::degraded::Degraded;
use crate::model::group::Group;
use crate::model::id::Slot;
use crate::model::roster::Roster;
use crate::model::selection::{ObjectSpec, Program};
use crate::model::table::Table;
use crate::pins::group::GroupState;
use crate::pins::host_layer::HostLayer;
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

impl Transaction {
    /// `kind` is the type of the map for sockets; a user's object has its own.
    pub(super) fn prepare(
        &mut self,
        group: &Group,
        request: &Attach,
        program: &Program<ObjectSpec>,
        kind: SocketsKind,
    ) -> Result<Prepared> {
        let bpffs = self.root.bpffs().to_owned();
        let layer = match program.counts_open(group.key.protocol) {
            true => Some(&*self.layer()?),
            false => None,
        };
        prepare(group, request, program, kind, layer, &bpffs)
    }
}

fn prepare(
    group: &Group,
    request: &Attach,
    program: &Program<ObjectSpec>,
    kind: SocketsKind,
    layer: Option<&HostLayer>,
    bpffs: &Path,
) -> Result<Prepared> {
    let denied = |error| match kind {
        SocketsKind::Array => {
            caps::failed(&format!("cannot make the maps for {}", group.key), error, caps::LOADING)
        }
        SocketsKind::Map => {
            let why = "which has sockets in another program's";
            let failed = format!("cannot make a socket map for {}, {why}", group.key);
            caps::failed(&failed, error, caps::SOCKET_MAPS)
        }
    };
    let seed = seed()?;
    match program {
        Program::Selection(selection) => {
            let policy = selection.policy;
            policy.check(group.key.protocol)?;
            let capacity = capacity(group, request)?;
            let sockets = Sockets::create(kind, capacity).map_err(denied)?;
            let table = Empty::new(Length::of_policy(capacity), sockets.slots().count());
            let table = table.map_err(denied)?;
            let config = Config { policy, seed, protocol: group.key.protocol };
            let (loaded, maps) =
                program::load(config, &sockets, &table.tables, layer.map(HostLayer::members_map))?;
            let Loaded { program: loaded, degraded } = loaded;
            let setup = Setup::new(program.kind(), degraded.is_none(), layer.map(HostLayer::id));
            let state = table.state(group, seed, setup, sockets, Some(maps)).map_err(denied)?;
            state.bind(&loaded, &state.instance)?;
            Ok(Prepared { program: loaded, state, degraded, pins: NewPins::default() })
        }
        Program::Object(spec) => {
            let LoadedObject { program: loaded, sockets, pins, followed } =
                object::load(spec, bpffs)?;
            let slots = sockets.slots().count();
            let table = Empty::new(Length::of_object(slots), slots).map_err(denied)?;
            let setup = Setup::new(program.kind(), false, None);
            let mut state = table.state(group, seed, setup, sockets, None).map_err(denied)?;
            state.followed = followed;
            state.bind(&loaded, &state.instance)?;
            Ok(Prepared { program: loaded, state, degraded: None, pins })
        }
    }
}

/// A table without members.
struct Empty {
    roster: Roster,
    table: TableMap,
    tables: Tables,
}

impl Empty {
    fn new(length: Length, slots: usize) -> Result<Self, MapError> {
        let roster = Roster::empty(slots);
        let table = TableMap::create(length, &Table::default(), &roster)?;
        let tables = Tables::create(&table)?;
        Ok(Self { roster, table, tables })
    }

    /// The state that begins with it.
    fn state(
        self,
        group: &Group,
        seed: u64,
        setup: Setup,
        sockets: Sockets,
        maps: Option<PolicyMaps>,
    ) -> Result<GroupState, MapError> {
        let Self { roster, table, tables } = self;
        let instance = Instance::create(1, setup, tables, table, roster)?;
        GroupState::create(Header::new(&group.key, seed), sockets, maps, instance)
    }
}

/// Room for four times the members: a server that replaces all its workers needs room for twice.
fn capacity(group: &Group, request: &Attach) -> Result<u32> {
    const SMALLEST: u32 = 64;

    let members = u32::try_from(group.members.len()).unwrap_or(u32::MAX);
    let roomy = members.saturating_mul(4).checked_next_power_of_two().unwrap_or(Slot::LIMIT);
    let capacity = request.slots.unwrap_or(roomy.clamp(SMALLEST, Slot::LIMIT));
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
