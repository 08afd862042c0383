//! An array of sockets of any kind.

use std::borrow::{Borrow, BorrowMut};
use std::os::fd::AsRawFd;

use aya_obj::generated::bpf_map_type;

use super::fd::SockMapFd;
use super::store::{cookie, store};
use crate::error::MapError;
use crate::maps::check::check_index;
use crate::maps::data::MapData;
use crate::maps::iter::MapKeys;

/// An array of sockets of any kind. Programs may select from it too.
///
/// A socket can be in any number of socket maps, but not in a socket map and a
/// [`ReusePortSockArray`](super::ReusePortSockArray) at the same time (`EBUSY`). So a socket map
/// can steer a group whose sockets are in the socket map of another program.
///
/// Creating it needs CAP_BPF and CAP_NET_ADMIN; storing needs no capability.
///
/// # Minimum kernel version
///
/// Linux 4.14; for selection, and with listeners and UDP sockets, 5.8.
///
/// # Examples
///
/// ```no_run
/// # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// use sk_reuseport::maps::SockMap;
///
/// let mut sockets = SockMap::create("sockets", 16)?;
/// sockets.set(0, &listener, 0)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[doc(alias = "BPF_MAP_TYPE_SOCKMAP")]
pub struct SockMap<T> {
    pub(crate) inner: T,
}

impl SockMap<MapData> {
    /// Creates a map without an object, with 8-byte values.
    ///
    /// # Errors
    ///
    /// The kernel's. Needs CAP_BPF and CAP_NET_ADMIN.
    pub fn create(name: &str, max_entries: u32) -> Result<Self, MapError> {
        let map_type = bpf_map_type::BPF_MAP_TYPE_SOCKMAP;
        Self::new(MapData::create_of::<u32, u64>(map_type, name, max_entries, 0)?)
    }
}

impl<T: Borrow<MapData>> SockMap<T> {
    pub(crate) fn new(map: T) -> Result<Self, MapError> {
        Ok(Self { inner: map })
    }

    /// The cookie of the socket at an index; `None` if there is no socket.
    ///
    /// # Errors
    ///
    /// [`MapError::CookiesUnreadable`] for a map with 4-byte values; [`MapError::OutOfBounds`].
    pub fn get(&self, index: &u32) -> Result<Option<u64>, MapError> {
        let data = self.inner.borrow();
        check_index(data, *index)?;
        cookie(data, index)
    }

    /// All indices, including empty ones.
    pub fn indices(&self) -> MapKeys<'_, u32> {
        MapKeys::new(self.inner.borrow())
    }

    /// The map's descriptor.
    pub fn fd(&self) -> SockMapFd<'_> {
        SockMapFd(self.inner.borrow())
    }
}

impl<T: BorrowMut<MapData>> SockMap<T> {
    /// Stores a socket at an index.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the socket is in a socket array; [`MapError::OutOfBounds`].
    pub fn set<I: AsRawFd>(&mut self, index: u32, socket: &I, flags: u64) -> Result<(), MapError> {
        let data = self.inner.borrow();
        check_index(data, index)?;
        store(data, &index, socket.as_raw_fd(), flags)
    }

    /// Empties an index.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the index is empty; [`MapError::OutOfBounds`].
    pub fn clear_index(&mut self, index: &u32) -> Result<(), MapError> {
        let data = self.inner.borrow();
        check_index(data, *index)?;
        data.delete(index)
    }
}
