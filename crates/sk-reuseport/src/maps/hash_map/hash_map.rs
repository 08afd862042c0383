//! Hash maps whose values all CPUs share.

use std::borrow::{Borrow, BorrowMut};
use std::marker::PhantomData;

use aya_obj::generated::bpf_map_type;

use crate::error::MapError;
use crate::maps::check::check_sizes;
use crate::maps::data::MapData;
use crate::maps::iter::{IterableMap, MapIter, MapKeys};
use crate::sys::Pod;

/// A hash map, or an LRU hash map, which has the same operations.
///
/// # Minimum kernel version
///
/// Linux 3.19; LRU maps 4.10.
///
/// # Examples
///
/// ```no_run
/// use sk_reuseport::maps::HashMap;
///
/// # fn main() -> Result<(), sk_reuseport::maps::MapError> {
/// let mut flows: HashMap<_, u64, u32> = HashMap::create(1024, 0)?;
/// flows.insert(7, 1, 0)?;
/// assert_eq!(flows.get(&7, 0)?, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[doc(alias = "BPF_MAP_TYPE_HASH")]
#[doc(alias = "BPF_MAP_TYPE_LRU_HASH")]
pub struct HashMap<T, K, V> {
    pub(crate) inner: T,
    pairs: PhantomData<(K, V)>,
}

/// A hash map that evicts the least recently used elements when it is full.
pub type LruHashMap<T, K, V> = HashMap<T, K, V>;

impl<K: Pod, V: Pod> HashMap<MapData, K, V> {
    /// Creates a map without an object. `flags` are the kernel's `BPF_F_*`.
    ///
    /// # Errors
    ///
    /// The kernel's. Needs CAP_BPF.
    pub fn create(max_entries: u32, flags: u32) -> Result<Self, MapError> {
        Self::create_type(bpf_map_type::BPF_MAP_TYPE_HASH, "hash", max_entries, flags)
    }

    /// Creates a map that evicts the least recently used elements when it is full.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub fn create_lru(max_entries: u32, flags: u32) -> Result<Self, MapError> {
        Self::create_type(bpf_map_type::BPF_MAP_TYPE_LRU_HASH, "lru_hash", max_entries, flags)
    }

    fn create_type(
        map_type: bpf_map_type,
        name: &str,
        max_entries: u32,
        flags: u32,
    ) -> Result<Self, MapError> {
        Self::new(MapData::create_of::<K, V>(map_type, name, max_entries, flags)?)
    }
}

impl<T: Borrow<MapData>, K: Pod, V: Pod> HashMap<T, K, V> {
    pub(crate) fn new(map: T) -> Result<Self, MapError> {
        check_sizes::<K, V>(map.borrow())?;
        Ok(Self { inner: map, pairs: PhantomData })
    }

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// [`MapError::KeyNotFound`], or an error of the kernel.
    pub fn get(&self, key: &K, flags: u64) -> Result<V, MapError> {
        self.inner.borrow().lookup(key, flags)
    }

    /// All keys with their values, in no particular order.
    pub fn iter(&self) -> MapIter<'_, K, V, Self> {
        MapIter::new(self)
    }

    /// All keys, in no particular order.
    pub fn keys(&self) -> MapKeys<'_, K> {
        MapKeys::new(self.inner.borrow())
    }
}

impl<T: BorrowMut<MapData>, K: Pod, V: Pod> HashMap<T, K, V> {
    /// Sets the value of a key.
    ///
    /// # Errors
    ///
    /// `E2BIG` if the map is full, or another error of the kernel.
    pub fn insert(
        &mut self,
        key: impl Borrow<K>,
        value: impl Borrow<V>,
        flags: u64,
    ) -> Result<(), MapError> {
        self.inner.borrow().update(key.borrow(), value.borrow(), flags)
    }

    /// Removes a key.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the map has no such key.
    pub fn remove(&mut self, key: &K) -> Result<(), MapError> {
        self.inner.borrow().delete(key)
    }
}

impl<'a, T: Borrow<MapData>, K: Pod, V: Pod> IntoIterator for &'a HashMap<T, K, V> {
    type Item = Result<(K, V), MapError>;
    type IntoIter = MapIter<'a, K, V, HashMap<T, K, V>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: Borrow<MapData>, K: Pod, V: Pod> IterableMap<K, V> for HashMap<T, K, V> {
    fn map(&self) -> &MapData {
        self.inner.borrow()
    }

    fn get(&self, key: &K) -> Result<V, MapError> {
        self.get(key, 0)
    }
}
