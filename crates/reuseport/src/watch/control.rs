//! A watcher that is told what to follow while it runs: for an agent, which reads its groups from a file.

use std::fs::File;

use super::Watch;
use super::add::for_updates;
use crate::balancer::Balancer;
use crate::change::request::{Attach, Attached};
use crate::error::Result;
use crate::host::Host;
use crate::model::group::GroupKey;
use crate::model::refusal::not_attached;
use crate::pins::watcher;

impl Watch {
    /// The groups that are followed.
    pub fn followed(&self) -> impl Iterator<Item = &GroupKey> {
        self.follower.keys()
    }

    /// Attaches to a group that is followed, in another way from now on.
    ///
    /// # Errors
    ///
    /// As [`Balancer::attach`]; then it is followed as before.
    /// [`ErrorKind::NotAttached`](crate::ErrorKind::NotAttached) for a group that is not followed.
    pub fn change(&mut self, key: &GroupKey, attach: Attach) -> Result<Attached> {
        let watched = self.watched.get_mut(&key.name_only()).ok_or_else(|| not_attached(key))?;
        let attach = Attach { stop: self.stop.clone(), ..attach };
        let (_, attached) = Balancer::attach(&self.host, key, &attach)?;
        watched.attach = for_updates(attach);
        Ok(attached)
    }

    /// Whether groups are taken back from other owners' programs: [`retaking`](Self::retaking).
    pub fn set_retaking(&mut self, retakes: bool) {
        self.retakes = retakes;
        self.follower.retake(retakes);
    }

    /// Follows a group no more. The program stays attached.
    pub fn unfollow(&mut self, key: &GroupKey) {
        let name = key.name_only();
        self.follower.forget(&name);
        self.forget(&name);
    }

    /// Waits no more for groups that are not there yet. Those that are followed stay so.
    pub fn wait_for_none(&mut self) {
        for id in self.awaited.ids() {
            self.expect_no_more(id);
        }
        self.awaited.forget_refused();
    }
}

/// The right to follow all groups of the host, which one process at a time has: an agent. It ends with the value, or
/// the process.
///
/// # Example
///
/// ```no_run
/// use reuseport::{Host, watch::Sole};
///
/// let host = Host::open()?;
/// let sole = Sole::claim(&host)?;
/// # drop(sole);
/// # Ok::<(), reuseport::Error>(())
/// ```
#[derive(Debug)]
pub struct Sole {
    _lock: File,
}

impl Sole {
    /// Claims the right.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`](crate::ErrorKind::Busy) if another process has it, with its id.
    /// [`ErrorKind::Denied`](crate::ErrorKind::Denied) if the caller may not write to the directory of the state.
    pub fn claim(host: &Host) -> Result<Self> {
        Ok(Self { _lock: watcher::claim(host.place())? })
    }
}
