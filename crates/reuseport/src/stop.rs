//! A request to stop, for example by a signal. Operations check it between steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// A flag that asks a running operation to stop and to take back its steps.
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

    /// Whether a stop was requested.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The flag itself, for a signal handler to set.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// An error if a stop was requested; `failed` names the operation.
    pub(crate) fn check(&self, failed: &str) -> Result<()> {
        if !self.is_set() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Interrupted, failed)
            .because("interrupted by a signal")
            .with_hint("the group is as it was"))
    }
}
