//! The map that a select program selects a group's sockets from.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::io::Errno;
use sk_reuseport::maps::{Map, MapData, MapError, ReusePortSockArray, SockHash, SockMap};

use super::caps;
use crate::model::group::{Group, Member};
use crate::model::id::{Cookie, Slot};
use crate::model::membership::{Emptied, Occupant};

/// The type of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SocketsKind {
    /// `BPF_MAP_TYPE_REUSEPORT_SOCKARRAY`.
    Array,
    /// `BPF_MAP_TYPE_SOCKMAP`, for sockets that are in another program's socket maps: a socket can be in
    /// any number of socket maps or in one socket array, never in both.
    Map,
}

/// The sockets that the program selects from, by slot.
#[derive(Debug)]
pub(crate) enum Sockets {
    Array(ReusePortSockArray<MapData>),
    Map(SockMap<MapData>),
    /// A user's own, whose keys are the slots.
    Hash(SockHash<MapData, u32>),
    /// The same with keys of 8 bytes.
    WideHash(SockHash<MapData, u64>),
}

impl Sockets {
    pub(crate) fn create(kind: SocketsKind, capacity: u32) -> Result<Self, MapError> {
        match kind {
            SocketsKind::Array => ReusePortSockArray::create("sockets", capacity).map(Self::Array),
            SocketsKind::Map => SockMap::create("sockets", capacity).map(Self::Map),
        }
    }

    pub(crate) fn from_map(map: Map) -> Result<Self, MapError> {
        match map {
            Map::SockMap(_) => Ok(Self::Map(map.try_into()?)),
            Map::SockHash(ref data) if data.key_size() == 8 => Ok(Self::WideHash(map.try_into()?)),
            Map::SockHash(_) => Ok(Self::Hash(map.try_into()?)),
            other => Ok(Self::Array(other.try_into()?)),
        }
    }

    pub(crate) fn data(&self) -> &MapData {
        match self {
            Self::Array(array) => array.map_data(),
            Self::Map(map) => map.map_data(),
            Self::Hash(map) => map.map_data(),
            Self::WideHash(map) => map.map_data(),
        }
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.data().max_entries()
    }

    /// All slots, free or not. A user's own map may have more elements than a slot can name.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        let end = self.capacity().min(u32::from(u16::MAX));
        (0..end).filter_map(|index| u16::try_from(index).ok()).map(Slot::new)
    }

    pub(crate) fn set(&mut self, slot: Slot, socket: BorrowedFd<'_>) -> Result<(), MapError> {
        self.store(slot, socket, 0)
    }

    fn store(&mut self, slot: Slot, socket: BorrowedFd<'_>, flags: u64) -> Result<(), MapError> {
        let socket = socket.as_raw_fd();
        match self {
            Self::Array(array) => array.set(slot.index(), &socket, flags),
            Self::Map(map) => map.set(slot.index(), &socket, flags),
            Self::Hash(map) => map.insert(slot.index(), socket, flags),
            Self::WideHash(map) => map.insert(u64::from(slot.index()), socket, flags),
        }
    }

    /// Puts a socket into an empty slot.
    ///
    /// # Errors
    ///
    /// EEXIST if there is one in it.
    pub(crate) fn set_new(&mut self, slot: Slot, socket: BorrowedFd<'_>) -> Result<(), MapError> {
        /// include/uapi/linux/bpf.h
        const BPF_NOEXIST: u64 = 1;

        self.store(slot, socket, BPF_NOEXIST)
    }

    /// Empties a slot if this socket is in it, or if the map does not tell and it `may` be. Returns whether that
    /// did not fail.
    pub(crate) fn clear_of(&mut self, slot: Slot, cookie: Cookie, may: bool) -> bool {
        match self.occupant(slot) {
            Ok(Occupant::Socket(occupant)) if occupant == cookie => self.clear(slot),
            Ok(Occupant::Unknown) if may => self.clear(slot),
            occupant => occupant.is_ok(),
        }
    }

    /// Empties a slot, which may be empty already. Returns whether it is empty then.
    pub(crate) fn clear(&mut self, slot: Slot) -> bool {
        let cleared = match self {
            Self::Array(array) => array.clear_index(&slot.index()),
            Self::Map(map) => map.clear_index(&slot.index()),
            Self::Hash(map) => map.remove(&slot.index()),
            Self::WideHash(map) => map.remove(&slot.index().into()),
        };
        // ENOENT (array, hash) and EINVAL (map): it was empty.
        cleared.map_or_else(
            |error| matches!(caps::os_error(&error), Some(Errno::NOENT | Errno::INVAL)),
            |()| true,
        )
    }

    /// Whether it tells which socket is where: values of 4 bytes do not.
    pub(crate) fn is_readable(&self) -> bool {
        let unknown = |slot| matches!(self.occupant(slot), Ok(Occupant::Unknown));
        !self.slots().next().is_some_and(unknown)
    }

    /// The members of a group that are in it, with their slots.
    pub(crate) fn members_of<'a>(
        &self,
        group: &'a Group,
    ) -> impl Iterator<Item = Result<(Slot, &'a Member), MapError>> + use<'_, 'a> {
        self.slots().filter_map(move |slot| match self.occupant(slot) {
            Ok(Occupant::Socket(cookie)) => group.member(cookie).map(|member| Ok((slot, member))),
            Ok(Occupant::None | Occupant::Unknown) => None,
            Err(error) => Some(Err(error)),
        })
    }

    /// When the kernel empties a slot.
    pub(crate) fn emptied(&self) -> Emptied {
        match self {
            Self::Array(_) => Emptied::WhenItLeaves,
            Self::Map(_) | Self::Hash(_) | Self::WideHash(_) => Emptied::WhenItCloses,
        }
    }

    /// The socket in a slot.
    pub(crate) fn occupant(&self, slot: Slot) -> Result<Occupant, MapError> {
        let cookie = match self {
            Self::Array(array) => array.get(&slot.index()),
            Self::Map(map) => map.get(&slot.index()),
            Self::Hash(map) => map.cookie(&slot.index()),
            Self::WideHash(map) => map.cookie(&slot.index().into()),
        };
        match cookie {
            Ok(cookie) => Ok(cookie.and_then(Cookie::new).map_or(Occupant::None, Occupant::Socket)),
            Err(MapError::CookiesUnreadable) => Ok(Occupant::Unknown),
            Err(error) => Err(error),
        }
    }
}
