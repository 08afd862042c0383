//! Tests whose outcome does not depend on the kernel's version: `cargo xtask vm` leaves them out.

mod documents;
mod examples;
mod in_three_lines;
mod vanishing;
