//! An array of sockets, from which programs select.

use std::borrow::{Borrow, BorrowMut};
use std::os::fd::AsRawFd;

use aya_obj::generated::bpf_map_type;

use super::store::{cookie, store};
use crate::error::MapError;
use crate::maps::check::check_index;
use crate::maps::data::MapData;
use crate::maps::iter::MapKeys;

/// The sockets from which a [`SkReuseport`](crate::programs::SkReuseport) program selects, by
/// index.
///
/// A socket can be in *one* such array, at one index: storing it again fails with `EBUSY`, even at
/// the same index, and so does storing a socket that is in a socket map. The socket must have
/// `SO_REUSEPORT` and be bound (UDP) or listening (TCP). When it is closed or stops listening, the
/// kernel empties its index. The array keeps no socket open.
///
/// Declare the values as 8 bytes (`__type(value, __u64)`), so that the array can be
/// [read](Self::get). Everything else works with 4-byte values too.
///
/// # Minimum kernel version
///
/// Linux 4.19. On some 6.x kernels and later ones, UDP sockets that connect leave the array.
///
/// # Examples
///
/// ```no_run
/// use sk_reuseport::{maps::ReusePortSockArray, net};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listeners = net::Bind::new("127.0.0.1:0".parse()?).listeners(2)?;
/// let mut sockets = ReusePortSockArray::create("sockets", 16)?;
/// sockets.set(0, &listeners[0], 0)?;
/// assert!(sockets.get(&0)?.is_some());
/// assert_eq!(sockets.indices().collect::<Result<Vec<_>, _>>()?, [0]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[doc(alias = "BPF_MAP_TYPE_REUSEPORT_SOCKARRAY")]
pub struct ReusePortSockArray<T> {
    pub(crate) inner: T,
}

impl ReusePortSockArray<MapData> {
    /// Creates an array without an object, with 8-byte values.
    ///
    /// # Errors
    ///
    /// The kernel's. Needs CAP_BPF.
    pub fn create(name: &str, max_entries: u32) -> Result<Self, MapError> {
        let map_type = bpf_map_type::BPF_MAP_TYPE_REUSEPORT_SOCKARRAY;
        Self::new(MapData::create_of::<u32, u64>(map_type, name, max_entries, 0)?)
    }
}

impl<T: Borrow<MapData>> ReusePortSockArray<T> {
    pub(crate) fn new(map: T) -> Result<Self, MapError> {
        let definition = map.borrow().definition();
        if definition.key_size() as usize != size_of::<u32>() {
            let size = size_of::<u32>();
            let expected = definition.key_size() as usize;
            return Err(MapError::InvalidKeySize { size, expected });
        }
        if !matches!(definition.value_size(), 4 | 8) {
            let expected = definition.value_size() as usize;
            return Err(MapError::InvalidValueSize { size: size_of::<u64>(), expected });
        }
        Ok(Self { inner: map })
    }

    /// The cookie of the socket at an index; `None` if there is no socket.
    ///
    /// # Errors
    ///
    /// [`MapError::CookiesUnreadable`] for an array with 4-byte values, which the kernel does not
    /// allow to read; [`MapError::OutOfBounds`].
    pub fn get(&self, index: &u32) -> Result<Option<u64>, MapError> {
        let data = self.inner.borrow();
        check_index(data, *index)?;
        cookie(data, index)
    }

    /// The indices that hold a socket. For an array with 4-byte values, which cannot be read, all
    /// indices.
    pub fn indices(&self) -> SockArrayIndices<'_, T> {
        SockArrayIndices { array: self, keys: MapKeys::new(self.inner.borrow()) }
    }

    fn is_readable(&self) -> bool {
        self.inner.borrow().definition().value_size() == 8
    }
}

/// The indices of a [`ReusePortSockArray`] that hold a socket.
#[derive(Debug)]
pub struct SockArrayIndices<'a, T> {
    array: &'a ReusePortSockArray<T>,
    keys: MapKeys<'a, u32>,
}

impl<T: Borrow<MapData>> Iterator for SockArrayIndices<'_, T> {
    type Item = Result<u32, MapError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // The kernel's next key of an array is the next index, even if it is empty.
            let index = match self.keys.next()? {
                Ok(index) => index,
                Err(error) => return Some(Err(error)),
            };
            if !self.array.is_readable() {
                return Some(Ok(index));
            }
            match self.array.get(&index) {
                Ok(None) => {}
                Ok(Some(_)) => return Some(Ok(index)),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl<T: BorrowMut<MapData>> ReusePortSockArray<T> {
    /// Stores a socket at an index. `flags`: 0, or the kernel's `BPF_NOEXIST`, `BPF_EXIST`.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the socket is in an array or a socket map already; `EINVAL` if it has no
    /// `SO_REUSEPORT`, or is neither bound nor listening; [`MapError::OutOfBounds`].
    pub fn set<I: AsRawFd>(&mut self, index: u32, socket: &I, flags: u64) -> Result<(), MapError> {
        let data = self.inner.borrow();
        check_index(data, index)?;
        store(data, &index, socket.as_raw_fd(), flags)
    }

    /// Empties an index.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the index is empty; [`MapError::OutOfBounds`].
    pub fn clear_index(&mut self, index: &u32) -> Result<(), MapError> {
        let data = self.inner.borrow();
        check_index(data, *index)?;
        data.delete(index)
    }
}
