//! Maps: what programs and user space share.
//!
//! An object's maps come as [`Map`], by their types; convert one into the type that has its
//! operations:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let mut ebpf = sk_reuseport::Ebpf::load(&[])?;
//! use sk_reuseport::maps::{Array, MapData, ReusePortSockArray};
//!
//! let sockets: ReusePortSockArray<_> = ebpf.take_map("sockets").ok_or("no map")?.try_into()?;
//! let hits: Array<MapData, u64> = ebpf.take_map("hits").ok_or("no map")?.try_into()?;
//! # Ok(())
//! # }
//! ```

pub mod array;
mod data;
pub mod hash_map;
mod info;
mod iter;
pub mod of_maps;
pub mod ring_buf;
pub(crate) mod size;
pub mod sk_storage;
pub mod sock;

use std::io;
use std::path::Path;

use aya_obj::InvalidTypeBinding;
use aya_obj::generated::bpf_map_type;
use thiserror::Error;

pub use array::{Array, MappedArray, PerCpuArray, PerCpuValues};
pub use data::{MapData, MapFd};
pub use hash_map::{HashMap, LruHashMap};
pub use info::MapInfo;
pub use iter::{IterableMap, MapIter, MapKeys};
pub use of_maps::ArrayOfMaps;
pub use ring_buf::{RingBuf, RingBufItem};
pub use sk_storage::SkStorage;
pub use sock::{ReusePortSockArray, SockHash, SockMap, SockMapFd};

use crate::hint;
use crate::pin::PinError;
use crate::sys::{Pod, SyscallError};

/// An operation on a map failed.
#[derive(Error, Debug)]
#[non_exhaustive]
pub enum MapError {
    /// A map of maps does not say what its inner maps are like.
    #[error("map `{outer_name}` is a map of maps but does not define its inner map")]
    MissingInnerMapDefinition {
        /// The map.
        outer_name: String,
    },
    /// The map is not of the type that was asked for.
    #[error("invalid map type {}", type_name(*map_type))]
    InvalidMapType {
        /// The type that it is, as the kernel numbers them.
        map_type: u32,
    },
    /// What was opened is no map.
    #[error("{what} is no BPF map")]
    NotAMap {
        /// A path, or a descriptor.
        what: String,
    },
    /// The name has a zero byte, or is that of no file where the map is pinned by its name.
    #[error("invalid map name `{name}`")]
    InvalidName {
        /// The name.
        name: String,
    },
    /// An object asks for maps that take more memory than is given on its word alone.
    #[error(
        "the object's maps take {bytes} bytes at once and {limit} are the most that it gets unasked: \
         choose the number of elements (`map_max_entries`) of the largest, `{name}`"
    )]
    TooLarge {
        /// The largest of them.
        name: String,
        /// What all of them take, roughly.
        bytes: u64,
        /// The most that an object gets.
        limit: u64,
    },
    /// The kernel refused to create the map.
    #[error("failed to create map `{name}`: {io_error}{}", hint::of("BPF_MAP_CREATE", io_error))]
    CreateError {
        /// The map.
        name: String,
        /// What it said.
        #[source]
        io_error: io::Error,
    },
    /// The Rust type of the keys is not as long as the map's keys.
    #[error("invalid key size {size}, expected {expected}")]
    InvalidKeySize {
        /// Bytes of the Rust type.
        size: usize,
        /// Bytes of the map's keys.
        expected: usize,
    },
    /// The Rust type of the values is not as long as the map's values.
    #[error("invalid value size {size}, expected {expected}")]
    InvalidValueSize {
        /// Bytes of the Rust type.
        size: usize,
        /// Bytes of the map's values.
        expected: usize,
    },
    /// The index is beyond the map's end.
    #[error("the index is {index} but `max_entries` is {max_entries}")]
    OutOfBounds {
        /// The index.
        index: u32,
        /// How many elements the map has.
        max_entries: u32,
    },
    /// The map has no such key.
    #[error("key not found")]
    KeyNotFound,
    /// The map has no such element.
    #[error("element not found")]
    ElementNotFound,
    /// The map that is to take the place of an object's one does not fit.
    #[error(
        "map `{name}`: the object wants keys of {} and values of {} bytes, the map that is to \
         take its place has {} and {}",
        wanted.0, wanted.1, given.0, given.1
    )]
    Incompatible {
        /// The map's name in the object.
        name: String,
        /// Bytes of its keys and values, as the object says.
        wanted: (u32, u32),
        /// Bytes of the given map's keys and values.
        given: (u32, u32),
    },
    /// The map that is pinned where an object's one belongs is of another type.
    #[error(
        "map `{name}`: the object wants {}, what is pinned there is {}: remove that pin, or give \
         another path",
        type_name(*wanted), type_name(*given)
    )]
    IncompatibleType {
        /// The map's name in the object.
        name: String,
        /// The type that the object wants, as the kernel numbers them.
        wanted: u32,
        /// The type of the pinned map.
        given: u32,
    },
    /// A socket array with values of 4 bytes cannot be read: its values are descriptors, which
    /// mean something in one process only.
    #[error(
        "the cookies of sockets can only be read from an array with 8-byte values; this one has \
         4-byte values: declare it with `__type(value, __u64)`"
    )]
    CookiesUnreadable,
    /// A system call failed, or a file could not be read.
    #[error(transparent)]
    IoError(#[from] io::Error),
    /// A system call failed.
    #[error(transparent)]
    SyscallError(#[from] SyscallError),
    /// The map could not be pinned, or a pinned one not be opened.
    #[error("map `{}`: {error}", name.as_deref().unwrap_or("?"))]
    PinError {
        /// The map, where its name is known.
        name: Option<String>,
        /// Why.
        #[source]
        error: PinError,
    },
}

impl From<InvalidTypeBinding<u32>> for MapError {
    fn from(error: InvalidTypeBinding<u32>) -> Self {
        Self::InvalidMapType { map_type: error.value }
    }
}

/// The kernel's name of a map type, where there is one.
fn type_name(number: u32) -> String {
    match bpf_map_type::try_from(number) {
        Ok(name) => format!("{name:?}"),
        Err(_) => number.to_string(),
    }
}

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
    /// [`PerCpuArray`]
    PerCpuArray(MapData),
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
    /// A map of a type that has no Rust type of its own here.
    Unsupported(MapData),
}

