//! Hash maps with a value for each CPU.

use std::borrow::{Borrow, BorrowMut};
use std::marker::PhantomData;

use aya_obj::generated::bpf_map_type;

use crate::error::MapError;
use crate::maps::check::check_sizes;
use crate::maps::data::MapData;
use crate::maps::iter::{IterableMap, MapIter, MapKeys};
use crate::maps::per_cpu::PerCpuValues;
use crate::sys::Pod;

/// A hash map in which each key has a value for each CPU, or one that evicts the least recently used
/// elements, which has the same operations.
///
/// # Minimum kernel version
///
/// Linux 4.6; LRU maps 4.10.
///
/// # Examples
///
/// ```no_run
/// use sk_reuseport::maps::PerCpuHashMap;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let ebpf = sk_reuseport::Ebpf::load(&[])?;
/// let hits: PerCpuHashMap<_, u32, u64> = ebpf.map("hits").ok_or("no map")?.try_into()?;
/// for hit in &hits {
///     let (source, values) = hit?;
///     println!("{source:08x} {}", values.iter().sum::<u64>());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[doc(alias = "BPF_MAP_TYPE_PERCPU_HASH")]
#[doc(alias = "BPF_MAP_TYPE_LRU_PERCPU_HASH")]
pub struct PerCpuHashMap<T, K: Pod, V: Pod> {
    pub(crate) inner: T,
    pairs: PhantomData<(K, V)>,
}

impl<K: Pod, V: Pod> PerCpuHashMap<MapData, K, V> {
    /// Creates a map without an object. `flags` are the kernel's `BPF_F_*`.
    ///
    /// # Errors
    ///
    /// The kernel's. Needs CAP_BPF.
    pub fn create(max_entries: u32, flags: u32) -> Result<Self, MapError> {
        let map_type = bpf_map_type::BPF_MAP_TYPE_PERCPU_HASH;
        Self::new(MapData::create_of::<K, V>(map_type, "percpu_hash", max_entries, flags)?)
    }
}

impl<T: Borrow<MapData>, K: Pod, V: Pod> PerCpuHashMap<T, K, V> {
    pub(crate) fn new(map: T) -> Result<Self, MapError> {
        check_sizes::<K, V>(map.borrow())?;
        Ok(Self { inner: map, pairs: PhantomData })
    }

    /// The values of a key, one for each CPU.
    ///
    /// # Errors
    ///
    /// [`MapError::KeyNotFound`], or an error of the kernel.
    pub fn get(&self, key: &K, flags: u64) -> Result<PerCpuValues<V>, MapError> {
        PerCpuValues::look_up(self.inner.borrow(), key, flags)
    }

    /// All keys with their values, in no particular order.
    pub fn iter(&self) -> MapIter<'_, K, PerCpuValues<V>, Self> {
        MapIter::new(self)
    }

    /// All keys, in no particular order.
    pub fn keys(&self) -> MapKeys<'_, K> {
        MapKeys::new(self.inner.borrow())
    }
}

impl<T: BorrowMut<MapData>, K: Pod, V: Pod> PerCpuHashMap<T, K, V> {
    /// Sets the values of a key.
    ///
    /// # Errors
    ///
    /// `E2BIG` if the map is full, or another error of the kernel.
    pub fn insert(
        &mut self,
        key: impl Borrow<K>,
        values: PerCpuValues<V>,
        flags: u64,
    ) -> Result<(), MapError> {
        values.store(self.inner.borrow(), key.borrow(), flags)
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

impl<'a, T: Borrow<MapData>, K: Pod, V: Pod> IntoIterator for &'a PerCpuHashMap<T, K, V> {
    type Item = Result<(K, PerCpuValues<V>), MapError>;
    type IntoIter = MapIter<'a, K, PerCpuValues<V>, PerCpuHashMap<T, K, V>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: Borrow<MapData>, K: Pod, V: Pod> IterableMap<K, PerCpuValues<V>>
    for PerCpuHashMap<T, K, V>
{
    fn map(&self) -> &MapData {
        self.inner.borrow()
    }

    fn get(&self, key: &K) -> Result<PerCpuValues<V>, MapError> {
        self.get(key, 0)
    }
}
