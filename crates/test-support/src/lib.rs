//! Fixtures that the tests of all crates share: private network namespaces ([`netns`]) and bpffs
//! ([`bpffs`]), the root cgroup ([`cgroup`]), real servers ([`server`]), simple clients ([`client`], [`burst`]),
//! load ([`load`]), waiting for conditions ([`wait`]), starting processes ([`process`]), rules of netfilter
//! ([`nft`]), pages with recipes ([`recipe`]), UDP groups of one name ([`split`]), features of the kernel ([`feature`]), and the types in compiled
//! objects ([`btf`]).
//!
//! It is for tests alone: everything panics on failure, with a message for developers. Most of it
//! needs root.

pub mod bpffs;
pub mod btf;
pub mod burst;
pub mod cgroup;
pub mod client;
pub mod feature;
mod in_flight;
mod in_ring;
pub mod load;
mod loopback;
pub mod netns;
pub mod nft;
pub mod process;
mod program;
pub mod recipe;
pub mod server;
mod set_on_drop;
pub mod split;
pub mod wait;

pub use in_flight::InFlight;
pub use in_ring::InRing;
pub use loopback::loopback;
pub use program::program;
pub use set_on_drop::SetOnDrop;
