//! The pinned state: maps and programs on the BPF filesystem. They outlive the command; there is no daemon
//! and no other state.
//!
//! ```text
//! /sys/fs/bpf/reuseport/         of the host (`place`); locked (flock) during every change
//!   host/                        once per host
//!     marks  members             the member of each socket; the connections of each member
//!     count_open  count_nested   the attached programs that count them
//!     recount  live              an iterator over all marks; its counts
//!   groups/NAME/                 once per group
//!     header  slots              the group and its members
//!     sockets                    the socket array that the program selects from
//!     tables  cursor             the table; the next turn
//!     addresses                  addresses of the members' sockets
//!     paces  progress            what least-loaded remembers: limits, and who takes connections
//!     reports                    the workers' load reports
//!     counters  picks            runs by reason; picks by slot
//!     select                     the program
//!   staging/                     a group that is being built; the next command removes what an
//!                                interrupted one leaves
//! ```
//!
//! Interruptions are harmless: all state is built and pinned before the program is attached, and the program
//! is detached before anything is unpinned.

pub(crate) mod bpffs;
mod directory;
pub(crate) mod group;
pub(crate) mod host_layer;
pub(crate) mod leftover;
pub(crate) mod place;
mod programs;
mod recount;
mod replaced;
pub(crate) mod steering;
pub(crate) mod watcher;
