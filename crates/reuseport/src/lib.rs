//! Programmable socket load balancing for Linux.
pub mod group;
pub mod id;
pub mod policy;
pub mod status;
