//! Recognises this tool's programs without their pins, by the kernel's objects: each program is bound to the
//! header of its group's state and to its own setup. Whether that state is still pinned somewhere, the kernel does
//! not tell.

use sk_reuseport::Pod;
use sk_reuseport::maps::{Array, Map, MapData, MapError};
use sk_reuseport::programs::{ProgramError, ProgramInfo, SkReuseport};

use rustix::io::Errno;

use super::caps;
use super::sockets::Sockets;
use crate::error::{Error, Report};
use crate::model::group::{AttachedProgram, Group, GroupKey};
use crate::model::id::Slot;
use crate::model::selection::Steering;
use crate::wire::header::{Header, MAGIC, PREVIOUS_SCHEMA, SCHEMA};
use crate::wire::setup::Setup;

/// The name of the map that holds a header.
pub(crate) const HEADER: &str = "header";

/// The name of the map that holds a setup.
pub(crate) const SETUP: &str = "setup";

/// A program of this tool, found by its id.
#[derive(Debug)]
pub(crate) struct Recognised {
    /// `None`: of a newer version.
    setup: Option<Setup>,
    /// The maps that it may select sockets from.
    sockets: Vec<Sockets>,
}

/// Makes a program recognisable.
pub(crate) fn bind(
    program: &SkReuseport,
    header: &Array<MapData, Header>,
    setup: &Array<MapData, Setup>,
) -> Result<(), ProgramError> {
    program.bind_map(header.map_data())?;
    program.bind_map(setup.map_data())
}

impl Recognised {
    /// The program with this id; `None` if it is not of this tool, of another version, or if the caller
    /// may not open programs and maps by their ids (CAP_SYS_ADMIN).
    pub(crate) fn of(id: u32) -> Option<Self> {
        let maps = match ProgramInfo::from_id(id).and_then(|info| info.map_ids()) {
            Ok(maps) => maps?,
            Err(error) => {
                tracing::debug!("cannot look at program {id}: {}", Report::new(&error));
                return None;
            }
        };
        let (mut header, mut setup, mut sockets) = (None, None, Vec::new());
        for data in maps.into_iter().filter_map(|id| MapData::from_id(id).ok()) {
            if is_named::<Header>(&data, HEADER) {
                header = read::<Header>(data).ok().filter(|header| header.magic == MAGIC);
            } else if is_named::<Setup>(&data, SETUP) {
                setup = read(data).ok();
            } else if let Ok(map @ (Map::ReusePortSockArray(_) | Map::SockMap(_))) =
                Map::from_map_data(data)
            {
                sockets.extend(Sockets::from_map(map));
            }
        }
        let header = header?;
        let setup = match header.schema {
            SCHEMA | PREVIOUS_SCHEMA if setup.is_some() => setup,
            PREVIOUS_SCHEMA => Some(header.previous_setup(Some(id))),
            _ => return None,
        };
        Some(Self { setup, sockets })
    }

    /// How it steers the group. What it decides by is `None` if a newer version attached it.
    pub(crate) fn steering(&self, group: &Group) -> Steering {
        let program = self.setup.and_then(|setup| setup.program());
        let is_empty =
            |sockets: &Sockets| sockets.is_readable() && sockets.members_of(group).next().is_none();
        match !self.sockets.is_empty() && self.sockets.iter().all(is_empty) {
            true => Steering::Emptied(program),
            false => Steering::Elsewhere(program),
        }
    }

    /// Whether its policy needs a CPU for each member.
    pub(crate) fn places_on_cpus(&self) -> bool {
        let program = self.setup.and_then(|setup| setup.program());
        let selection = program.and_then(|program| program.selection());
        selection.is_some_and(|selection| selection.policy.places_on_cpus())
    }

    /// Takes the group's members out of its maps, once it is detached, so that other arrays accept them
    /// at once. An object's map may hold sockets of other groups, which stay.
    pub(crate) fn let_go(&mut self, group: &Group) {
        for sockets in &mut self.sockets {
            let slots: Vec<Slot> =
                sockets.members_of(group).flatten().map(|(slot, _)| slot).collect();
            for slot in slots {
                sockets.clear(slot);
            }
        }
    }
}

/// Fails if the caller may not know whose program decides for the group: opening it by its id takes CAP_SYS_ADMIN. What
/// cannot be told is not called another owner's, which a takeover would replace.
pub(crate) fn refuse_unknown(
    key: &GroupKey,
    program: Option<&AttachedProgram>,
) -> Result<(), Error> {
    let Some(AttachedProgram { id: Some(id), name }) = program else { return Ok(()) };
    match ProgramInfo::from_id(*id) {
        Err(error) if caps::os_error(&error) == Some(Errno::PERM) => {
            let failed = format!("cannot tell whose program decides for {key}, {name} (id {id})");
            Err(caps::failed(&failed, error, caps::TAKING_OVER))
        }
        _ => Ok(()),
    }
}

fn is_named<T>(map: &MapData, name: &str) -> bool {
    map.info().is_ok_and(|info| {
        info.name_as_str() == Some(name) && info.value_size() as usize == size_of::<T>()
    })
}

fn read<T: Pod>(map: MapData) -> Result<T, MapError> {
    let map: Array<_, T> = Map::from_map_data(map)?.try_into()?;
    map.get(&0, 0)
}
