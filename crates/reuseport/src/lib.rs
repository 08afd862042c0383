//! Programmable socket load balancing for Linux.
mod error;
pub mod foreign;
pub mod group;
pub mod id;
pub mod observe;
pub mod policy;
mod rights;
pub mod spec;
mod state;
pub mod status;
mod steer;
pub mod table;

pub use error::{Error, ErrorKind, Result};
