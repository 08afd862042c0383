//! Programmable socket load balancing for Linux.
mod error;
pub mod foreign;
pub mod group;
pub mod id;
pub mod observe;
pub mod policy;
pub mod status;

pub use error::{Error, ErrorKind, Result};
