//! A hash map of sockets.

use std::borrow::{Borrow, BorrowMut};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};

use super::fd::SockMapFd;
use super::store::{cookie, store};
use crate::error::MapError;
use crate::maps::data::MapData;
use crate::maps::iter::{IterableMap, MapIter, MapKeys};
use crate::sys::Pod;

/// A hash map of sockets of any kind. Programs may select from it too.
///
/// As with a [`SockMap`](super::SockMap), creating it needs CAP_NET_ADMIN, and a socket that is in
/// a socket array cannot be stored.
///
/// # Minimum kernel version
///
/// Linux 4.18; for selection, and with listeners and UDP sockets, 5.8.
///
/// # Examples
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mut ebpf = sk_reuseport::Ebpf::load(&[])?;
/// # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// use sk_reuseport::maps::SockHash;
///
/// let mut sockets: SockHash<_, u32> = ebpf.take_map("sockets").ok_or("no map")?.try_into()?;
/// sockets.insert(7, listener, 0)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[doc(alias = "BPF_MAP_TYPE_SOCKHASH")]
pub struct SockHash<T, K> {
    pub(crate) inner: T,
    keys: PhantomData<K>,
}

impl<T: Borrow<MapData>, K: Pod> SockHash<T, K> {
    pub(crate) fn new(map: T) -> Result<Self, MapError> {
        let expected = map.borrow().definition().key_size() as usize;
        if size_of::<K>() != expected {
            return Err(MapError::InvalidKeySize { size: size_of::<K>(), expected });
        }
        Ok(Self { inner: map, keys: PhantomData })
    }

    /// The lower half of the cookie of the socket at a key: aya's return type has no room for more.
    /// Use [`cookie`](Self::cookie).
    ///
    /// # Errors
    ///
    /// [`MapError::KeyNotFound`], or [`MapError::CookiesUnreadable`] for 4-byte values.
    pub fn get(&self, key: &K, flags: u64) -> Result<RawFd, MapError> {
        let _ = flags;
        self.cookie(key)?.map(|cookie| cookie as RawFd).ok_or(MapError::KeyNotFound)
    }

    /// The cookie of the socket at a key; `None` if there is no socket.
    ///
    /// # Errors
    ///
    /// [`MapError::CookiesUnreadable`] for a map with 4-byte values.
    pub fn cookie(&self, key: &K) -> Result<Option<u64>, MapError> {
        cookie(self.inner.borrow(), key)
    }

    /// All keys, in no particular order.
    pub fn keys(&self) -> MapKeys<'_, K> {
        MapKeys::new(self.inner.borrow())
    }

    /// All keys with their values as [`get`](Self::get) returns them.
    pub fn iter(&self) -> MapIter<'_, K, RawFd, Self> {
        MapIter::new(self)
    }

    /// The map's descriptor.
    pub fn fd(&self) -> SockMapFd<'_> {
        SockMapFd(self.inner.borrow())
    }
}

impl<T: BorrowMut<MapData>, K: Pod> SockHash<T, K> {
    /// Stores a socket at a key.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the socket is in a socket array.
    pub fn insert<I: AsRawFd>(
        &mut self,
        key: impl Borrow<K>,
        value: I,
        flags: u64,
    ) -> Result<(), MapError> {
        store(self.inner.borrow(), key.borrow(), value.as_raw_fd(), flags)
    }

    /// Removes a socket.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the map has no such key.
    pub fn remove(&mut self, key: &K) -> Result<(), MapError> {
        self.inner.borrow().delete(key)
    }
}

impl<'a, T: Borrow<MapData>, K: Pod> IntoIterator for &'a SockHash<T, K> {
    type Item = Result<(K, RawFd), MapError>;
    type IntoIter = MapIter<'a, K, RawFd, SockHash<T, K>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: Borrow<MapData>, K: Pod> IterableMap<K, RawFd> for SockHash<T, K> {
    fn map(&self) -> &MapData {
        self.inner.borrow()
    }

    fn get(&self, key: &K) -> Result<RawFd, MapError> {
        self.get(key, 0)
    }
}
