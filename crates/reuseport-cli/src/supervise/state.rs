//! What the next supervisor of the name has to know, should this one be killed.

use serde::{Deserialize, Serialize};

use super::machine::WorkerId;

/// The state, as it is written at each change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) version: u32,
    pub(super) listen: Vec<String>,
    pub(super) serving: u32,
    pub(super) generations: Vec<Generation>,
    pub(super) workers: Vec<Worker>,
}

/// What a generation runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Generation {
    pub(super) number: u32,
    pub(super) command: Vec<String>,
}

/// A worker. Without a pid it has no process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Worker {
    pub(super) generation: u32,
    pub(super) index: u16,
    pub(super) pid: Option<i32>,
    /// When the process began, in clock ticks since boot.
    pub(super) began: u64,
    pub(super) notify: String,
    /// Whether it said that it is ready.
    pub(super) said_ready: bool,
    /// Its sockets, in the order of the addresses.
    pub(super) sockets: Vec<u64>,
}

impl State {
    pub(super) const VERSION: u32 = 1;
}

impl Worker {
    pub(super) fn id(&self) -> WorkerId {
        WorkerId { generation: self.generation, index: self.index }
    }
}
