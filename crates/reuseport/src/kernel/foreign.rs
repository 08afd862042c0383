//! Another owner's program and its socket arrays: opened by id, so that a group can be taken over from it and
//! be given back.
//!
//! While this value exists, the kernel keeps the program and its maps.

use std::os::fd::AsFd as _;

use sk_reuseport::maps::{Map, MapData, MapError};
use sk_reuseport::programs::{ProgramError, ProgramFd, ProgramInfo};

use super::sockets::Sockets;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::borrow;
use crate::model::group::{Group, Member};
use crate::model::id::Slot;

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
        !self.arrays.iter().all(Sockets::is_readable)
    }

    /// Where members of the group are in its arrays. Those that cannot be borrowed are left out: they could
    /// neither be moved nor be put back.
    pub(crate) fn places<'a>(&self, group: &'a Group) -> Result<Vec<Place<'a>>, MapError> {
        let mut places = self.occupied(group)?;
        places.retain(|place| place.member.unborrowable().is_none());
        Ok(places)
    }

    /// Whether a member of the group is in its arrays.
    pub(crate) fn holds_any(&self, group: &Group) -> Result<bool, MapError> {
        Ok(!self.occupied(group)?.is_empty())
    }

    fn occupied<'a>(&self, group: &'a Group) -> Result<Vec<Place<'a>>, MapError> {
        let mut places = Vec::new();
        for (array, sockets) in self.arrays.iter().enumerate() {
            for found in sockets.members_of(group) {
                let (slot, member) = found?;
                places.push(Place { array, slot, member });
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

    /// Puts members back into its arrays, as many as it can. Those that have closed meanwhile are no error.
    pub(crate) fn put_back(&mut self, places: &[Place<'_>]) -> Vec<Error> {
        let mut errors = Vec::new();
        for Place { array, slot, member } in places {
            let array = &mut self.arrays[*array];
            let result = borrow::borrow(member).and_then(|socket| {
                array.clear(*slot);
                array.set(*slot, socket.as_fd()).map_err(|error| cannot_put_back(member, error))
            });
            errors.extend(result.err().filter(|error| error.kind() != ErrorKind::Vanished));
        }
        errors
    }
}

fn cannot_put_back(member: &Member, error: MapError) -> Error {
    let failed = format!("cannot put {} back into the array that it was in", member.label());
    Error::new(ErrorKind::System, failed).because(error)
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
