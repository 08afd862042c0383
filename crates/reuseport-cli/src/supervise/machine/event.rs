//! What happens to a supervisor, what it does then, and what it says. Values.

use std::time::Duration;

use super::worker::WorkerId;

/// The times of a supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// For the workers of a new generation to get ready.
    pub(crate) ready: Duration,
    /// After a promotion, in which the end of a new worker takes it back.
    pub(crate) probation: Duration,
    /// For the old generation to take what waits at it.
    pub(crate) drain: Duration,
    /// From SIGTERM to SIGKILL.
    pub(crate) stop: Duration,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Its process runs.
    Started(WorkerId),
    /// It has no process: it could not be started.
    NotStarted(WorkerId),
    Ready(WorkerId),
    Exited(WorkerId),
    /// Nothing waits at the members of the old generation.
    Drained,
    /// How [`Action::Prepare`], [`Action::TryOut`], [`Action::Promote`] or [`Action::Rollback`] ended.
    Steered(bool),
    /// SIGTERM; a second one asks for SIGKILL.
    Stop,
}

/// A request for a new generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reload {
    pub(crate) workers: u16,
    /// How long it has a part of the traffic first.
    pub(crate) trial: Option<Duration>,
}

/// A reload is under way, or everything stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Busy {
    pub(crate) stops: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make the sockets of a new generation, which waits on standby.
    Prepare {
        generation: u32,
        workers: u16,
    },
    Start(WorkerId),
    Signal(WorkerId, Force),
    /// Its sockets get nothing while another worker serves.
    Hold(WorkerId),
    Serve(WorkerId),
    /// Give the generation its part of the traffic.
    TryOut(u32),
    Promote(u32),
    /// Let this generation serve alone again: end a promotion, or a trial.
    Rollback(u32),
    /// Close the sockets of a worker that has ended for good: what waits there goes to others.
    Close(WorkerId),
    /// All workers are ready, or given up.
    Announce,
    Tell(Tale),
    Answer(Outcome),
    Exit(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Force {
    Term,
    Kill,
}

/// What people are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tale {
    Ready(WorkerId),
    /// It ended, and is started again after this time.
    Again(WorkerId, Duration),
    GivenUp(WorkerId),
    /// Not ready in time: it gets nothing.
    Late(WorkerId),
    AllGivenUp,
    OnTrial(u32),
    Promoted {
        generation: u32,
        old: u32,
    },
    /// It did not end after SIGTERM.
    Killed(WorkerId),
}

/// How a reload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The old generation is gone. Whether some of it had to be killed.
    Done { generation: u32, killed: bool },
    /// The old one serves.
    RolledBack { generation: u32, why: Why },
    /// Everything stops.
    Stopped,
}

/// Why a generation is taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    Died(WorkerId),
    NotReady(Vec<WorkerId>),
    /// The groups could not be changed.
    Steering,
    /// All of its workers were given up before the old one had gone.
    GivenUp,
    /// A supervisor that was killed had not promoted it.
    Interrupted,
}
