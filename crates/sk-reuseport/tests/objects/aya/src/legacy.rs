//! Maps as aya-ebpf's `#[map]` defines them: plain structures in a section `maps`.
#![no_std]
#![no_main]

use aya_ebpf::macros::{map, sk_reuseport};
use aya_ebpf::maps::{Array, ReusePortSockArray};
use aya_ebpf::programs::SkReuseportContext;

#[map]
static SOCKETS: ReusePortSockArray = ReusePortSockArray::with_max_entries(8, 0);

#[map]
static COUNTERS: Array<u64> = Array::with_max_entries(4, 0);

include!("program.rs");
