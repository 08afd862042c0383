//! A lap: a number of datagrams or connections that are sent and then received by one thread.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Result, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// The members of a group, watched together.
pub(super) struct Watched(OwnedFd);

impl Watched {
    pub(super) fn new<S: AsFd>(members: &[S]) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, member) in (0..).zip(members) {
            epoll::add(&epoll, member, epoll::EventData::new_u64(index), epoll::EventFlags::IN)?;
        }
        Ok(Self(epoll))
    }

    /// Receives `count` datagrams or connections, one for each event of epoll, so that it does not
    /// matter how many wait at one member. `receive` gets the member's index.
    pub(super) fn receive(
        &self,
        count: usize,
        mut receive: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let mut events = Vec::with_capacity(64);
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        let mut received = 0;
        while received < count {
            events.clear();
            epoll::wait(&self.0, spare_capacity(&mut events), Some(&second))?;
            ensure!(!events.is_empty(), "{received} of {count} arrived");
            for event in &events {
                receive(event.data.u64() as usize)?;
            }
            received += events.len();
        }
        Ok(())
    }
}

/// Runs a first lap to warm up, then `laps` more, and returns the one with the median cost.
pub(super) fn median_lap<T: Copy>(
    laps: usize,
    cost: impl Fn(&T) -> f64,
    mut lap: impl FnMut() -> Result<T>,
) -> Result<T> {
    lap()?;
    let mut measured = (0..laps).map(|_| lap()).collect::<Result<Vec<T>>>()?;
    measured.sort_unstable_by(|one, other| cost(one).total_cmp(&cost(other)));
    Ok(measured[laps / 2])
}
