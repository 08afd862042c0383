//! An array with a value for each CPU, such as counters that CPUs do not share.

use std::borrow::{Borrow, BorrowMut};
use std::marker::PhantomData;

use aya_obj::generated::bpf_map_type;

use crate::error::MapError;
use crate::maps::check::{check_index, check_sizes};
use crate::maps::data::MapData;
use crate::maps::iter::IterableMap;
use crate::maps::per_cpu::PerCpuValues;
use crate::sys::Pod;

/// An array in which each element has a value for each CPU.
///
/// # Minimum kernel version
///
/// Linux 4.6.
///
/// # Examples
///
/// ```no_run
/// use sk_reuseport::maps::PerCpuArray;
///
/// # fn main() -> Result<(), sk_reuseport::maps::MapError> {
/// let picks: PerCpuArray<_, u64> = PerCpuArray::create(4, 0)?;
/// let total: u64 = picks.get(&0, 0)?.iter().sum();
/// assert_eq!(total, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[doc(alias = "BPF_MAP_TYPE_PERCPU_ARRAY")]
pub struct PerCpuArray<T, V: Pod> {
    pub(crate) inner: T,
    values: PhantomData<V>,
}

impl<V: Pod> PerCpuArray<MapData, V> {
    /// Creates an array without an object. `flags` are the kernel's `BPF_F_*`.
    ///
    /// # Errors
    ///
    /// The kernel's. Needs CAP_BPF.
    pub fn create(max_entries: u32, flags: u32) -> Result<Self, MapError> {
        Self::create_named("percpu_array", max_entries, flags)
    }

    /// As [`create`](Self::create), with a name, which lists of maps show.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub fn create_named(name: &str, max_entries: u32, flags: u32) -> Result<Self, MapError> {
        let map_type = bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY;
        Self::new(MapData::create_of::<u32, V>(map_type, name, max_entries, flags)?)
    }
}

impl<T: Borrow<MapData>, V: Pod> PerCpuArray<T, V> {
    pub(crate) fn new(map: T) -> Result<Self, MapError> {
        check_sizes::<u32, V>(map.borrow())?;
        Ok(Self { inner: map, values: PhantomData })
    }

    /// The number of elements.
    #[expect(clippy::len_without_is_empty, reason = "the kernel has no empty arrays")]
    pub fn len(&self) -> u32 {
        self.inner.borrow().max_entries()
    }

    /// The values at an index, one for each CPU.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfBounds`], or an error of the kernel.
    pub fn get(&self, index: &u32, flags: u64) -> Result<PerCpuValues<V>, MapError> {
        check_index(self.inner.borrow(), *index)?;
        PerCpuValues::look_up(self.inner.borrow(), index, flags)
    }

    /// The values of all elements in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<PerCpuValues<V>, MapError>> + '_ {
        (0..self.len()).map(move |index| self.get(&index, 0))
    }
}

impl<T: BorrowMut<MapData>, V: Pod> PerCpuArray<T, V> {
    /// Sets the values at an index.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfBounds`], or an error of the kernel.
    pub fn set(&mut self, index: u32, values: PerCpuValues<V>, flags: u64) -> Result<(), MapError> {
        check_index(self.inner.borrow(), index)?;
        values.store(self.inner.borrow(), &index, flags)
    }
}

impl<T: Borrow<MapData>, V: Pod> IterableMap<u32, PerCpuValues<V>> for PerCpuArray<T, V> {
    fn map(&self) -> &MapData {
        self.inner.borrow()
    }

    fn get(&self, key: &u32) -> Result<PerCpuValues<V>, MapError> {
        self.get(key, 0)
    }
}
