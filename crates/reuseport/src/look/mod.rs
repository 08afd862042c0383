//! Reads groups: the kernel's view joined with the pinned state. Changes nothing.

pub(crate) mod counted;
pub(crate) mod examine;
pub(crate) mod stats;
pub(crate) mod view;
