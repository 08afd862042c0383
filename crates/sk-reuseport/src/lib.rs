//! The program type `BPF_PROG_TYPE_SK_REUSEPORT`: programs that choose the socket.
//!
//! Several sockets may be bound to one address and port (`SO_REUSEPORT`). The kernel deals
//! connections and datagrams among them by a hash; a program of this type decides instead. This
//! crate loads such programs, attaches them to a group of sockets, and fills the socket array
//! from which they select. It knows nothing of policies: those are the crate `reuseport`'s.
//!
//! The names are those of the crate [aya](https://docs.rs/aya): a program written to that part of
//! aya's interface compiles with the crate's name changed.
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
//! program.attach(&listeners[0])?; // the whole group, through any one of its sockets
//! # Ok(())
//! # }
//! ```
//!
//! # What stays when a value is dropped
//!
//! An attachment belongs to the group of sockets, not to any Rust value: dropping [`Ebpf`] or
//! [`SkReuseport`](programs::SkReuseport) detaches nothing. The program stays with the group
//! until somebody detaches it through any socket of the group, attaches another one, or the
//! group's last socket closes.
//!
//! # Kernels
//!
//! Programs select from Linux 4.19 on and migrate connections from 5.14 on; detaching needs 5.3.
//! Loading and attaching need the capability CAP_BPF, tracing programs and iterators CAP_PERFMON
//! too (before Linux 5.8: CAP_SYS_ADMIN for all of it).

mod bpf;
mod btf;
mod error;
#[cfg(any(test, feature = "fault-injection"))]
pub mod fault;
mod hint;
mod loader;
pub mod maps;
pub mod net;
pub mod pin;
pub mod programs;
mod relocate;

pub mod sys;
pub mod util;
mod validate;
mod verifier;

pub use aya_obj::VerifierLog;
pub use aya_obj::btf::{Btf, BtfError, BtfKind};
pub use aya_obj::maps::PinningType;
pub use bpf::{Ebpf, GlobalData};
pub use btf::{KernelBtf, KernelTypes};
pub use error::{EbpfError, Report, hint_of};
pub use hint::Hint;
pub use loader::EbpfLoader;
pub use sys::Pod;
pub use verifier::VerifierLogLevel;

/// Keeps the example of the README compiling.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
