//! Tests whose outcome does not depend on the kernel's version: `cargo xtask vm` leaves them out. What depends on
//! it in members that cannot be enrolled, groups that are split and watchers, the tests of the library show.

mod advice;
mod agent;
mod changes;
mod doctor;
mod findings;
mod generations;
mod members;
mod metrics;
mod names;
mod prometheus;
mod shares;
mod split;
mod supervise;
mod usage;
mod vanishing;
mod watch;
