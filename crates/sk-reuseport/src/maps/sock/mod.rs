//! Maps of sockets, from which programs select.

mod fd;
mod reuseport_sock_array;
mod sock_hash;
mod sock_map;
mod store;

pub use fd::SockMapFd;
pub use reuseport_sock_array::ReusePortSockArray;
pub use sock_hash::SockHash;
pub use sock_map::SockMap;
