//! Programmable socket load balancing for Linux.
mod error;
pub mod foreign;
pub mod group;
pub mod id;
pub mod observe;
pub mod policy;
pub mod spec;
pub mod status;
pub mod table;

pub use error::{Error, ErrorKind, Result};
