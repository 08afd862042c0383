//! Hermes among the contenders: what workers need of it comes to them as inherited descriptors, and
//! their loops tell it how they do.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::voice::Voice;
use crate::hermes::{Hermes, HermesWorker, WAIT};

/// Which descriptors a worker has inherited for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inherited {
    status: i32,
    bitmap: i32,
    workers: u8,
}

impl Inherited {
    pub(super) fn of(hermes: &Hermes, workers: u8) -> Self {
        let (status, bitmap) = (hermes.status_fd().as_raw_fd(), hermes.bitmap_fd().as_raw_fd());
        Self { status, bitmap, workers }
    }

    /// For the command line.
    pub(super) fn word(self) -> String {
        let Self { status, bitmap, workers } = self;
        format!("{status},{bitmap},{workers}")
    }

    pub(super) fn parse(word: &str) -> Result<Self, String> {
        let numbers: Result<Vec<i32>, _> = word.split(',').map(str::parse).collect();
        let Ok([status, bitmap, workers]) = numbers.as_deref() else {
            return Err("two descriptors and a number of workers".to_owned());
        };
        let workers = u8::try_from(*workers).map_err(|_| "too many workers".to_owned())?;
        Ok(Self { status: *status, bitmap: *bitmap, workers })
    }

    /// In the worker with this index.
    pub(super) fn worker(self, index: u8) -> Result<HermesWorker> {
        let (status, bitmap) = (own(self.status)?, own(self.bitmap)?);
        HermesWorker::from_inherited(status, bitmap, index.into(), self.workers.into())
    }
}

/// A copy of a descriptor of ours: only the kernel can tell that there is one with this number.
fn own(fd: i32) -> Result<OwnedFd> {
    let process = pidfd_open(getpid(), PidfdFlags::empty())?;
    pidfd_getfd(process, fd, PidfdGetfdFlags::empty())
        .with_context(|| format!("descriptor {fd} was not inherited"))
}

impl Voice for HermesWorker {
    fn entered(&mut self) {
        self.loop_entered();
    }
    fn events(&mut self, pending: usize) {
        HermesWorker::events(self, pending);
    }
    fn opened(&mut self) {
        HermesWorker::opened(self);
    }
    fn closed(&mut self) {
        HermesWorker::closed(self);
    }
    fn ended(&mut self) -> Result<()> {
        self.loop_ended()
    }
    fn longest_wait(&self) -> Option<Duration> {
        Some(WAIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inherited_fits_a_word() {
        let inherited = Inherited { status: 7, bitmap: 9, workers: 64 };
        assert_eq!(Inherited::parse(&inherited.word()), Ok(inherited));
        assert!(Inherited::parse("7,9").is_err());
        assert!(Inherited::parse("7,9,256").is_err());
    }
}
