//! What a watcher reports.

use crate::change::request::Attached;
use crate::error::Error;
use crate::model::group::{AttachedProgram, Group};
use crate::model::retake::Retake;

/// A change that a watcher made or saw.
#[derive(Debug)]
#[non_exhaustive]
pub enum Change {
    /// Members joined or left, and their slots were updated.
    Members(Attached),
    /// The group is gone: all its sockets closed. The watcher waits for it to come back.
    Gone,
    /// Another process detached the group. It is followed no more, and the watcher ends with its last group.
    Detached,
    /// Another owner attached a program in place of this tool's. The watcher takes the sockets out of this
    /// tool's array, so that the owner may use them, and waits until that program is gone, unless it
    /// [takes the group back](crate::watch::Watch::retaking). Reported once for each such program, and again when
    /// the watcher gives up.
    Replaced {
        /// The program that decides now.
        by: AttachedProgram,
        /// Whether the watcher takes the group back.
        retake: Retake,
    },
    /// There are other groups of the same name, which [the kernel made](crate::group::GroupKey). The watcher goes
    /// on with the one that this tool steers: this one, as it was seen. If that one ends, the next one of this
    /// name is followed. Reported once.
    Split(Group),
    /// No member is left that can be given a slot, for this reason: a policy leaves every choice to the kernel's
    /// hash, until a socket joins that can. Reported once.
    Unsteerable(Error),
    /// An update failed. The watcher tries again at the next change and every two seconds, and reports
    /// only a different error again.
    Failed(Error),
}
