//! Values as bytes, for maps whose types are known at run time only.

use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;

use aya_obj::generated::bpf_map_type;

use super::data::MapData;
use super::size::is_per_cpu;
use crate::error::MapError;
use crate::sys::{self, Mapping, Operation, SyscallError};
use crate::util::page_size;

impl MapData {
    /// Stores a value as bytes, in a map whose values are not per CPU.
    ///
    /// # Errors
    ///
    /// [`MapError::InvalidMapType`] for a map with values per CPU, [`MapError::InvalidKeySize`] and
    /// [`MapError::InvalidValueSize`] if the bytes are not as many as the map's keys and values have, and the
    /// kernel's.
    pub fn set_bytes(&self, key: &[u8], value: &[u8]) -> Result<(), MapError> {
        // The kernel reads a value for each possible CPU there.
        let map_type = self.definition().map_type();
        if bpf_map_type::try_from(map_type).is_ok_and(is_per_cpu) {
            return Err(MapError::InvalidMapType { map_type });
        }
        let (size, expected) = (key.len(), self.definition().key_size() as usize);
        if size != expected {
            return Err(MapError::InvalidKeySize { size, expected });
        }
        let (size, expected) = (value.len(), self.definition().value_size() as usize);
        if size != expected {
            return Err(MapError::InvalidValueSize { size, expected });
        }
        Ok(sys::bpf_map_update_elem_bytes(self.fd().as_fd(), key, value, 0)
            .map_err(SyscallError::of(Operation::Update))?)
    }

    /// Stores a variable in the map of a section (`.data`, `.bss`), in one step, and leaves the others as they are:
    /// programs may change them at the same time.
    ///
    /// # Errors
    ///
    /// [`MapError::InvalidValueSize`] if it is not aligned or has not 1, 2, 4 or 8 bytes, or lies beyond the end, and
    /// the kernel's.
    ///
    /// # Minimum kernel version
    ///
    /// Linux 5.5.
    pub fn set_variable(&self, offset: u32, value: &[u8]) -> Result<(), MapError> {
        let (at, size) = (offset as usize, value.len());
        let len = self.definition().value_size() as usize;
        let fits = at.checked_add(size).is_some_and(|end| end <= len);
        if !fits || !matches!(size, 1 | 2 | 4 | 8) || !at.is_multiple_of(size) {
            return Err(MapError::InvalidValueSize { size, expected: len });
        }
        let mapping = Mapping::new(self.fd().as_fd(), 0, len.next_multiple_of(page_size()), true)
            .map_err(SyscallError::of(Operation::Map))?;
        if let Ok(value) = value.try_into() {
            mapping.atomic_u64(at).store(u64::from_ne_bytes(value), Ordering::Relaxed);
            return Ok(());
        }
        let inside = at % size_of::<u32>();
        let word = mapping.atomic_u32(at - inside);
        let with = |old: u32| {
            let mut bytes = old.to_ne_bytes();
            bytes[inside..inside + size].copy_from_slice(value);
            Some(u32::from_ne_bytes(bytes))
        };
        // It always has a new value.
        let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with);
        Ok(())
    }
}
