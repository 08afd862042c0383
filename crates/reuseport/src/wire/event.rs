//! What the watching program writes to its ring buffer: `struct event` in `bpf/wire/event.h`.

use zerocopy::{FromBytes, Immutable, KnownLayout};

/// A listener on the watched port came or went.
#[derive(Debug, Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Event {
    pub(crate) cookie: u64,
    /// 1: it began to listen; 0: it stopped.
    pub(crate) listening: u32,
    reserved: u32,
}
