//! Recognises this tool's programs without their pins, by the kernel's objects: each program is bound to the
//! header of its group's state. Whether that state is still pinned somewhere, the kernel does not tell.

use sk_reuseport::maps::{Array, Map, MapData, MapError};
use sk_reuseport::programs::{ProgramError, ProgramInfo, SkReuseport};

use super::sockets::Sockets;
use crate::error::Report;
use crate::model::group::Group;
use crate::model::id::Slot;
use crate::model::selection::Steering;
use crate::wire::header::{Header, MAGIC, SCHEMA};

/// The name of the map that holds a header.
pub(crate) const HEADER: &str = "header";

/// A program of this tool, found by its id.
#[derive(Debug)]
pub(crate) struct Recognised {
    id: u32,
    header: Header,
    /// The maps that it may select sockets from.
    sockets: Vec<Sockets>,
}

/// Makes a program recognisable.
pub(crate) fn bind(
    program: &SkReuseport,
    header: &Array<MapData, Header>,
) -> Result<(), ProgramError> {
    program.bind_map(header.map_data())
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
        let (mut header, mut sockets) = (None, Vec::new());
        for data in maps.into_iter().filter_map(|id| MapData::from_id(id).ok()) {
            if is_header(&data) {
                header = read(data)
                    .ok()
                    .filter(|header| header.magic == MAGIC && header.schema == SCHEMA);
            } else if let Ok(map @ (Map::ReusePortSockArray(_) | Map::SockMap(_))) =
                Map::from_map_data(data)
            {
                sockets.extend(Sockets::from_map(map));
            }
        }
        header.map(|header| Self { id, header, sockets })
    }

    /// How it steers the group. What it decides by is `None` if a newer version attached it.
    pub(crate) fn steering(&self, group: &Group) -> Steering {
        let program = self.header.program_with_id(self.id);
        let is_empty =
            |sockets: &Sockets| sockets.is_readable() && sockets.members_of(group).next().is_none();
        match !self.sockets.is_empty() && self.sockets.iter().all(is_empty) {
            true => Steering::Emptied(program),
            false => Steering::Elsewhere(program),
        }
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

fn is_header(map: &MapData) -> bool {
    map.info().is_ok_and(|info| {
        info.name_as_str() == Some(HEADER) && info.value_size() as usize == size_of::<Header>()
    })
}

fn read(header: MapData) -> Result<Header, MapError> {
    let header: Array<_, Header> = Map::from_map_data(header)?.try_into()?;
    header.get(&0, 0)
}
