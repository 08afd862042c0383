//! An array of values.

use std::borrow::{Borrow, BorrowMut};
use std::marker::PhantomData;

use aya_obj::generated::bpf_map_type;

use super::mapped::MappedArray;
use crate::error::MapError;
use crate::maps::check::{check_index, check_sizes};
use crate::maps::data::MapData;
use crate::maps::iter::IterableMap;
use crate::sys::Pod;

/// An array of a fixed number of values, which are zero at first.
///
/// # Minimum kernel version
///
/// Linux 3.19; [mapped into memory](Self::mapped) 5.5.
///
/// # Examples
///
/// ```no_run
/// use sk_reuseport::maps::Array;
///
/// # fn main() -> Result<(), sk_reuseport::maps::MapError> {
/// let mut hits: Array<_, u64> = Array::create(4, 0)?;
/// hits.set(1, 42, 0)?;
/// assert_eq!(hits.get(&1, 0)?, 42);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[doc(alias = "BPF_MAP_TYPE_ARRAY")]
pub struct Array<T, V: Pod> {
    pub(crate) inner: T,
    values: PhantomData<V>,
}

impl<V: Pod> Array<MapData, V> {
    /// Creates an array without an object. `flags` are the kernel's `BPF_F_*`.
    ///
    /// # Errors
    ///
    /// The kernel's. Needs CAP_BPF.
    pub fn create(max_entries: u32, flags: u32) -> Result<Self, MapError> {
        Self::create_named("array", max_entries, flags)
    }

    /// As [`create`](Self::create), with a name, which lists of maps show.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub fn create_named(name: &str, max_entries: u32, flags: u32) -> Result<Self, MapError> {
        let map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY;
        Self::new(MapData::create_of::<u32, V>(map_type, name, max_entries, flags)?)
    }
}

impl<T: Borrow<MapData>, V: Pod> Array<T, V> {
    /// The flag that an array needs to be mapped into memory.
    pub const MMAPABLE: u32 = aya_obj::generated::BPF_F_MMAPABLE;

    /// The flag that an array needs to be an inner map of any length.
    pub const INNER_MAP: u32 = aya_obj::generated::BPF_F_INNER_MAP;

    pub(crate) fn new(map: T) -> Result<Self, MapError> {
        check_sizes::<u32, V>(map.borrow())?;
        Ok(Self { inner: map, values: PhantomData })
    }

    /// Views a map as an array of such values.
    ///
    /// # Errors
    ///
    /// [`MapError::InvalidMapType`] if it is no array, and if keys or values have another size.
    pub fn over(map: T) -> Result<Self, MapError> {
        map.borrow().must_be(bpf_map_type::BPF_MAP_TYPE_ARRAY)?;
        Self::new(map)
    }

    /// The number of elements.
    #[expect(clippy::len_without_is_empty, reason = "the kernel has no empty arrays")]
    pub fn len(&self) -> u32 {
        self.inner.borrow().max_entries()
    }

    /// The value at an index.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfBounds`], or an error of the kernel.
    pub fn get(&self, index: &u32, flags: u64) -> Result<V, MapError> {
        check_index(self.inner.borrow(), *index)?;
        self.inner.borrow().lookup(index, flags)
    }

    /// All values in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<V, MapError>> + '_ {
        (0..self.len()).map(move |index| self.get(&index, 0))
    }

    /// Maps the array into memory, to read and write it without system calls.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the array was not created with [`MMAPABLE`](Self::MMAPABLE), `EPERM` if it is
    /// frozen.
    #[doc(alias = "BPF_F_MMAPABLE")]
    pub fn mapped(&self) -> Result<MappedArray<V>, MapError> {
        MappedArray::new(self.inner.borrow())
    }
}

impl<T: BorrowMut<MapData>, V: Pod> Array<T, V> {
    /// Sets the value at an index.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfBounds`], or an error of the kernel.
    pub fn set(&mut self, index: u32, value: impl Borrow<V>, flags: u64) -> Result<(), MapError> {
        check_index(self.inner.borrow(), index)?;
        self.inner.borrow().update(&index, value.borrow(), flags)
    }
}

impl<T: Borrow<MapData>, V: Pod> IterableMap<u32, V> for Array<T, V> {
    fn map(&self) -> &MapData {
        self.inner.borrow()
    }

    fn get(&self, key: &u32) -> Result<V, MapError> {
        self.get(key, 0)
    }
}
