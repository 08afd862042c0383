//! Who gets a connection: `bpf/least_loaded.h` and `bpf/load.h` over again, for members of equal weight
//! without slow start, whose queues are never full; and what it is compared with.

use super::random::{Random, mix};

/// What decides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Policy {
    /// One queue for all workers: the bound of what can be had.
    Central,
    /// What the kernel's hash is, with flows that have nothing to do with each other.
    Random,
    RoundRobin,
    LeastLoaded(LeastLoaded),
}

/// The constants of the kernel's program.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LeastLoaded {
    /// Members that are looked at: all, if there are no more.
    pub(super) look_at: usize,
    /// Picks to a member in a window, of which it may have twice as many; `None`: no limit.
    pub(super) window: Option<u32>,
    /// So many half-open requests count.
    pub(super) half_open: u32,
    pub(super) terms: Terms,
}

impl LeastLoaded {
    /// As it is.
    pub(super) const AS_IS: Self =
        Self { look_at: 16, window: Some(8), half_open: 256, terms: Terms::QueueOpen };
    pub(super) const ALL: usize = usize::MAX;
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Terms {
    /// Queues, then open connections.
    QueueOpen,
    Queue,
    Open,
    /// Both, added up. The kernel's program does not have it.
    Sum,
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

/// `struct pace`.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    window: u64,
    picked: u32,
    length: u32,
}

/// A policy and what it remembers.
pub(super) struct Chooser {
    policy: Policy,
    turn: u64,
    random: Random,
    paces: Vec<Pace>,
}

/// One that was looked at: its load, whether it has had its limit and whether it is stuck.
struct Look {
    load: u64,
    late: bool,
    stuck: bool,
}

const NOBODY: (u64, usize) = (u64::MAX, usize::MAX);

impl Chooser {
    pub(super) fn new(policy: Policy, members: usize, random: Random) -> Self {
        Self { policy, turn: 0, random, paces: vec![Pace::default(); members] }
    }

    /// The member that gets the next connection.
    pub(super) fn choose(&mut self, members: &[Member]) -> usize {
        let turn = self.turn;
        self.turn += 1;
        match self.policy {
            Policy::Central => 0,
            Policy::Random => self.random.below(members.len()),
            Policy::RoundRobin => (turn % members.len() as u64) as usize,
            Policy::LeastLoaded(policy) => self.least_loaded(policy, members, turn),
        }
    }

    fn least_loaded(&mut self, policy: LeastLoaded, members: &[Member], turn: u64) -> usize {
        let count = members.len() as u64;
        let per_window = policy.window.map_or(u64::MAX, |picks| count * u64::from(picks));
        let window = turn / per_window;
        let (mut best, mut best_late, mut second) = (NOBODY, false, NOBODY);
        let mut look_on = |slot: usize| {
            let look = self.look_at(policy, members[slot], slot, window);
            if look.load < best.0 {
                (best, best_late) = ((look.load, slot), look.late);
            }
            if !look.late && !look.stuck && look.load < second.0 {
                second = (look.load, slot);
            }
        };
        // Who goes first among equals: whose turn it is, then anyone. The kernel's program draws a number
        // for each; a walk that begins anywhere does the same here.
        let start = mix(turn) >> 32;
        look_on((turn % count) as usize);
        if members.len() <= policy.look_at {
            let first = (start >> 1) % count;
            let around = |i| if start & 1 == 1 { first + i } else { first + count - i };
            (1..count).for_each(|i| look_on((around(i) % count) as usize));
            look_on(first as usize);
        } else {
            (1..policy.look_at as u64).for_each(|i| look_on((mix(start + i) % count) as usize));
        }
        let choice = if best_late && second != NOBODY { second.1 } else { best.1 };
        let pace = &mut self.paces[choice];
        let picked = if pace.window == window { pace.picked } else { 0 };
        let length = length(policy, members[choice]) + 1;
        *pace = Pace { window, picked: picked + 1, length };
        choice
    }

    fn look_at(&self, policy: LeastLoaded, member: Member, slot: usize, window: u64) -> Look {
        let (pace, length) = (self.paces[slot], length(policy, member));
        let (queue, open) = (u64::from(length), u64::from(member.open));
        let load = match policy.terms {
            Terms::QueueOpen => queue << 32 | open,
            Terms::Queue => queue,
            Terms::Open => open + u64::from(member.waiting),
            Terms::Sum => queue + open,
        };
        let limit = policy.window.map_or(u32::MAX, |picks| 2 * picks);
        let late = pace.window == window && pace.picked >= limit;
        Look { load, late, stuck: length > 1 && length >= pace.length }
    }
}

/// Of the queue, as the policy sees it; with open connections alone it sees none.
fn length(policy: LeastLoaded, member: Member) -> u32 {
    match policy.terms {
        Terms::Open => 0,
        _ => member.waiting + member.half_open.min(policy.half_open),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn least_loaded(policy: LeastLoaded, members: usize) -> Chooser {
        Chooser::new(Policy::LeastLoaded(policy), members, Random::new(1, 0))
    }

    fn member(waiting: u32, half_open: u32, open: u32) -> Member {
        Member { half_open, waiting, open }
    }

    #[test]
    fn queues_come_before_open_connections_and_turns_last() {
        let mut chooser = least_loaded(LeastLoaded::AS_IS, 3);
        let members = [member(1, 0, 0), member(0, 0, 9), member(0, 0, 8)];
        assert!((0..6).all(|_| chooser.choose(&members) == 2));
        let mut chooser = least_loaded(LeastLoaded::AS_IS, 3);
        let turns: Vec<usize> = (0..6).map(|_| chooser.choose(&[member(0, 0, 0); 3])).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn half_open_requests_count_up_to_their_bound() {
        let policy = LeastLoaded { half_open: 4, ..LeastLoaded::AS_IS };
        let members = [member(2, 0, 0), member(0, 3, 0), member(1, 900, 0)];
        assert_eq!(least_loaded(policy, 3).choose(&members), 0);
        assert_eq!(least_loaded(policy, 3).choose(&[member(0, 900, 1), member(0, 5, 0)]), 1);
    }

    #[test]
    fn a_member_has_at_most_twice_its_share_unless_others_are_stuck() {
        let mut chooser = least_loaded(LeastLoaded::AS_IS, 4);
        let mut members = [member(1, 0, 0); 4];
        members[2] = member(0, 0, 0);
        let picks = |chooser: &mut Chooser, members: &[Member]| {
            (0..32).filter(|_| chooser.choose(members) == 2).count()
        };
        assert_eq!(picks(&mut chooser, &members), 16);
        members.iter_mut().for_each(|member| member.waiting += 5);
        // They are picked once each in the window's beginning, at most; then their queues stand still.
        assert!(picks(&mut chooser, &members) >= 28);
    }

    #[test]
    fn of_many_members_some_are_looked_at() {
        let policy = LeastLoaded { look_at: 2, ..LeastLoaded::AS_IS };
        let mut members = vec![member(5, 0, 0); 100];
        members[7] = member(0, 0, 0);
        let mut chooser = least_loaded(policy, 100);
        let found = (0..10_000).filter(|_| chooser.choose(&members) == 7).count();
        // Every hundredth turn, and a hundredth of the others by chance.
        assert!((150..250).contains(&found), "{found}");
    }
}
