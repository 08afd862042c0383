//! Maglev hashing with weights (section 3.4 of Eisenbud et al., "Maglev: A Fast and Reliable
//! Software Network Load Balancer", NSDI 2016).
//!
//! Each member has its own permutation of the places of the table. Members take turns; in each turn a
//! member takes the first free place of its permutation, until the table is full. A member that comes or
//! goes moves few entries of the others: only those at collisions.
//!
//! Weights: a member has turns at points of a virtual time, as many per unit as its weight. These points
//! depend on the member alone, so a member that comes or goes does not change the order of the others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::share::Turns;
use crate::model::id::Slot;

/// Fills a table of `size` entries, a prime. Without members the table is empty.
pub(super) fn fill(turns: &[Turns], seed: u64, size: u32) -> Vec<Slot> {
    if turns.is_empty() {
        return Vec::new();
    }
    // Members of one weight have their turns at the same times: the heap holds weights, which are few.
    let mut by_weight = BTreeMap::<u64, Vec<Walk>>::new();
    for turn in turns {
        by_weight.entry(turn.weight).or_default().push(Walk::new(turn.slot, seed));
    }
    let mut classes: Vec<(u64, Vec<Walk>)> = by_weight.into_iter().rev().collect();
    let mut next: BinaryHeap<Reverse<Turn>> =
        (0..classes.len()).map(|class| Reverse(Turn { time: 0, class, round: 0 })).collect();

    let mut table = Places::new(size);
    while let Some(mut top) = next.peek_mut() {
        let Turn { class, round, .. } = top.0;
        let (weight, members) = &mut classes[class];
        top.0 = Turn { time: time_of(round + 1, *weight), class, round: round + 1 };
        for member in members {
            if table.free == 0 {
                return table.slots;
            }
            table.take(member);
        }
    }
    table.slots
}

/// The next turn of the members of one weight. Of turns at the same time, the heaviest goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    time: u64,
    class: usize,
    round: u64,
}

/// The time of a turn, counted from 0.
///
/// It is the middle of the turn's share of time: the number of turns up to any time is the weight times the
/// time, rounded. The first turn comes at time 0, so that each member gets an entry, however small its
/// share. With at most 2^22 turns, the numbers stay below 2^63.
fn time_of(round: u64, weight: u64) -> u64 {
    const UNIT: u64 = 1 << 40;
    if round == 0 { 0 } else { (2 * round + 1) * UNIT / (2 * weight) }
}

/// A member's permutation of the places.
///
/// The paper's permutations are arithmetic progressions. Two members whose steps are in a simple ratio then
/// stay in step all over the table, and a third one that comes or goes shifts one of the two as a whole:
/// among 29 equal members this moved twice the keys that were due. This permutation has no such structure:
/// it consists of additions, multiplications by odd numbers and shifts, each of which is invertible within
/// the bits of a place.
struct Walk {
    slot: Slot,
    step: u32,
    start: u32,
    factors: [u32; 2],
}

impl Walk {
    fn new(slot: Slot, seed: u64) -> Self {
        let first = mix(seed ^ mix(u64::from(slot.get()) + 1));
        let second = mix(first);
        // Truncation is intended: all bits are equally random.
        let factors = [second as u32 | 1, (second >> 32) as u32 | 1];
        Self { slot, step: 0, start: first as u32, factors }
    }

    /// The next of 2^`bits` places.
    fn next(&mut self, bits: u32) -> u32 {
        let mask = (1 << bits) - 1;
        let mut place = self.step.wrapping_add(self.start) & mask;
        self.step += 1;
        for factor in self.factors {
            place ^= place >> (bits / 2);
            place = place.wrapping_mul(factor) & mask;
        }
        place ^ place >> (bits / 2)
    }
}

/// Spreads every bit of `x` over all bits: SplitMix64 (Steele, Lea, Flood 2014). Not from a
/// library, because a table must not change with a library's version.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// The table while it is being filled.
struct Places {
    slots: Vec<Slot>,
    /// One bit for each place. Most of the time goes into finding free places all over the table, and the
    /// bits fit the processor's cache.
    taken: Vec<u64>,
    free: u32,
}

impl Places {
    fn new(size: u32) -> Self {
        Self {
            slots: vec![Slot::new(0); size as usize],
            taken: vec![0; size.div_ceil(64) as usize],
            free: size,
        }
    }

    /// Gives the member the first free place of its permutation. There must be one.
    fn take(&mut self, member: &mut Walk) {
        let size = self.slots.len();
        let bits = size.next_power_of_two().ilog2();
        loop {
            let place = member.next(bits) as usize;
            if place >= size {
                continue;
            }
            let bit = 1 << (place % 64);
            if self.taken[place / 64] & bit == 0 {
                self.taken[place / 64] |= bit;
                self.slots[place] = member.slot;
                self.free -= 1;
                return;
            }
        }
    }
}
