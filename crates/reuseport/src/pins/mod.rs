//! The pinned state: maps and programs on the BPF filesystem. They outlive the command; there is no daemon
//! and no other state.
//!
//! ```text
//! /sys/fs/bpf/reuseport/         of the host (`place`); locked (flock) during every change
//!   host/                        once per host, while a policy compares open connections
//!     marks  members             the member of each socket; the connections of each member
//!     count_open  count_nested   the attached programs that count them
//!     recount  live              an iterator over all marks; its counts
//!   groups/NAME/                 once per group
//!     header                     the group and its secret
//!     sockets                    the socket array that the program selects from
//!     cursor                     the next turn
//!     addresses                  addresses of the members' sockets
//!     paces  progress            what least-loaded remembers: limits, and who takes connections
//!     reports                    the workers' load reports
//!     counters  picks            runs by reason; picks by slot
//!     follow-...                 a map of a user's own program, and what it is told (`followed`)
//!     program-N/                 the program that decides (`instance`)
//!       select  setup            the program, and what it decides by
//!       tables  table            the table in force, with the members
//!       table_next               a table that is about to take its place
//!   agent/                       empty: carries the lock of the process that follows all groups
//!   staging/                     a group that is being built; the next command removes what an
//!                                interrupted one leaves
//!   aside/                       a group's state while a new one is built in its place; the next
//!                                command moves it back if an interrupted one has not finished
//! ```
//!
//! Interruptions are harmless: all state is built and pinned before the program is attached, and the program
//! is detached before anything is unpinned. A change is pinned next to what is in force, and counts from one step on
//! (`commit`).

pub(crate) mod bpffs;
pub(crate) mod commit;
pub(crate) mod directory;
mod followed;
pub(crate) mod group;
pub(crate) mod host_layer;
pub(crate) mod instance;
pub(crate) mod leftover;
pub(crate) mod place;
pub(crate) mod recount;
mod replaced;
mod schema;
pub(crate) mod steering;
pub(crate) mod watcher;
