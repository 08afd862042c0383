//! Checks that the kernel leaves to user space.

use super::data::MapData;
use crate::error::MapError;

/// Refuses Rust types that are not as long as the map's keys and values.
pub(super) fn check_sizes<K, V>(data: &MapData) -> Result<(), MapError> {
    let (size, expected) = (size_of::<K>(), data.definition().key_size() as usize);
    if size != expected {
        return Err(MapError::InvalidKeySize { size, expected });
    }
    let (size, expected) = (size_of::<V>(), data.definition().value_size() as usize);
    if size != expected {
        return Err(MapError::InvalidValueSize { size, expected });
    }
    Ok(())
}

/// Refuses an index beyond the map's end.
pub(super) fn check_index(data: &MapData, index: u32) -> Result<(), MapError> {
    let max_entries = data.definition().max_entries();
    if index < max_entries { Ok(()) } else { Err(MapError::OutOfBounds { index, max_entries }) }
}
