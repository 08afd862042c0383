//! The state that outlives a command: maps and programs pinned on the BPF filesystem, and nothing else.
//! There is no daemon.
//!
//! ```text
//! /sys/fs/bpf/reuseport/         locked (flock) during every change
//!   host/                        once per host
//!     marks  members             which member a socket belongs to; how many connections it has
//!     count_open  count_nested   the attached programs that count them
//!     recount  live              a walk over all marks, and what it found
//!   groups/NAME/                 once per group
//!     header  slots              the group and its members
//!     sockets                    the socket array that the program selects from
//!     tables  cursor             what the policy picks by
//!     addresses  limiters        what least-loaded reads of the members, and remembers
//!     reports                    what workers report
//!     counters  picks            what the program did
//!     select                     the program
//!   staging/                     a group that is being built; what an interrupted command leaves here
//!                                is removed by the next one
//! ```
//!
//! The order of changes makes every interruption harmless: everything is built and pinned before
//! the program is attached, and the program is detached before anything is unpinned.

pub(crate) mod bpffs;
pub(crate) mod group;
pub(crate) mod host_layer;
mod recount;
pub(crate) mod steering;
