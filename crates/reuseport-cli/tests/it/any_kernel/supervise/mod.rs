//! `run` and `reload`: a supervisor of a server's workers, which keeps their sockets.

mod adopted;
mod reloads;
mod scene;
mod workers;
