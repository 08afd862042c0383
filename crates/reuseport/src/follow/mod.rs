//! The events by which a watcher follows a group.

pub(crate) mod source;
