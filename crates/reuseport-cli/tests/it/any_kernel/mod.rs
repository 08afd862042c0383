//! Tests whose outcome does not depend on the kernel's version: `cargo xtask vm` leaves them out.

mod changes;
mod shares;
mod usage;
