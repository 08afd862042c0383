//! Being asked to stop, by a signal say: looked at between steps, so that no step is left half done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// A flag that asks a running operation to stop and to undo what it did so far.
///
/// # Example
///
/// ```
/// use reuseport::Stop;
///
/// let stop = Stop::default();
/// let handler = stop.clone();
/// handler.set(); // in a signal handler, or another thread
/// assert!(stop.is_set());
/// ```
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The flag itself, for a signal handler to set.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// An error if somebody asked.
    pub(crate) fn check(&self, tried: &str) -> Result<()> {
        if !self.is_set() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Interrupted, tried)
            .because("interrupted by a signal")
            .with_hint("the group is as it was"))
    }
}
