//! Which member gets a connection: the C of the policies, run on the host.

use fastrand::Rng;
use policy_model::{Candidate, Config, Model, Packet, Queue, Table};

/// What decides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Policy {
    /// One queue for all workers: the bound of what is possible.
    Central,
    /// The policy hash, for flows that are independent of each other.
    Hash,
    RoundRobin,
    LeastLoaded(LeastLoaded),
}

/// The constants of least-loaded that are compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LeastLoaded {
    /// Members in a sample, a multiple of four; up to as many are all examined.
    pub(super) sample: u32,
    /// Picks to a member in a window, of which it may have twice as many; `None`: no limit.
    pub(super) window: Option<u16>,
    /// Half-open requests that count.
    pub(super) half_open: u32,
    pub(super) queue: bool,
    pub(super) open: bool,
}

impl LeastLoaded {
    /// As in `bpf/wire/tuning.h`.
    pub(super) const AS_IS: Self =
        Self { sample: 16, window: Some(8), half_open: 256, queue: true, open: true };
    pub(super) const ALL: u32 = 1024;
    pub(super) const NO_BOUND: u32 = i32::MAX as u32;
}

/// What the kernel knows of a member.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Member {
    pub(super) half_open: u32,
    /// In the accept queue.
    pub(super) waiting: u32,
    /// Accepted, and not closed.
    pub(super) open: u32,
}

/// A policy's program; none for a central queue.
pub(super) struct Chooser {
    program: Option<Model>,
    flows: Rng,
}

impl Chooser {
    pub(super) fn new(policy: Policy, members: u16, flows: Rng) -> Self {
        let (policy, constants) = match policy {
            Policy::Central => return Self { program: None, flows },
            Policy::Hash => (policy_model::Policy::Hash, LeastLoaded::AS_IS),
            Policy::RoundRobin => (policy_model::Policy::RoundRobin, LeastLoaded::AS_IS),
            Policy::LeastLoaded(constants) => (policy_model::Policy::LeastLoaded, constants),
        };
        let mut program = Model::new(
            Config {
                sample: constants.sample,
                window: constants.window.unwrap_or(8).into(),
                half_open_bound: constants.half_open,
                load_queue: constants.queue,
                load_open: constants.open,
                ..Config::tcp(policy)
            },
            members,
        );
        let limit = constants.window.map_or(u16::MAX, |picks| 2 * picks);
        let candidates = (0..members).map(|slot| Candidate { slot, weight: 1, limit }).collect();
        program.set_table(&Table { candidates, ..Table::equal(members) });
        (0..members).for_each(|slot| program.fill(slot));
        Self { program: Some(program), flows }
    }

    /// Something changed at a member.
    pub(super) fn show(&mut self, index: usize, member: Member) {
        let Some(program) = &mut self.program else { return };
        program.set_queue(index as u16, Queue::new(member.waiting, member.half_open));
        // A connection that waits is open already.
        program.set_open(index as u16, member.open + member.waiting);
    }

    /// The member that gets the next connection.
    pub(super) fn choose(&mut self) -> usize {
        let Some(program) = &mut self.program else { return 0 };
        let packet = Packet { hash: self.flows.u32(..), ..Packet::default() };
        program.run(&packet).expect("all members are there").into()
    }
}