impl Map {
    /// Sorts a map by its type.
    ///
    /// # Errors
    ///
    /// [`MapError::InvalidMapType`] for a type that nobody knows.
    pub fn from_map_data(data: MapData) -> Result<Self, MapError> {
        Ok(match bpf_map_type::try_from(data.definition().map_type())? {
            bpf_map_type::BPF_MAP_TYPE_ARRAY => Self::Array(data),
            bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS => Self::ArrayOfMaps(data),
            bpf_map_type::BPF_MAP_TYPE_HASH => Self::HashMap(data),
            bpf_map_type::BPF_MAP_TYPE_LRU_HASH => Self::LruHashMap(data),
            bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY => Self::PerCpuArray(data),
            bpf_map_type::BPF_MAP_TYPE_REUSEPORT_SOCKARRAY => Self::ReusePortSockArray(data),
            bpf_map_type::BPF_MAP_TYPE_RINGBUF => Self::RingBuf(data),
            bpf_map_type::BPF_MAP_TYPE_SK_STORAGE => Self::SkStorage(data),
            bpf_map_type::BPF_MAP_TYPE_SOCKHASH => Self::SockHash(data),
            bpf_map_type::BPF_MAP_TYPE_SOCKMAP => Self::SockMap(data),
            _ => Self::Unsupported(data),
        })
    }

    /// The map, whatever its type.
    pub fn data(&self) -> &MapData {
        match self {
            Self::Array(data)
            | Self::ArrayOfMaps(data)
            | Self::HashMap(data)
            | Self::LruHashMap(data)
            | Self::PerCpuArray(data)
            | Self::ReusePortSockArray(data)
            | Self::RingBuf(data)
            | Self::SkStorage(data)
            | Self::SockHash(data)
            | Self::SockMap(data)
            | Self::Unsupported(data) => data,
        }
    }

    /// The map, whatever its type, to keep.
    pub fn into_data(self) -> MapData {
        match self {
            Self::Array(data)
            | Self::ArrayOfMaps(data)
            | Self::HashMap(data)
            | Self::LruHashMap(data)
            | Self::PerCpuArray(data)
            | Self::ReusePortSockArray(data)
            | Self::RingBuf(data)
            | Self::SkStorage(data)
            | Self::SockHash(data)
            | Self::SockMap(data)
            | Self::Unsupported(data) => data,
        }
    }

    /// Pins the map: it stays until the pin is removed, whatever becomes of this process.
    ///
    /// # Errors
    ///
    /// If the path is taken or not on a bpffs.
    pub fn pin<P: AsRef<Path>>(&self, path: P) -> Result<(), PinError> {
        self.data().pin(path)
    }
}

/// Conversions from [`Map`], taken or borrowed. Anybody can put any map into any variant, and the
/// kernel writes as much on a lookup as the map's type makes it, so that is looked at too.
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

/// Pinning, and a look at the map behind a typed one.
macro_rules! impl_typed {
    ($map:ident [$($param:ident),*]) => {
        impl<T: std::borrow::Borrow<MapData>, $($param: Pod),*> $map<T, $($param),*> {
            /// Pins the map: it stays until the pin is removed, whatever becomes of this process.
            ///
            /// # Errors
            ///
            /// If the path is taken or not on a bpffs.
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
impl_map!(SkStorage [V] from SkStorage = BPF_MAP_TYPE_SK_STORAGE);
impl_map!(SockHash [K] from SockHash = BPF_MAP_TYPE_SOCKHASH);
impl_map!(SockMap [] from SockMap = BPF_MAP_TYPE_SOCKMAP);
impl_map!(ReusePortSockArray [] from ReusePortSockArray = BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
impl_map!(ArrayOfMaps [] from ArrayOfMaps = BPF_MAP_TYPE_ARRAY_OF_MAPS);
impl_map!(RingBuf [] from RingBuf = BPF_MAP_TYPE_RINGBUF);

impl_typed!(Array[V]);
impl_typed!(PerCpuArray[V]);
impl_typed!(HashMap [K, V]);
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

/// Refuses Rust types that are not as long as the map's keys and values.
fn check_sizes<K, V>(data: &MapData) -> Result<(), MapError> {
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
fn check_index(data: &MapData, index: u32) -> Result<(), MapError> {
    let max_entries = data.definition().max_entries();
    if index < max_entries { Ok(()) } else { Err(MapError::OutOfBounds { index, max_entries }) }
}
