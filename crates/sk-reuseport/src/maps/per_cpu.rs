//! Values that each CPU has for itself, in arrays and in hash maps.

use std::ops::Deref;
use std::os::fd::AsFd as _;

use super::data::MapData;
use crate::error::MapError;
use crate::sys::{self, Operation, Pod, SyscallError, bytes_of};
use crate::util::nr_cpus;

/// A value for each possible CPU.
///
/// # Examples
///
/// ```
/// use sk_reuseport::maps::PerCpuValues;
/// use sk_reuseport::util::nr_cpus;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cpus = nr_cpus().map_err(|(_, error)| error)?;
/// let values = PerCpuValues::try_from(vec![7u32; cpus])?;
/// assert_eq!(values[0], 7);
/// # Ok(())
/// # }
/// ```
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

impl<V: Pod> PerCpuValues<V> {
    /// The kernel gives each CPU's value a multiple of 8 bytes.
    const STRIDE: usize = size_of::<V>().next_multiple_of(8);

    /// The values of a key.
    pub(super) fn look_up<K: Pod>(map: &MapData, key: &K, flags: u64) -> Result<Self, MapError> {
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        let mut bytes = vec![0; Self::STRIDE * cpus];
        let found = sys::bpf_map_lookup_elem_into(map.fd().as_fd(), key, &mut bytes, flags)
            .map_err(SyscallError::of(Operation::LookUp))?;
        if !found {
            return Err(MapError::KeyNotFound);
        }
        let values = bytes
            .chunks_exact(Self::STRIDE)
            .map(|value| sys::from_bytes(&value[..size_of::<V>()]))
            .collect();
        Ok(Self { values })
    }

    /// Sets the values of a key.
    pub(super) fn store<K: Pod>(&self, map: &MapData, key: &K, flags: u64) -> Result<(), MapError> {
        let mut bytes = vec![0; Self::STRIDE * self.values.len()];
        for (to, from) in bytes.chunks_exact_mut(Self::STRIDE).zip(&self.values) {
            to[..size_of::<V>()].copy_from_slice(bytes_of(std::slice::from_ref(from)));
        }
        let key = bytes_of(std::slice::from_ref(key));
        sys::bpf_map_update_elem_bytes(map.fd().as_fd(), key, &bytes, flags)
            .map_err(SyscallError::of(Operation::Update))?;
        Ok(())
    }
}
