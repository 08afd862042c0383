//! An array with a value for each CPU, such as counters that CPUs do not share.

use std::borrow::{Borrow, BorrowMut};
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::AsFd as _;

use aya_obj::generated::bpf_map_type;

use crate::error::MapError;
use crate::maps::check::{check_index, check_sizes};
use crate::maps::data::MapData;
use crate::maps::iter::IterableMap;
use crate::sys::{self, Operation, Pod, SyscallError, bytes_of};
use crate::util::nr_cpus;

/// A value for each possible CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PerCpuValues<V: Pod> {
    values: Box<[V]>,
}

impl<V: Pod> Deref for PerCpuValues<V> {
    type Target = [V];

    fn deref(&self) -> &[V] {
        &self.values
    }
}

impl<V: Pod> TryFrom<Vec<V>> for PerCpuValues<V> {
    type Error = std::io::Error;

    fn try_from(values: Vec<V>) -> Result<Self, Self::Error> {
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        if values.len() == cpus {
            Ok(Self { values: values.into_boxed_slice() })
        } else {
            let message = format!("{} values for {cpus} CPUs", values.len());
            Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, message))
        }
    }
}

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
    /// The kernel gives each CPU's value a multiple of 8 bytes.
    const STRIDE: usize = size_of::<V>().next_multiple_of(8);

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
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        let mut bytes = vec![0; Self::STRIDE * cpus];
        let fd = self.inner.borrow().fd().as_fd();
        let found = sys::bpf_map_lookup_elem_into(fd, index, &mut bytes, flags)
            .map_err(SyscallError::of(Operation::LookUp))?;
        if !found {
            return Err(MapError::KeyNotFound);
        }
        let values = bytes
            .chunks_exact(Self::STRIDE)
            .map(|value| sys::from_bytes(&value[..size_of::<V>()]))
            .collect();
        Ok(PerCpuValues { values })
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
        let mut bytes = vec![0; Self::STRIDE * values.len()];
        for (to, from) in bytes.chunks_exact_mut(Self::STRIDE).zip(values.iter()) {
            to[..size_of::<V>()].copy_from_slice(bytes_of(std::slice::from_ref(from)));
        }
        let fd = self.inner.borrow().fd().as_fd();
        sys::bpf_map_update_elem_bytes(fd, &index.to_ne_bytes(), &bytes, flags)
            .map_err(SyscallError::of(Operation::Update))?;
        Ok(())
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
