//! Maps that are searched by prefix.

use std::borrow::{Borrow, BorrowMut};
use std::marker::PhantomData;

use aya_obj::generated::bpf_map_type;

use super::check::check_sizes;
use super::data::MapData;
use super::iter::{IterableMap, MapIter, MapKeys};
use crate::error::MapError;
use crate::sys::Pod;

pub use crate::sys::Key;

/// A map of prefixes, such as networks of clients, in which a lookup finds the longest prefix of a key.
///
/// # Minimum kernel version
///
/// Linux 4.11; iterating 4.16; in programs of this type since they exist (4.19).
///
/// # Examples
///
/// ```no_run
/// use std::net::Ipv4Addr;
/// use sk_reuseport::maps::lpm_trie::{Key, LpmTrie};
///
/// # fn main() -> Result<(), sk_reuseport::maps::MapError> {
/// let mut networks: LpmTrie<_, u32, u32> = LpmTrie::create(1024, 0)?;
/// let network = u32::from(Ipv4Addr::new(10, 0, 0, 0)).to_be();
/// networks.insert(&Key::new(8, network), 1, 0)?;
/// let client = u32::from(Ipv4Addr::new(10, 9, 8, 7)).to_be();
/// assert_eq!(networks.get(&Key::new(32, client), 0)?, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[doc(alias = "BPF_MAP_TYPE_LPM_TRIE")]
pub struct LpmTrie<T, K, V> {
    pub(crate) inner: T,
    pairs: PhantomData<(K, V)>,
}

impl<K: Pod, V: Pod> LpmTrie<MapData, K, V> {
    /// Creates a map without an object. `flags` are the kernel's `BPF_F_*`; it needs
    /// `BPF_F_NO_PREALLOC`, which this adds.
    ///
    /// # Errors
    ///
    /// The kernel's. Needs CAP_BPF.
    pub fn create(max_entries: u32, flags: u32) -> Result<Self, MapError> {
        const BPF_F_NO_PREALLOC: u32 = 1;

        let (map_type, flags) = (bpf_map_type::BPF_MAP_TYPE_LPM_TRIE, flags | BPF_F_NO_PREALLOC);
        Self::new(MapData::create_of::<Key<K>, V>(map_type, "lpm_trie", max_entries, flags)?)
    }
}

impl<T: Borrow<MapData>, K: Pod, V: Pod> LpmTrie<T, K, V> {
    pub(crate) fn new(map: T) -> Result<Self, MapError> {
        check_sizes::<Key<K>, V>(map.borrow())?;
        Ok(Self { inner: map, pairs: PhantomData })
    }

    /// The value of the longest prefix of this key.
    ///
    /// # Errors
    ///
    /// [`MapError::KeyNotFound`], or an error of the kernel.
    pub fn get(&self, key: &Key<K>, flags: u64) -> Result<V, MapError> {
        self.inner.borrow().lookup(key, flags)
    }

    /// All prefixes with their values: longer ones before those that contain them.
    pub fn iter(&self) -> MapIter<'_, Key<K>, V, Self> {
        MapIter::new(self)
    }

    /// All prefixes: longer ones before those that contain them.
    pub fn keys(&self) -> MapKeys<'_, Key<K>> {
        MapKeys::new(self.inner.borrow())
    }
}

impl<T: BorrowMut<MapData>, K: Pod, V: Pod> LpmTrie<T, K, V> {
    /// Sets the value of a prefix.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the prefix is longer than the key, `ENOSPC` if the map is full.
    pub fn insert(
        &mut self,
        key: &Key<K>,
        value: impl Borrow<V>,
        flags: u64,
    ) -> Result<(), MapError> {
        self.inner.borrow().update(key, value.borrow(), flags)
    }

    /// Removes a prefix. It must be exactly this one: there is no search.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the map has no such prefix.
    pub fn remove(&mut self, key: &Key<K>) -> Result<(), MapError> {
        self.inner.borrow().delete(key)
    }
}

impl<'a, T: Borrow<MapData>, K: Pod, V: Pod> IntoIterator for &'a LpmTrie<T, K, V> {
    type Item = Result<(Key<K>, V), MapError>;
    type IntoIter = MapIter<'a, Key<K>, V, LpmTrie<T, K, V>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: Borrow<MapData>, K: Pod, V: Pod> IterableMap<Key<K>, V> for LpmTrie<T, K, V> {
    fn map(&self) -> &MapData {
        self.inner.borrow()
    }

    fn get(&self, key: &Key<K>) -> Result<V, MapError> {
        self.get(key, 0)
    }
}
