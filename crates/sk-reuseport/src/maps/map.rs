//! A map of an object, by its type.

use std::path::Path;

use aya_obj::generated::bpf_map_type;

use super::array::{Array, PerCpuArray, ProgramArray};
use super::data::MapData;
use super::hash_map::{HashMap, PerCpuHashMap};
use super::lpm_trie::LpmTrie;
use super::of_maps::ArrayOfMaps;
use super::ring_buf::RingBuf;
use super::sk_storage::SkStorage;
use super::sock::{ReusePortSockArray, SockHash, SockMap};
use crate::error::{MapError, PinError};
use crate::sys::Pod;

/// A map of an object, by its type.
#[derive(Debug)]
#[non_exhaustive]
pub enum Map {
    /// [`Array`]
    Array(MapData),
    /// [`ArrayOfMaps`]
    ArrayOfMaps(MapData),
    /// [`HashMap`]
    HashMap(MapData),
    /// [`HashMap`]
    LruHashMap(MapData),
    /// [`LpmTrie`]
    LpmTrie(MapData),
    /// [`PerCpuArray`]
    PerCpuArray(MapData),
    /// [`PerCpuHashMap`]
    PerCpuHashMap(MapData),
    /// [`PerCpuHashMap`]
    PerCpuLruHashMap(MapData),
    /// [`ProgramArray`]
    ProgramArray(MapData),
    /// [`ReusePortSockArray`]
    ReusePortSockArray(MapData),
    /// [`RingBuf`]
    RingBuf(MapData),
    /// [`SkStorage`]
    SkStorage(MapData),
    /// [`SockHash`]
    SockHash(MapData),
    /// [`SockMap`]
    SockMap(MapData),
    /// A map of a type without a Rust type in this crate.
    Unsupported(MapData),
}

impl Map {
    /// Wraps a map in the variant of its type.
    ///
    /// # Errors
    ///
    /// [`MapError::InvalidMapType`] for an unknown type.
    pub fn from_map_data(data: MapData) -> Result<Self, MapError> {
        Ok(match bpf_map_type::try_from(data.definition().map_type())? {
            bpf_map_type::BPF_MAP_TYPE_ARRAY => Self::Array(data),
            bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS => Self::ArrayOfMaps(data),
            bpf_map_type::BPF_MAP_TYPE_HASH => Self::HashMap(data),
            bpf_map_type::BPF_MAP_TYPE_LRU_HASH => Self::LruHashMap(data),
            bpf_map_type::BPF_MAP_TYPE_LPM_TRIE => Self::LpmTrie(data),
            bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY => Self::PerCpuArray(data),
            bpf_map_type::BPF_MAP_TYPE_PERCPU_HASH => Self::PerCpuHashMap(data),
            bpf_map_type::BPF_MAP_TYPE_LRU_PERCPU_HASH => Self::PerCpuLruHashMap(data),
            bpf_map_type::BPF_MAP_TYPE_PROG_ARRAY => Self::ProgramArray(data),
            bpf_map_type::BPF_MAP_TYPE_REUSEPORT_SOCKARRAY => Self::ReusePortSockArray(data),
            bpf_map_type::BPF_MAP_TYPE_RINGBUF => Self::RingBuf(data),
            bpf_map_type::BPF_MAP_TYPE_SK_STORAGE => Self::SkStorage(data),
            bpf_map_type::BPF_MAP_TYPE_SOCKHASH => Self::SockHash(data),
            bpf_map_type::BPF_MAP_TYPE_SOCKMAP => Self::SockMap(data),
            _ => Self::Unsupported(data),
        })
    }

    /// The map of any variant.
    pub fn data(&self) -> &MapData {
        match self {
            Self::Array(data)
            | Self::ArrayOfMaps(data)
            | Self::HashMap(data)
            | Self::LruHashMap(data)
            | Self::LpmTrie(data)
            | Self::PerCpuArray(data)
            | Self::PerCpuHashMap(data)
            | Self::PerCpuLruHashMap(data)
            | Self::ProgramArray(data)
            | Self::ReusePortSockArray(data)
            | Self::RingBuf(data)
            | Self::SkStorage(data)
            | Self::SockHash(data)
            | Self::SockMap(data)
            | Self::Unsupported(data) => data,
        }
    }

    /// The map of any variant, by value.
    pub fn into_data(self) -> MapData {
        match self {
            Self::Array(data)
            | Self::ArrayOfMaps(data)
            | Self::HashMap(data)
            | Self::LruHashMap(data)
            | Self::LpmTrie(data)
            | Self::PerCpuArray(data)
            | Self::PerCpuHashMap(data)
            | Self::PerCpuLruHashMap(data)
            | Self::ProgramArray(data)
            | Self::ReusePortSockArray(data)
            | Self::RingBuf(data)
            | Self::SkStorage(data)
            | Self::SockHash(data)
            | Self::SockMap(data)
            | Self::Unsupported(data) => data,
        }
    }

