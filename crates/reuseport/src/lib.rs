//! Programmable socket load balancing for Linux.
mod balancer;
mod enrol;
mod error;
pub mod foreign;
pub mod group;
mod host;
pub mod id;
mod object;
pub mod observe;
pub mod policy;
mod rights;
mod session;
pub mod spec;
mod state;
pub mod status;
mod steer;
mod stop;
pub mod table;
pub mod watch;

pub use balancer::{Attach, Attached, Balancer, Decide, detach};
pub use enrol::{Changes, LeftOut};
pub use error::{Error, ErrorKind, Result};
pub use host::Host;
pub use object::ObjectSpec;
pub use policy::{Policy, Stickiness};
pub use spec::GroupSpec;
pub use stop::Stop;
