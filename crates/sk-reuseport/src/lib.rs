//! Loads, attaches and pins BPF programs of type `BPF_PROG_TYPE_SK_REUSEPORT`, which select a
//! socket.
//!
//! Several sockets may be bound to one address and port (`SO_REUSEPORT`). The kernel distributes
//! connections and datagrams among them by a hash, unless a program of this type decides. This
//! crate loads such programs, attaches them to a group of sockets, and fills the socket array
//! from which they select. Policies are in the crate `reuseport`.
//!
//! The names are those of [aya](https://docs.rs/aya): a program that uses this part of aya's API
//! compiles with the crate's name changed.
//!
//! ```no_run
//! use sk_reuseport::{Ebpf, maps::ReusePortSockArray, net, programs::SkReuseport};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listeners = net::Bind::new("127.0.0.1:8080".parse()?).listeners(4)?;
//!
//! let mut ebpf = Ebpf::load_file("select.o")?;
//! let mut sockets: ReusePortSockArray<_> = ebpf.take_map("sockets").ok_or("no map")?.try_into()?;
//! for (index, listener) in listeners.iter().enumerate() {
//!     sockets.set(index as u32, listener, 0)?;
//! }
//! let program: &mut SkReuseport = ebpf.program_mut("select").ok_or("no program")?.try_into()?;
//! program.load()?;
//! program.attach(&listeners[0])?; // attaches to the whole group, through any of its sockets
//! # Ok(())
//! # }
//! ```
//!
//! # What stays when a value is dropped
//!
//! An attachment belongs to the group of sockets, not to any Rust value: dropping [`Ebpf`] or
//! [`SkReuseport`](programs::SkReuseport) detaches nothing. The program stays attached until a
//! process detaches or replaces it through any socket of the group, or the last socket of the group
//! is closed.
//!
//! # Errors
//!
//! An error's text says what failed; [`source`](std::error::Error::source) returns the cause, which
//! for most is the kernel's error. What to do about it is a [`Hint`], which [`hint_of`] finds in a
//! chain of errors. [`Report`] prints all of it.
//!
//! # Kernels
//!
//! Programs select sockets since Linux 4.19 and migrate connections since 5.14; detaching needs
//! 5.3. Loading needs the capability CAP_BPF, tracing programs and iterators CAP_PERFMON too
//! (before Linux 5.8: CAP_SYS_ADMIN for all of them). Attaching to a group needs no capability.

mod bpf;
mod btf;
mod contents;

mod error;
#[cfg(any(test, feature = "fault-injection"))]
pub mod fault;
mod functions;
mod hint;
mod links;
mod loader;
pub mod maps;
pub mod net;
pub mod pin;
pub mod programs;
mod prune;
mod relocate;

pub mod sys;
pub mod util;
mod validate;
mod verifier;

pub use aya_obj::VerifierLog;
pub use aya_obj::btf::{Btf, BtfError, BtfKind};
pub use aya_obj::maps::PinningType;
pub use bpf::{Ebpf, GlobalData};
pub use btf::{KernelBtf, KernelTypes, ValueType, Variable};
pub use contents::{Contents, MapContents, MapType, ProgramContents, Uses};
pub use error::{EbpfError, Extern, Report, hint_of};
pub use hint::Hint;
pub use loader::EbpfLoader;
pub use sys::Pod;
pub use verifier::VerifierLogLevel;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
