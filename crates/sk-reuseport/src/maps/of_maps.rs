//! Arrays whose elements are maps.

use std::borrow::{Borrow, BorrowMut};
use std::os::fd::{AsFd, AsRawFd as _};

use aya_obj::generated::bpf_map_type;

use super::check::{check_index, check_sizes};
use super::data::MapData;
use crate::error::MapError;

/// An array of maps. Replacing one is atomic: a program sees either the old map or the new one.
///
/// [`set`](Self::set) waits until no program reads the old map any more (an RCU grace period), so
/// the old map may be reused at once.
///
/// # Minimum kernel version
///
/// Linux 4.12. Inner arrays of different lengths (created with `BPF_F_INNER_MAP`): 5.10.
///
/// # Examples
///
/// ```no_run
/// use sk_reuseport::maps::{Array, ArrayOfMaps, MapData};
///
/// # fn main() -> Result<(), sk_reuseport::maps::MapError> {
/// let flags = Array::<MapData, u64>::INNER_MAP;
/// let old: Array<_, u64> = Array::create(64, flags)?;
/// let mut tables = ArrayOfMaps::create("tables", 1, old.map_data())?;
/// tables.set(0, old.map_data(), 0)?;
/// let new: Array<_, u64> = Array::create(128, flags)?;
/// tables.set(0, new.map_data(), 0)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[doc(alias = "BPF_MAP_TYPE_ARRAY_OF_MAPS")]
pub struct ArrayOfMaps<T> {
    pub(crate) inner: T,
}

impl ArrayOfMaps<MapData> {
    /// Creates an array whose elements are maps of the same shape as `pattern`.
    ///
    /// # Errors
    ///
    /// The kernel's. Needs CAP_BPF.
    pub fn create(name: &str, max_entries: u32, pattern: impl AsFd) -> Result<Self, MapError> {
        let size = size_of::<u32>() as u32;
        let map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS as u32;
        let definition = aya_obj::Map::new_from_params(map_type, size, size, max_entries, 0);
        Self::new(MapData::create_with(definition, name, None, Some(pattern.as_fd()))?)
    }
}

impl<T: Borrow<MapData>> ArrayOfMaps<T> {
    pub(crate) fn new(map: T) -> Result<Self, MapError> {
        check_sizes::<u32, u32>(map.borrow())?;
        Ok(Self { inner: map })
    }

    /// The id of the map at an index.
    ///
    /// # Errors
    ///
    /// [`MapError::KeyNotFound`] if the index is empty; [`MapError::OutOfBounds`].
    pub fn get(&self, index: &u32, flags: u64) -> Result<u32, MapError> {
        check_index(self.inner.borrow(), *index)?;
        self.inner.borrow().lookup(index, flags)
    }
}

impl<T: BorrowMut<MapData>> ArrayOfMaps<T> {
    /// Stores a map at an index, and waits until no program reads the previous one.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the map has another shape than the pattern; [`MapError::OutOfBounds`].
    pub fn set(&mut self, index: u32, map: impl AsFd, flags: u64) -> Result<(), MapError> {
        check_index(self.inner.borrow(), index)?;
        self.inner.borrow().update(&index, &map.as_fd().as_raw_fd(), flags)
    }

    /// Removes the map at an index, and waits until no program reads it.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the index is empty; [`MapError::OutOfBounds`].
    pub fn remove(&mut self, index: u32) -> Result<(), MapError> {
        check_index(self.inner.borrow(), index)?;
        self.inner.borrow().delete(&index)
    }
}
