//! Looking: the kernel's view and the pinned state, joined. Changes nothing.

pub(crate) mod stats;
pub(crate) mod view;
