//! The kernel's objects: programs, maps, sockets, iterators, CPUs, capabilities. No rules about groups.

pub(crate) mod barrier;
pub mod borrow;
pub(crate) mod caps;
pub(crate) mod cgroup;
pub(crate) mod clock;
pub(crate) mod cpus;
pub(crate) mod followed;
pub(crate) mod foreign;
pub(crate) mod maps;
pub(crate) mod namespace;
pub(crate) mod object;
pub(crate) mod observe;
pub(crate) mod owners;
pub(crate) mod pids;
pub(crate) mod program;
pub(crate) mod recognise;
pub(crate) mod reports;
pub(crate) mod server;
pub(crate) mod sockets;
pub(crate) mod tables;
pub(crate) mod types;
