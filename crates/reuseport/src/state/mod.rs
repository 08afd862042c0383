//! What outlives a command: maps and programs pinned below [`bpffs::ROOT`], and nothing else. There
//! is no daemon.
//!
//! ```text
//! /sys/fs/bpf/reuseport/         locked (flock) by whoever changes anything
//!   host/                        once per host
//!     marks  members             which member a socket belongs to; how many connections it has
//!     count_open  count_nested   the attached programs that count them
//!     recount  live              a walk over all marks, and what it found
//!   groups/NAME/                 once per group
//!     header  slots              what this crate knows of the group and its members
//!     sockets                    the socket array that the program selects from
//!     tables  cursor             what the policy picks by
//!     addresses  paces           what least-loaded reads of the members, and remembers
//!     reports                    what workers say of themselves
//!     counters  picks            what it did
//!     select                     the program
//!   staging/                     a group that is being built; whatever lies there was interrupted
//! ```
//!
//! The order of changes makes every interruption harmless: everything is built and pinned before
//! the program is attached, and the program is detached before anything is unpinned. What an
//! interrupted command leaves, the next one that changes anything removes.

pub(crate) mod bpffs;
pub(crate) mod counters;
pub(crate) mod group;
pub(crate) mod host;
pub(crate) mod layout;
mod recount;
pub(crate) mod reports;
