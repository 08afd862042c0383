//! Maglev hashing with weights (section 3.4 of Eisenbud et al., "Maglev: A Fast and Reliable
//! Software Network Load Balancer", NSDI 2016).
//!
//! Every member has an order of its own over all places of the table. Members take turns, each
//! taking the first place in its order that is still free, until the table is full. Who comes or
//! goes disturbs the others little, because nothing of theirs depends on it but where they collide.
//!
//! Weights: a member's turns come at points of an imaginary time, as many per unit as its weight.
//! When a turn comes depends on the member alone, so that here, too, nobody's coming or going
//! changes the order among the others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::share::Turns;
use crate::model::id::Slot;

/// Fills a table of `size` entries, a prime; an empty one if there is nobody.
pub(super) fn fill(turns: &[Turns], seed: u64, size: u32) -> Vec<Slot> {
    if turns.is_empty() {
        return Vec::new();
    }
    // Members of one weight always have their turns together, so that time is kept for weights, of
    // which there are few, and not for members.
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

/// When the members of a class have their next turn. The heaviest goes first if several do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    time: u64,
    class: usize,
    round: u64,
}

/// When the turn with this number, counted from 0, comes.
///
/// In the middle of its share of time, so that the number of turns up to any moment is the weight
/// times the moment, rounded. Only the first comes at once: everybody gets an entry, however small
/// its share. With at most 2^22 turns, 2^63 is not exceeded.
fn time_of(round: u64, weight: u64) -> u64 {
    const UNIT: u64 = 1 << 40;
    if round == 0 { 0 } else { (2 * round + 1) * UNIT / (2 * weight) }
}

/// A member's way through the table, past every place once.
///
/// The paper goes ahead by the same distance each time. Two members whose distances happen to be in
/// a simple ratio then stay in step all over the table, and if another comes or goes, one of the two
/// is shifted as a whole: among 29 equal members this once moved twice the keys that it should have.
/// So this is a permutation without such structure: additions, multiplications by odd numbers and
/// shifts, each of which can be undone within the bits that count the places.
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
        // Bits are cut off on purpose: any of them will do.
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

/// Spreads every bit of `x` over all bits: SplitMix64 (Steele, Lea, Flood 2014), written out here
/// because a table must be the same whatever version of whatever library it was built with.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// The table while it is being filled.
struct Places {
    slots: Vec<Slot>,
    /// One bit for each place. Most of the time goes into looking for a free one, all over the
    /// table: bits stay in the processor's cache where the slots would not.
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

    /// Gives the member the next place on its way that is free. There must be one.
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
