//! Real servers, unmodified, from Debian: attached to, steered, followed through what their
//! administrators and the out-of-memory killer do to them, and detached from.
//!
//! Who got a request is told twice: by the server in its answer, and by the kernel program's picks.

mod gunicorn;
mod haproxy;
mod latency;
mod nginx;
mod unbound;
