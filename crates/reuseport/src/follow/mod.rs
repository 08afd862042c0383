//! Following groups: the rules, and the descriptors that feed them with events.

mod came;
pub(crate) mod change;
pub(crate) mod expected;
pub(crate) mod followed;
pub(crate) mod follower;
mod held;
mod listing;
mod pace;
pub(crate) mod seen;
pub(crate) mod source;

#[cfg(test)]
mod tests;
