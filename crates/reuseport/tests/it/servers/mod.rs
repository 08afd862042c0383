//! Unmodified servers from Debian: attached, steered, followed through reloads, restarts, upgrades
//! and kills, and detached.
//!
//! Both the answer of the server and the picks of the kernel program show which worker got a
//! request.

mod burst;
mod gunicorn;
mod haproxy;
mod joining;
mod latency;
mod nginx;
mod unbound;
