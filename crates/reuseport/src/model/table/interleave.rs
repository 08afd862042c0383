//! A smooth round of turns in proportion to weights, exact and as short as possible.
//!
//! A member with w of the L turns of a round divides the round into w equal stretches and has one turn in
//! each. Among the members whose stretch has begun, the next turn goes to the one whose stretch ends first
//! (earliest deadline first). No deadline is missed: if every turn were divided among all members in
//! proportion, each member would get exactly one turn in each of its stretches, and a schedule that is
//! feasible with divided turns is feasible with whole turns in this order. So at every point of the round
//! each member has had its proportional number of turns, rounded down or up. (nginx's smooth weighted
//! round-robin has the same aim, but examines every member for every turn, and some members lag by more
//! than a turn.)
//!
//! Two heaps, one of stretches that have not begun and one of those that have, make a round cost
//! O(L log n). All arithmetic is in integers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use super::share::Turns;
use crate::model::id::Slot;

/// The round of turns, at most `maximum` long.
pub(super) fn fill(turns: &[Turns], maximum: u32) -> Vec<Slot> {
    round(reduce(scale_down(reduce(turns.to_vec()), maximum.into())))
}

/// Divides all weights by their greatest common divisor.
fn reduce(mut turns: Vec<Turns>) -> Vec<Turns> {
    let divisor = turns.iter().fold(0, |divisor, turn| gcd(divisor, turn.weight));
    for turn in &mut turns {
        turn.weight /= divisor;
    }
    turns
}

/// Scales weights so that their sum is at most `maximum`, with at least 1 for each.
///
/// One turn for each member is reserved first: rounding, to the nearest number but never to 0, gives no
/// member more than one turn above its share. Equal weights stay equal.
fn scale_down(mut turns: Vec<Turns>, maximum: u64) -> Vec<Turns> {
    let sum: u64 = turns.iter().map(|turn| turn.weight).sum();
    if sum > maximum {
        let room = maximum.saturating_sub(turns.len() as u64);
        for turn in &mut turns {
            turn.weight = ((2 * turn.weight * room + sum) / (2 * sum)).max(1);
        }
    }
    turns
}

/// One round, in which each slot has as many turns as its weight.
fn round(mut turns: Vec<Turns>) -> Vec<Slot> {
    // Of stretches that end at the same time, the heaviest member's goes first, so that light members
    // come between its turns and not in a row at the end; then the lowest slot's.
    turns.sort_unstable_by_key(|turn| (Reverse(turn.weight), turn.slot));
    let length: u64 = turns.iter().map(|turn| turn.weight).sum();
    let mut had = vec![0; turns.len()];
    let mut order = Vec::with_capacity(length as usize);
    let mut begun = BinaryHeap::with_capacity(turns.len());
    let mut to_begin: BinaryHeap<Reverse<Event>> =
        (0..turns.len()).map(|member| Reverse(Event::new(0, member))).collect();

    for now in 0..length {
        while let Some(next) = to_begin.peek_mut().filter(|next| next.0.turn() <= now) {
            let member = PeekMut::pop(next).0.member();
            let end = ((had[member] + 1) * length).div_ceil(turns[member].weight);
            begun.push(Reverse(Event::new(end, member)));
        }
        let Reverse(first) = begun.pop().expect("more stretches have begun than turns were given");
        let member = first.member();
        order.push(turns[member].slot);
        had[member] += 1;
        if had[member] < turns[member].weight {
            let begin = had[member] * length / turns[member].weight;
            to_begin.push(Reverse(Event::new(begin, member)));
        }
    }
    order
}

/// The turn in which a member's stretch begins, or before which it ends, and the member, in one word:
/// most of the time goes into heaps of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Event(u64);

impl Event {
    fn new(turn: u64, member: usize) -> Self {
        Self(turn << 32 | member as u64)
    }

    fn turn(self) -> u64 {
        self.0 >> 32
    }

    fn member(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }
}

/// The greatest common divisor; of 0 and a number, the number.
fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
