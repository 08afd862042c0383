//! Ending threads that wait for a flag.

use std::sync::atomic::{AtomicBool, Ordering};

/// Sets a flag when it goes out of scope, also if a test fails, so that threads that wait for the
/// flag end.
#[derive(Debug)]
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