    /// Pins the map: it outlives this process, until the pin is removed.
    ///
    /// # Errors
    ///
    /// If the path exists or is not on a bpffs.
    pub fn pin<P: AsRef<Path>>(&self, path: P) -> Result<(), PinError> {
        self.data().pin(path)
    }
}

/// Conversions from [`Map`], owned or borrowed. The variants are public, so a map may be in the
/// wrong one, and the map's type determines how much the kernel writes on a lookup: it is checked
/// too.
macro_rules! impl_map {
    ($map:ident [$($param:ident),*] from $($variant:ident = $kind:ident)|+) => {
        impl<$($param: Pod),*> TryFrom<Map> for $map<MapData, $($param),*> {
            type Error = MapError;

            fn try_from(map: Map) -> Result<Self, MapError> {
                match map {
                    $(Map::$variant(data) => {
                        data.must_be(bpf_map_type::$kind)?;
                        Self::new(data)
                    })+
                    other => Err(other.of_another_type()),
                }
            }
        }

        impl<'a, $($param: Pod),*> TryFrom<&'a Map> for $map<&'a MapData, $($param),*> {
            type Error = MapError;

            fn try_from(map: &'a Map) -> Result<Self, MapError> {
                match map {
                    $(Map::$variant(data) => {
                        data.must_be(bpf_map_type::$kind)?;
                        Self::new(data)
                    })+
                    other => Err(other.of_another_type()),
                }
            }
        }

        impl<'a, $($param: Pod),*> TryFrom<&'a mut Map> for $map<&'a mut MapData, $($param),*> {
            type Error = MapError;

            fn try_from(map: &'a mut Map) -> Result<Self, MapError> {
                match map {
                    $(Map::$variant(data) => {
                        data.must_be(bpf_map_type::$kind)?;
                        Self::new(data)
                    })+
                    other => Err(other.of_another_type()),
                }
            }
        }
    };
}

/// Pinning, and access to the map behind a typed one.
macro_rules! impl_typed {
    ($map:ident [$($param:ident),*]) => {
        impl<T: std::borrow::Borrow<MapData>, $($param: Pod),*> $map<T, $($param),*> {
            /// Pins the map: it outlives this process, until the pin is removed.
            ///
            /// # Errors
            ///
            /// If the path exists or is not on a bpffs.
            pub fn pin<P: AsRef<Path>>(self, path: P) -> Result<(), PinError> {
                self.inner.borrow().pin(path)
            }

            /// The map itself: its descriptor, its sizes.
            pub fn map_data(&self) -> &MapData {
                self.inner.borrow()
            }
        }
    };
}

impl_map!(Array [V] from Array = BPF_MAP_TYPE_ARRAY);
impl_map!(PerCpuArray [V] from PerCpuArray = BPF_MAP_TYPE_PERCPU_ARRAY);
impl_map!(HashMap [K, V] from HashMap = BPF_MAP_TYPE_HASH | LruHashMap = BPF_MAP_TYPE_LRU_HASH);
impl_map!(
    PerCpuHashMap [K, V] from
    PerCpuHashMap = BPF_MAP_TYPE_PERCPU_HASH | PerCpuLruHashMap = BPF_MAP_TYPE_LRU_PERCPU_HASH
);
impl_map!(LpmTrie [K, V] from LpmTrie = BPF_MAP_TYPE_LPM_TRIE);
impl_map!(ProgramArray [] from ProgramArray = BPF_MAP_TYPE_PROG_ARRAY);
impl_map!(SkStorage [V] from SkStorage = BPF_MAP_TYPE_SK_STORAGE);
impl_map!(SockHash [K] from SockHash = BPF_MAP_TYPE_SOCKHASH);
impl_map!(SockMap [] from SockMap = BPF_MAP_TYPE_SOCKMAP);
impl_map!(ReusePortSockArray [] from ReusePortSockArray = BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
impl_map!(ArrayOfMaps [] from ArrayOfMaps = BPF_MAP_TYPE_ARRAY_OF_MAPS);
impl_map!(RingBuf [] from RingBuf = BPF_MAP_TYPE_RINGBUF);

impl_typed!(Array[V]);
impl_typed!(PerCpuArray[V]);
impl_typed!(HashMap [K, V]);
impl_typed!(PerCpuHashMap [K, V]);
impl_typed!(LpmTrie [K, V]);
impl_typed!(ProgramArray []);
impl_typed!(SkStorage[V]);
impl_typed!(SockHash[K]);
impl_typed!(SockMap []);
impl_typed!(ReusePortSockArray []);
impl_typed!(ArrayOfMaps []);

impl Map {
    fn of_another_type(&self) -> MapError {
        MapError::InvalidMapType { map_type: self.data().definition().map_type() }
    }
}
