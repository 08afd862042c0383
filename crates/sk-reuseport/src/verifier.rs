//! The verifier's log: its level, and loading with it.

use std::io;
use std::os::fd::OwnedFd;

bitflags::bitflags! {
    /// How much the verifier logs about a program that it refuses.
    #[derive(Clone, Copy, Debug)]
    pub struct VerifierLogLevel: u32 {
        /// Nothing.
        const DISABLE = 0;
        /// The reason, and the instructions that lead there.
        const DEBUG = 1;
        /// Every state that it explored.
        const VERBOSE = 2 | Self::DEBUG.bits();
        /// Statistics.
        const STATS = 4;
    }
}

impl Default for VerifierLogLevel {
    fn default() -> Self {
        Self::DEBUG | Self::STATS
    }
}

/// Calls `load` without a log and, if that fails, again with a log, as large as it needs.
pub(crate) fn with_log(
    level: VerifierLogLevel,
    mut load: impl FnMut(&mut [u8], u32) -> io::Result<OwnedFd>,
) -> (io::Result<OwnedFd>, String) {
    const FIRST_SIZE: usize = 64 * 1024;
    // The kernel accepts up to 1 GiB, more than is of use to a reader.
    const LAST_SIZE: usize = 16 * 1024 * 1024;
    // The verifier gives up with EAGAIN when a signal is pending.
    const TRIES: usize = 10;

    let mut load = |log: &mut [u8]| {
        let mut result = load(log, level.bits());
        for _ in 1..TRIES {
            match &result {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                    result = load(log, level.bits());
                }
                _ => break,
            }
        }
        result
    };
    let first = match load(&mut []) {
        Err(error) if !level.is_empty() => error,
        result => return (result, String::new()),
    };
    let mut log = vec![0; FIRST_SIZE];
    loop {
        let result = match load(&mut log) {
            // The log did not fit, and its end has the reason.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                if log.len() < LAST_SIZE {
                    log = vec![0; log.len() * 4];
                    continue;
                }
                Err(first)
            }
            result => result,
        };
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        let text = String::from_utf8_lossy(&log[..end]).trim_end().to_owned();
        return (result, text);
    }
}
