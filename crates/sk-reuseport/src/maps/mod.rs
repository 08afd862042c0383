//! Maps: what programs and user space share.
//!
//! [`Ebpf`](crate::Ebpf) returns maps as [`Map`]. Convert one into the Rust type of its map type:
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
mod bytes;
mod check;
mod data;
pub mod hash_map;
mod info;
mod iter;
pub mod lpm_trie;
mod map;
pub mod of_maps;
mod per_cpu;
pub mod ring_buf;
pub(crate) mod size;
pub mod sk_storage;
pub mod sock;

pub use array::{Array, MappedArray, PerCpuArray, ProgramArray};
pub use data::{MapData, MapFd};
pub use hash_map::{HashMap, LruHashMap, PerCpuHashMap};
pub use info::MapInfo;
pub use iter::{IterableMap, MapIter, MapKeys};
pub use lpm_trie::LpmTrie;
pub use map::Map;
pub use of_maps::ArrayOfMaps;
pub use per_cpu::PerCpuValues;
pub use ring_buf::{RingBuf, RingBufItem};
pub use sk_storage::SkStorage;
pub use sock::{ReusePortSockArray, SockHash, SockMap, SockMapFd};

pub use crate::error::MapError;
