//! Another owner's program and its socket arrays: opened by id, so that a group can be taken over from it and
//! be given back.
//!
//! While this value exists, the kernel keeps the program and its maps.

use std::os::fd::AsFd as _;

use sk_reuseport::maps::{Map, MapData, MapError};
use sk_reuseport::programs::{ProgramError, ProgramFd, ProgramInfo};

use super::sockets::Sockets;
use crate::error::Result;
use crate::kernel::borrow;
use crate::model::group::{Group, Member};
use crate::model::id::Slot;
use crate::model::membership::Occupant;

/// A program of another owner, and the arrays from which it selects.
pub(crate) struct Foreign {
    pub(crate) program: ProgramFd,
    arrays: Vec<Sockets>,
}

/// Where a member is in the arrays.
pub(crate) struct Place<'a> {
    array: usize,
    slot: Slot,
    member: &'a Member,
}

impl Foreign {
    /// The program with this id. Needs CAP_SYS_ADMIN.
    pub(crate) fn open(id: u32) -> Result<Self, ProgramError> {
        Self::of(&ProgramInfo::from_id(id)?)
    }

    /// A program, with the socket arrays that it uses. Needs CAP_SYS_ADMIN.
    pub(crate) fn of(info: &ProgramInfo) -> Result<Self, ProgramError> {
        let (program, mut arrays) = (info.fd()?, Vec::new());
        for id in info.map_ids()?.unwrap_or_default() {
            add_arrays(id, &mut arrays)?;
        }
        Ok(Self { program, arrays })
    }

    /// Whether user space cannot read which sockets are in one of its arrays: its values have 4 bytes.
    pub(crate) fn is_unreadable(&self) -> bool {
        let unknown = |array: &Sockets| {
            let first = array.slots().next();
            first.is_some_and(|slot| matches!(array.occupant(slot), Ok(Occupant::Unknown)))
        };
        self.arrays.iter().any(unknown)
    }

    /// Where members of the group are in its arrays.
    pub(crate) fn places<'a>(&self, group: &'a Group) -> Result<Vec<Place<'a>>, MapError> {
        let mut places = Vec::new();
        for (array, sockets) in self.arrays.iter().enumerate() {
            for slot in sockets.slots() {
                if let Occupant::Socket(cookie) = sockets.occupant(slot)?
                    && let Some(member) = group.member(cookie)
                {
                    places.push(Place { array, slot, member });
                }
            }
        }
        Ok(places)
    }

    /// Takes members out of its arrays, so that other ones accept them. The program must not decide: it
    /// might drop what it cannot select.
    pub(crate) fn clear(&mut self, places: &[Place<'_>]) {
        for Place { array, slot, .. } in places {
            self.arrays[*array].clear(*slot);
        }
    }

    /// Puts members back into its arrays. Those that have closed meanwhile are left out.
    pub(crate) fn put_back(&mut self, places: &[Place<'_>]) -> Result<(), MapError> {
        let mut result = Ok(());
        for Place { array, slot, member } in places {
            let Ok(socket) = borrow::borrow(member) else { continue };
            let array = &mut self.arrays[*array];
            array.clear(*slot);
            if let Err(error) = array.set(*slot, socket.as_fd()) {
                result = Err(error);
            }
        }
        result
    }
}

/// Adds the socket array with this id, or those in the array of maps with this id.
fn add_arrays(id: u32, arrays: &mut Vec<Sockets>) -> Result<(), ProgramError> {
    let map = MapData::from_id(id).and_then(Map::from_map_data).map_err(ProgramError::from)?;
    match map {
        Map::ReusePortSockArray(_) => arrays.extend(Sockets::from_map(map)),
        Map::ArrayOfMaps(ref data) => {
            let inner = sk_reuseport::maps::ArrayOfMaps::try_from(&map);
            if let Ok(inner) = inner {
                let indices = 0..data.max_entries();
                for id in indices.filter_map(|index| inner.get(&index, 0).ok()) {
                    let map = MapData::from_id(id).and_then(Map::from_map_data);
                    if let Ok(map @ Map::ReusePortSockArray(_)) = map {
                        arrays.extend(Sockets::from_map(map));
                    }
                }
            }
        }
        _ => {}
    }
    Ok(())
}
