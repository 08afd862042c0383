//! Programmable socket load balancing for Linux: which socket of an `SO_REUSEPORT` group gets a
//! connection or a datagram.
//!
//! Several sockets may be bound to one address and port. The kernel distributes connections and
//! datagrams among such a *group* by a hash. This crate finds every group on the host, in all processes
//! and network namespaces, and attaches an eBPF program that decides instead. The servers need no
//! change and no restart.
//!
//! A policy for sockets of your own process:
//!
//! ```no_run
//! use reuseport::net::Bind;
//! use reuseport::{Balancer, Host, Policy};
//!
//! let listeners = Bind::new("127.0.0.1:8080".parse()?).listeners(4)?;
//!
//! let host = Host::open()?;
//! let group = host.group_of(&listeners[0])?;
//! let (balancer, _) = Balancer::attach(&host, &group.key, &Policy::RoundRobin.into())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The sockets of a running server are found by address:
//!
//! ```no_run
//! # use reuseport::{Attach, Balancer, Host};
//! # let host = Host::open()?;
//! let group = host.find(&"tcp:127.0.0.1:8080".parse()?)?;
//! let (balancer, _) = Balancer::attach(&host, &group.key, &Attach::default())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Each change takes effect in one step, under traffic: [`set_policy`](Balancer::set_policy),
//! [`set_weights`](Balancer::set_weights), [`change_members`](Balancer::change_members),
//! [`detach`](Balancer::detach).
//!
//! # Where to look
//!
//! | | |
//! |---|---|
//! | [`net::Bind`] | binds several sockets to one address, so that they are a group |
//! | [`Host`] | finds groups, and returns the [`status`] of each |
//! | [`Group`], [`Member`] | what the kernel knows: sockets, holders, queues |
//! | [`GroupSpec`] | a group's name as users type it: `tcp:127.0.0.1:8080`, `:8080` ([`spec`]) |
//! | [`Balancer`] | attaches, enrols new members, changes policy and weights, detaches; owns a [`Host`] |
//! | [`Program`], [`Selection`], [`Policy`], [`ObjectSpec`] | what to attach: a policy, or your own program |
//! | [`Steering`](status::Steering) | which program decides for a group |
//! | [`Weight`], [`State`] | a member's share, and whether it gets new connections |
//! | [`Degraded`] | what an operation that succeeded could not bring about |
//! | [`Stats`] | queues, open connections, picks and shares by member |
//! | [`watch::Watch`] | follows a group over reloads and restarts |
//! | [`report::Reporter`] | reports a worker's load, for the policy least-loaded |
//! | [`borrow`] | borrows a socket from another process |
//! | [`Error`] | what failed, why, and a hint; an [`ErrorKind`] for programs |
//!
//! The crate [`sk_reuseport`], below this one, loads and attaches programs of this type and does nothing
//! else.
//!
//! # Lifetime
//!
//! The kernel attaches a program to the group, not to a value or a process. Dropping a [`Balancer`], a
//! [`Watch`](watch::Watch) or a [`Host`] detaches nothing. The program stays until a process
//! [detaches](detach()) or replaces it, or the group's last socket closes. Its state is pinned below
//! the host's `/sys/fs/bpf/reuseport`, where later processes with the same rights find it, from every mount
//! namespace. The environment variable `REUSEPORT_BPFFS` names another BPF filesystem. There is no daemon.
//!
//! A process that binds the same address joins the group, and gets nothing until it attaches, too;
//! [`Attach::default`] keeps the policy. After the last socket has closed, the next operation on any
//! group removes the pinned state, unless the address is bound again: then attaching resumes the old
//! policy. [`Balancer::detach`] removes all state.
//!
//! Sockets of other processes are borrowed during a call. No value holds one.
//!
//! # Rights
//!
//! All in the initial user namespace. [`ErrorKind::Denied`] names the right that is missing.
//!
//! - Reading: CAP_BPF and CAP_PERFMON.
//! - Changing: also write access to `/sys/fs/bpf`, and CAP_SYS_PTRACE unless the server is the calling
//!   process or runs as the same user.
//! - Sockets in another program's socket map: also CAP_NET_ADMIN.
//!
//! # Kernels
//!
//! Linux 5.14 to attach, 5.12 to read, with BTF (`/sys/kernel/btf/vmlinux`).
//!
//! # Example
//!
//! Weights for the members of a running server, and what each member got:
//!
//! ```no_run
//! use reuseport::{Balancer, Host, Policy, Weight};
//!
//! let host = Host::open()?;
//! let group = host.find(&":8080".parse()?)?;
//! let (balancer, _) = Balancer::attach(&host, &group.key, &Policy::RoundRobin.into())?;
//!
//! let slot = balancer.stats()?.members[0].slot.ok_or("it has no slot")?;
//! balancer.set_weights(&[(slot, Weight::MAX)])?; // 1000 times the share of each other member
//!
//! for member in balancer.stats()?.members {
//!     println!("{:?}: {:?} picks, {} waiting", member.slot, member.picks, member.queue.waiting);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

// The examples in both README.md compile.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
#[doc = include_str!("../README.md")]
struct Readme;

mod balancer;
mod change;
pub mod checks;
mod error;
mod follow;
mod host;
mod kernel;
mod look;
mod model;
mod pins;
pub mod report;
mod stop;
pub mod watch;
mod wire;

pub use balancer::{Balancer, detach};
pub use change::request::{
    Attach, Attached, Changes, Detached, Inherited, LeftOut, MemberChange, PolicySet, Promoted,
    SetPolicy,
};
pub use error::{Error, ErrorKind, Hint, Report, Result};
pub use host::Host;
pub use kernel::borrow;
pub use kernel::object::notes::ObjectNote;
pub use kernel::observe::netns_names;
pub use look::examine::{Examined, Unseen};
pub use look::stats::{MemberStats, Stats};
pub use model::advice;
pub use model::degraded::Degraded;
pub use model::finding;
pub use model::group::{self, Group, Member, Unborrowable};
pub use model::hold_new::HoldNew;
pub use model::id::{self, State, Weight};
pub use model::policy::{self, CpuList, Policy};
pub use model::rights;
pub use model::selection::{ObjectSpec, Program, Selection};
pub use model::server;
pub use model::setting;
pub use model::settings::NetSettings;
pub use model::spec::{self, GroupSpec};
pub use model::status;
pub use model::sticky::Stickiness;
pub use model::table::Share;
pub use sk_reuseport::net;
pub use stop::Stop;
