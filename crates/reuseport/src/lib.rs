//! Programmable socket load balancing for Linux: who gets a connection or a datagram among the
//! sockets of a server that share a port (`SO_REUSEPORT`).
//!
//! Several sockets may be bound to one address and port. The kernel deals connections and datagrams
//! among such a *group* by a hash. This crate finds every group on the host, also those of other
//! processes and other network namespaces, and lets a program in the kernel decide instead, for
//! servers that run already and know nothing of it.
//!
//! Three lines put a policy on one's own sockets:
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
//! The sockets of a server that runs already, named by its address, differ in the second line:
//!
//! ```no_run
//! # use reuseport::{Attach, Balancer, Host};
//! let host = Host::open()?;
//! let group = host.find(&"tcp:127.0.0.1:8080".parse()?)?;
//! let (balancer, _) = Balancer::attach(&host, &group.key, &Attach::default())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! From there on the two are the same: [`Balancer::set_policy`], [`set_weights`](Balancer::set_weights),
//! [`change_members`](Balancer::change_members), [`stats`](Balancer::stats),
//! [`detach`](Balancer::detach). Each change is one step for the traffic.
//!
//! # Where to look
//!
//! | | |
//! |---|---|
//! | [`net::Bind`] | binding several sockets to one address so that they are a group |
//! | [`Host`] | the whole host: groups, and what is known of each ([`status`]) |
//! | [`Group`], [`Member`] | what the kernel has: sockets, who holds them, what waits there |
//! | [`GroupSpec`] | a group's name as people type it: `tcp:127.0.0.1:8080`, `:8080` ([`spec`]) |
//! | [`Balancer`] | attaching, taking in newcomers, changing policy and weights, detaching |
//! | [`Program`], [`Policy`], [`ObjectSpec`] | what decides: one of our policies, or a program of your own |
//! | [`Weight`], [`State`] | a member's share; whether it gets anything new |
//! | [`Stats`] | queues, open connections, picks and shares by member |
//! | [`watch::Watch`] | following a group through reloads and restarts |
//! | [`report::Reporter`] | a worker's own word on its load, for the policy least-loaded |
//! | [`observe::Observer`] | only looking: groups, members, holders, queues |
//! | [`borrow`] | borrowing a socket from another process |
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
//! For a server's own sockets that means: a new process that binds the same address while the old one
//! still listens joins the same group, gets nothing before it attaches too, and needs no policy to do
//! so ([`Attach::default`] keeps what decides). When all of them have closed, the kernel forgets group
//! and attachment, and what is pinned is removed by the next operation on any group, unless the
//! address is bound again by then: attaching then goes on with the policy that was there. Call
//! [`Balancer::detach`] for an end without remainder.
//!
//! Sockets of other processes are borrowed for the length of a call. None of these types holds one.
//!
//! # Rights
//!
//! Looking needs CAP_BPF and CAP_PERFMON; changing needs CAP_SYS_PTRACE too, unless the sockets are
//! the process's own or the server runs as the same user, and the right to write below `/sys/fs/bpf`. Sockets that are in another
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
//! use reuseport::{Balancer, Host, Policy, Weight};
//!
//! let host = Host::open()?;
//! let group = host.find(&":8080".parse()?)?;
//! let (balancer, _) = Balancer::attach(&host, &group.key, &Policy::RoundRobin.into())?;
//!
//! let slot = balancer.stats(&host)?.members[0].slot.ok_or("it has no slot")?;
//! balancer.set_weights(&host, &[(slot, Weight::MAX)])?; // 1000 times as much as each other one
//!
//! for member in balancer.stats(&host)?.members {
//!     println!("{}: {:?} picks, {} wait", member.cookie, member.picks, member.queue.waiting);
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
pub use change::request::{Attach, Attached, Changes, LeftOut, MemberChange};
pub use error::{Error, ErrorKind, Hint, Report, Result};
pub use host::Host;
pub use kernel::{borrow, observe};
pub use look::stats::{MemberStats, Stats};
pub use model::group::{self, Group, Member};
pub use model::id::{self, State, Weight};
pub use model::policy::{self, CpuList, Policy};
pub use model::selection::{ObjectSpec, Program, Selection};
pub use model::spec::{self, GroupSpec};
pub use model::status;
pub use model::sticky::Stickiness;
pub use model::table;
pub use sk_reuseport::net;
pub use stop::Stop;
