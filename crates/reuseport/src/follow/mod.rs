//! Following a group: the descriptors that tell when to look again.

pub(crate) mod source;
