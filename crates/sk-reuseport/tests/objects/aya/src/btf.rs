//! Maps as aya-ebpf's `#[btf_map]` defines them: by types, in a section `.maps`.
#![no_std]
#![no_main]

use aya_ebpf::btf_maps::{Array, ReusePortSockArray};
use aya_ebpf::macros::{btf_map, sk_reuseport};
use aya_ebpf::programs::SkReuseportContext;

#[btf_map]
static SOCKETS: ReusePortSockArray<8> = ReusePortSockArray::new();

#[btf_map]
static COUNTERS: Array<u64, 4> = Array::new();

include!("program.rs");
