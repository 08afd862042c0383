//! An array in memory that is shared with programs.

use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::error::MapError;
use crate::maps::data::MapData;
use crate::sys::{Mapping, Operation, Pod, SyscallError};
use crate::util::page_size;

/// An array mapped into memory: reads and writes are plain loads and stores.
///
/// It keeps the map alive. Programs and other processes may write at any time, and a value of more
/// than 8 bytes can be torn. Use [`atomic_u64`](Self::atomic_u64) where that matters.
///
/// # Minimum kernel version
///
/// Linux 5.5.
///
/// # Examples
///
/// ```no_run
/// use std::sync::atomic::Ordering;
/// use sk_reuseport::maps::{Array, MapData};
///
/// # fn main() -> Result<(), sk_reuseport::maps::MapError> {
/// let load: Array<_, u64> = Array::create(4, Array::<MapData, u64>::MMAPABLE)?;
/// let mapped = load.mapped()?;
/// assert!(mapped.set(1, 42));
/// assert_eq!(mapped.get(1), Some(42));
/// if let Some(connections) = mapped.atomic_u64(1, 0) {
///     connections.fetch_add(1, Ordering::Relaxed);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[doc(alias = "BPF_F_MMAPABLE")]
pub struct MappedArray<V: Pod> {
    mapping: Mapping,
    len: u32,
    values: PhantomData<V>,
}

impl<V: Pod> MappedArray<V> {
    /// The kernel rounds elements up to 8 bytes (`array_map_alloc`).
    const STRIDE: usize = size_of::<V>().next_multiple_of(8);

    pub(super) fn new(map: &MapData) -> Result<Self, MapError> {
        let len = map.max_entries();
        // Some arrays do not fit into the address space of a 32-bit machine.
        let bytes = Self::STRIDE
            .checked_mul(len as usize)
            .and_then(|bytes| bytes.checked_next_multiple_of(page_size()))
            .ok_or(io::Error::from(io::ErrorKind::OutOfMemory))?;
        let mapping = Mapping::new(map.fd().as_fd(), 0, bytes, true)
            .map_err(SyscallError::of(Operation::Map))?;
        Ok(Self { mapping, len, values: PhantomData })
    }

    /// The number of elements.
    #[expect(clippy::len_without_is_empty, reason = "the kernel has no empty arrays")]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Reads an element; `None` beyond the end.
    pub fn get(&self, index: u32) -> Option<V> {
        Some(self.mapping.read(self.offset(index)?))
    }

    /// Writes an element; false beyond the end.
    #[must_use]
    pub fn set(&self, index: u32, value: V) -> bool {
        match self.offset(index) {
            Some(offset) => {
                self.mapping.write(offset, value);
                true
            }
            None => false,
        }
    }

    /// The 64-bit word that begins `offset` bytes into an element; `None` if there is no whole,
    /// aligned one.
    pub fn atomic_u64(&self, index: u32, offset: usize) -> Option<&AtomicU64> {
        Some(self.mapping.atomic_u64(self.word::<u64>(index, offset)?))
    }

    /// The 32-bit word that begins `offset` bytes into an element; `None` if there is no whole,
    /// aligned one.
    pub fn atomic_u32(&self, index: u32, offset: usize) -> Option<&AtomicU32> {
        Some(self.mapping.atomic_u32(self.word::<u32>(index, offset)?))
    }

    fn offset(&self, index: u32) -> Option<usize> {
        (index < self.len).then(|| index as usize * Self::STRIDE)
    }

    fn word<W>(&self, index: u32, offset: usize) -> Option<usize> {
        let inside = offset.checked_add(size_of::<W>())? <= size_of::<V>();
        let at = self.offset(index)?.checked_add(offset)?;
        (inside && at.is_multiple_of(size_of::<W>())).then_some(at)
    }
}
