//! What a worker tells about itself as it goes: nothing, but for contenders that cannot do without.
//! The workers that the others are measured with are unmodified servers, and this is where it shows.

use std::time::Duration;

use anyhow::Result;

/// Called by a worker's loop.
pub(super) trait Voice {
    /// It has returned from waiting.
    fn entered(&mut self);
    /// So many events are still to be handled.
    fn events(&mut self, pending: usize);
    /// It has accepted a connection.
    fn opened(&mut self);
    /// It has closed one.
    fn closed(&mut self);
    /// It is about to wait.
    fn ended(&mut self) -> Result<()>;
    /// How long it may wait at most.
    fn longest_wait(&self) -> Option<Duration>;
}

/// Tells nothing.
pub(super) struct Silent;

impl Voice for Silent {
    fn entered(&mut self) {}
    fn events(&mut self, _pending: usize) {}
    fn opened(&mut self) {}
    fn closed(&mut self) {}
    fn ended(&mut self) -> Result<()> {
        Ok(())
    }
    fn longest_wait(&self) -> Option<Duration> {
        None
    }
}
