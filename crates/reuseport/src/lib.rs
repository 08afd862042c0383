//! Programmable socket load balancing for Linux: who gets a connection or a datagram among the
//! sockets of a server that share a port (`SO_REUSEPORT`).
//!
//! Several sockets may be bound to one address and port. The kernel deals connections and datagrams
//! among such a *group* by a hash. This crate finds every group on the host, also those of other
//! processes and other network namespaces, and lets a program in the kernel decide instead, for
//! servers that run already and know nothing of it.
//!
//! ```no_run
//! use reuseport::{Attach, Balancer, Host};
//!
//! let host = Host::open()?;
//! let group = host.find(&"tcp:127.0.0.1:8080".parse()?)?;
//! let (balancer, attached) = Balancer::attach(&host, &group.key, &Attach::default())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where to look
//!
//! | | |
//! |---|---|
//! | [`Host`] | the whole host: groups, and what is known of each ([`status`]) |
//! | [`GroupSpec`] | a group's name as people type it: `tcp:127.0.0.1:8080`, `:8080` ([`spec`]) |
//! | [`Balancer`] | attaching, taking in newcomers, changing policy and weights, detaching |
//! | [`Policy`], [`ObjectSpec`] | what decides: one of our policies, or a program of your own |
//! | [`watch::Watch`] | following a group through reloads and restarts |
//! | [`observe::Observer`] | only looking: groups, members, holders, queues |
//! | [`foreign`] | borrowing a socket from another process |
//! | [`table`] | how policies and weights become a table: pure computation |
//! | [`Error`] | what was tried, what the kernel said, what to do; and an [`ErrorKind`] for programs |
//!
//! For loading and attaching programs without all this, see the crate [`sk_reuseport`], on which
//! this one is built.
//!
//! # What stays when values are dropped
//!
//! What is attached is the group's, not a Rust value's. Dropping a [`Balancer`], a
//! [`Watch`](watch::Watch) or a [`Host`], or the end of the process, detaches nothing: the program
//! stays until somebody [detaches](detach()) it, another one takes its place, or the group's last
//! socket closes. Its state is pinned below `/sys/fs/bpf/reuseport`, where any later process with
//! the same rights finds it. There is no daemon.
//!
//! Sockets of other processes are borrowed for the length of a call. None of these types holds one.
//!
//! # Rights
//!
//! Looking needs CAP_BPF and CAP_PERFMON; changing needs CAP_SYS_PTRACE too, unless the server runs
//! as the same user, and the right to write below `/sys/fs/bpf`. Sockets that are in another
//! program's socket map need CAP_NET_ADMIN. All of it in the initial user namespace. A right that is
//! missing is an [`ErrorKind::Denied`] whose text names it.
//!
//! # Kernels
//!
//! Linux 5.14 for attaching, 5.12 for looking, both with BTF (`/sys/kernel/btf/vmlinux`).
//!
//! # Examples
//!
//! Exact shares for the members of a running server, and what they got:
//!
//! ```no_run
//! use reuseport::id::Weight;
//! use reuseport::{Attach, Balancer, Decide, Host, Policy};
//!
//! let host = Host::open()?;
//! let group = host.find(&":8080".parse()?)?;
//! let attach = Attach { decide: Some(Decide::Policy(Policy::RoundRobin)), ..Attach::default() };
//! let (balancer, _) = Balancer::attach(&host, &group.key, &attach)?;
//!
//! let members = host.status(balancer.key())?.members;
//! let slot = members.iter().find_map(|m| m.enrolment.as_ref()).ok_or("no member")?.slot;
//! balancer.set_weights(&host, &[(slot, Weight::MAX)])?; // 1000 times as much as each other one
//!
//! for member in host.status(balancer.key())?.members {
//!     let picks = member.enrolment.and_then(|enrolment| enrolment.picks);
//!     println!("{} {picks:?}, {} wait", member.member.cookie, member.member.queue.waiting);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

// The examples in both README.md compile.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
#[doc = include_str!("../README.md")]
struct Readme;

mod balancer;
mod cpus;
mod enrol;
mod error;
pub mod foreign;
pub mod group;
mod host;
pub mod id;
mod object;
pub mod observe;
pub mod policy;
mod rights;
mod session;
pub mod spec;
mod state;
pub mod status;
mod steer;
mod stop;
pub mod table;
pub mod watch;

pub use balancer::{Attach, Attached, Balancer, Decide, MemberChange, detach};
pub use cpus::CpuList;
pub use enrol::{Changes, LeftOut};
pub use error::{Error, ErrorKind, Result};
pub use host::Host;
pub use object::ObjectSpec;
pub use policy::{Policy, Stickiness};
pub use spec::GroupSpec;
pub use stop::Stop;
