//! One worker: its state, and when it is started again. Values, no I/O and no clock.

use std::fmt;
use std::time::{Duration, Instant};

/// The number of ends in a row, each soon after the start, after which a worker is given up.
pub(crate) const GIVE_UP: u32 = 5;

/// A worker that was ready for this long has not failed to start.
const STEADY: Duration = Duration::from_secs(10);

/// The pause after the first end in a row. Each further one takes twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A place in a generation, which has one process after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WorkerId {
    pub(crate) generation: u32,
    /// From 1 on.
    pub(crate) index: u16,
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.index)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Unstarted,
    Starting,
    /// Its process runs; since when it is ready. `late`: when to say that it is not.
    Running {
        ready: Option<Instant>,
        late: Instant,
    },
    /// It ended, and is started again.
    Waiting {
        until: Instant,
    },
    GivenUp,
    /// It was asked to end; `None`: it was killed.
    Stopping {
        kill: Option<Instant>,
    },
    /// It ended for good.
    Gone,
}

impl State {
    pub(super) fn is_ready(&self) -> bool {
        matches!(self, Self::Running { ready: Some(_), .. })
    }

    pub(super) fn is_given_up(&self) -> bool {
        *self == Self::GivenUp
    }

    pub(super) fn is_gone(&self) -> bool {
        *self == Self::Gone
    }

    pub(super) fn lives(&self) -> bool {
        matches!(self, Self::Starting | Self::Running { .. } | Self::Stopping { .. })
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Running { ready: None, late } => Some(*late),
            Self::Waiting { until } => Some(*until),
            Self::Stopping { kill } => *kill,
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Worker {
    pub(super) state: State,
    /// How often it has ended in a row.
    ends: u32,
}

impl Default for Worker {
    fn default() -> Self {
        Self { state: State::Unstarted, ends: 0 }
    }
}

impl Worker {
    /// Its process ended, which was ready since then: the pause before the next one; `None`: there is none.
    pub(super) fn ended(&mut self, ready: Option<Instant>, now: Instant) -> Option<Duration> {
        if ready.is_some_and(|ready| now.saturating_duration_since(ready) >= STEADY) {
            self.ends = 0;
        }
        self.ends += 1;
        let pause = FIRST_PAUSE.saturating_mul(1 << (self.ends - 1).min(16));
        (self.ends < GIVE_UP).then_some(pause.min(LONGEST_PAUSE))
    }
}
