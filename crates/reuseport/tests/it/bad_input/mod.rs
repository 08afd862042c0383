//! Wrong input and missing features: each is refused with an error that says what was tried, what
//! the kernel said and what to do, and the group stays as it was.

mod groups;
mod maps;
mod programs;
mod rights;
mod state;

use std::path::PathBuf;

use reuseport::group::GroupKey;
use reuseport::id::{Slot, Weight};
use reuseport::status::Steering;
use reuseport::{Balancer, Error, ErrorKind, Policy, Result};
use rustix::thread::CapabilitySet;

use crate::common::previous::directory_of;
use crate::common::scene::Scene;
use crate::common::world::{deal, one_line, with};

impl Scene {
    /// A group with round-robin attached.
    fn steered(members: usize) -> Self {
        let scene = Self::new(members);
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        scene
    }

    fn detach(&self) -> Result<()> {
        reuseport::detach(&self.host, &self.key).map(|_| ())
    }

    fn set_weight(&self, slot: u16, weight: u16) -> Result<()> {
        let balancer = Balancer::open(&self.host, &self.key)?;
        balancer.set_weights(&[(Slot::new(slot), Weight::new(weight).unwrap())])
    }

    fn steering(&self) -> Steering {
        self.host.status(&self.key).unwrap().steering
    }

    /// Asserts that an operation fails with an error of this kind whose message has all of these
    /// words, and that the group and the dealing of connections stay as they were.
    #[track_caller]
    fn refuses(
        &self,
        kind: ErrorKind,
        words: &[&str],
        operation: impl FnOnce(&Self) -> Result<()>,
    ) {
        let (before, served) = (self.world(), deal(&self.members, 12));
        refused(operation(self).unwrap_err(), kind, words);
        assert_eq!(self.world(), before);
        let still = deal(&self.members, 12);
        match before.steering() {
            Steering::Ours(reuseport::Program::Selection(_)) => assert_eq!(still, served),
            _ => assert_eq!(still.iter().sum::<usize>(), 12),
        }
    }
}

#[track_caller]
pub(crate) fn refused(error: Error, kind: ErrorKind, words: &[&str]) {
    let text = one_line(&error);
    assert_eq!(error.kind(), kind, "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
}

const TRACING: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::PERFMON);

fn sockets_of(key: &GroupKey) -> PathBuf {
    directory_of(key).join("sockets")
}
