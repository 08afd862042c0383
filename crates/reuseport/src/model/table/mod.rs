//! The kernel's table: which slots a key can name, and how often each is named.
//!
//! The kernel program takes a key modulo the table's length and finds a slot there. Everything else
//! that "balancing" means (weights, draining, standby generations) is how this module *fills* the
//! table. It computes and nothing else: it makes no system call, knows no socket and writes no map.
//! Whoever swaps a table in for another takes care of the grace period.
//!
//! Two ways to fill it, see [`Fill`]:
//!
//! * [`Fill::Maglev`]: for keys that come from the packet. Who comes or goes moves few keys.
//! * [`Fill::Interleave`]: for keys that count or are random. Proportions are exact.

mod candidate;
mod cpu;
mod interleave;
mod maglev;
mod share;
#[cfg(test)]
mod tests;

use crate::model::id::{MaxShare, Slot, State};

pub use candidate::Candidate;
pub use cpu::Topology;
pub use share::Share;
use share::Turns;

/// The version of what [`Table::build`] computes, kept with the pinned state.
///
/// The same members, seed and capacity give the same table as long as this number is the same. A
/// change of it moves nearly all flows of a group that is filled anew, once.
pub const FILL_VERSION: u32 = 1;

/// How a table is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fill {
    /// Maglev hashing (Eisenbud et al., NSDI 2016) with weights: a table of
    /// [`maximum_entries`] places, of which every member takes one after the other in an order of
    /// its own, derived from its slot and the seed.
    ///
    /// * A member that comes or goes moves its own share of the keys and less than 2 % more; one
    ///   replaced in its slot moves none. So does a table built twice from the same input, on
    ///   whatever host.
    /// * A member has its weighted share of the table to within one entry and 0.8 % of that share.
    ///   Up to 4,096 equal members have at least 127 entries each, and are within 1 % of their
    ///   share; more have at least 31 each, and are within 4 %.
    /// * Who has any weight has at least one entry, however unequal the weights: a member whose
    ///   share is less than one entry (weight 1 beside 4,095 members of weight 1000, say) gets more
    ///   than its share.
    Maglev {
        /// Makes the table unguessable from outside; the same for the lifetime of a group.
        seed: u64,
    },
    /// A smooth weighted round of turns, as short as it can be: as many entries as the weights'
    /// sum divided by their greatest common divisor, which for equal weights is one for each.
    ///
    /// * Every member is in the round exactly `weight / divisor` times, and at every point of it
    ///   (and of any number of rounds in a row) has had its proportional number of turns, rounded
    ///   down or up.
    /// * If that is more than [`maximum_entries`], weights are scaled down and rounded: a member has
    ///   its share of the round to within one turn and 0.8 % of that share. Members of one weight
    ///   keep the same number of turns, and everybody keeps at least one.
    /// * A member that comes or goes changes the whole round: not for keys that stand for flows.
    Interleave,
}

/// How many entries a table of a group with so many slots has at most: the map that holds its
/// encoding needs [`maximum_words`].
///
/// This is also the exact length of a table filled by [`Fill::Maglev`] that is not empty. It depends
/// on nothing but the capacity, because a table whose length changed with the number of members
/// would move nearly every key each time, and it is a prime, so that no regularity of the keys can
/// agree with it. There are three lengths: 65,521 (128 KiB) up to 512 slots, 524,287 (1 MiB) up to
/// 16,384, and 4,194,301 (8 MiB) above. A longer table is a better approximation of the shares and a
/// worse fit for the processor's caches: with 4,096 members in a group for four times as many, a
/// datagram's choice by hash takes a third longer from 8 MiB than from 1 MiB.
pub const fn maximum_entries(capacity: u32) -> u32 {
    match capacity {
        0..=512 => 65_521,
        513..=16_384 => 524_287,
        _ => 4_194_301,
    }
}

/// How many words [`Table::encode`] returns at most for a group with so many slots.
pub const fn maximum_words(capacity: u32) -> usize {
    let entries = maximum_entries(capacity).div_ceil(PER_WORD as u32);
    // A slot is on one list only, but each list begins with a word of its own.
    let lists = capacity.div_ceil(PER_WORD as u32) + 1;
    (1 + entries + lists + capacity) as usize
}

/// How many slots a word of the encoding holds.
const PER_WORD: usize = 4;

/// What the kernel program selects from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// Slots by key: only active members with a weight above 0. Empty if there is none.
    pub entries: Vec<Slot>,
    /// Every slot in `entries`, once and in ascending order: where to look on when the slot that a
    /// key names turns out to be empty.
    pub active: Vec<Slot>,
    /// The slots of draining members and of active ones with weight 0, in ascending order: what is
    /// left before the kernel's own hash decides.
    pub draining: Vec<Slot>,
    /// What it takes to compare the members in `active`, by slot; empty where nobody compares them.
    pub candidates: Vec<Candidate>,
}

impl Table {
    /// Fills a table for a group that has room for `capacity` slots.
    ///
    /// The order of `shares` does not matter. Their slots lie below the capacity, each in one share;
    /// of several for one slot only one counts. A table for 4,096 members takes some 20 to 40 ms in
    /// an optimised build, one for 32,768 less than half a second.
    pub fn build(shares: &[Share], fill: Fill, capacity: u32) -> Self {
        let mut shares = shares.to_vec();
        shares.sort_unstable_by_key(|share| (share.slot, share.weight, share.state));
        shares.dedup_by_key(|share| share.slot);

        let (in_table, others): (Vec<Share>, Vec<Share>) = shares
            .into_iter()
            .filter(|share| share.state != State::Standby)
            .partition(|share| share.state == State::Active && share.weight.get() > 0);

        let turns: Vec<Turns> = in_table
            .iter()
            .map(|share| Turns { slot: share.slot, weight: share.weight.get().into() })
            .collect();
        let entries = match fill {
            Fill::Maglev { seed } => maglev::fill(&turns, seed, maximum_entries(capacity)),
            Fill::Interleave => interleave::fill(&turns, maximum_entries(capacity)),
        };
        let slots = |shares: &[Share]| shares.iter().map(|share| share.slot).collect();
        let (active, draining) = (slots(&in_table), slots(&others));
        Self { entries, active, draining, candidates: Vec::new() }
    }

    /// Has the entries go by CPU instead, each member having one for its own, if it has.
    pub fn by_cpu(
        mut self,
        capacity: u32,
        topology: &Topology,
        cpu: impl Fn(Slot) -> Option<u16>,
    ) -> Self {
        let placed: Vec<_> = self.active.iter().map(|slot| (*slot, cpu(*slot))).collect();
        self.entries = cpu::fill(&placed, topology, maximum_entries(capacity) as usize);
        self
    }

    /// Adds what it takes to compare the members: their weights, how much each may get, and who they
    /// are in the host-wide layer.
    pub fn comparing(
        mut self,
        shares: &[Share],
        max_share: MaxShare,
        host: impl Fn(Slot) -> Option<u16>,
    ) -> Self {
        let mut candidates = Candidate::all(shares, max_share, host);
        candidates.sort_unstable_by_key(|candidate| candidate.slot);
        candidates.retain(|candidate| self.active.binary_search(&candidate.slot).is_ok());
        self.candidates = candidates;
        self
    }

    /// The table as the kernel program reads it.
    ///
    /// Word 0 holds the number of entries (bits 0 to 31), of active slots (32 to 47) and of draining
    /// slots (48 to 63). The entries follow, four to a word: entry *i* is in word 1 + *i*/4 at bit
    /// 16·(*i* mod 4). Then come the active slots and the draining ones, packed likewise, each list
    /// from a new word on. Then, where members are compared, a word for each slot up to the last
    /// candidate's, 0 for who is none. A table without any member is a single 0.
    pub fn encode(&self) -> Vec<u64> {
        // The kernel lets no group have more sockets than 16 bits can count (`U16_MAX` in
        // reuseport_grow, net/core/sock_reuseport.c), so no list is ever cut.
        let listed = |list: &[Slot]| list.len().min(u16::MAX.into());
        let active = &self.active[..listed(&self.active)];
        let draining = &self.draining[..listed(&self.draining)];

        let lists = [&self.entries[..], active, draining];
        let words = lists.iter().map(|list| list.len().div_ceil(PER_WORD)).sum::<usize>();
        let mut encoded = Vec::with_capacity(1 + words);
        encoded.push(
            self.entries.len() as u64 | (active.len() as u64) << 32 | (draining.len() as u64) << 48,
        );
        for list in lists {
            encoded.extend(list.chunks(PER_WORD).map(pack));
        }
        for candidate in &self.candidates {
            encoded.resize(1 + words + candidate.slot.index() as usize, 0);
            encoded.push(candidate.pack());
        }
        encoded
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` if there are fewer words than word 0
    /// promises. What follows the table in `words` is ignored: a map may be longer than its table.
    /// Not for one with candidates.
    pub fn decode(words: &[u64]) -> Option<Self> {
        let (&header, mut rest) = words.split_first()?;
        let mut list = |len: u64| {
            let len = usize::try_from(len).ok()?;
            let (packed, after) = rest.split_at_checked(len.div_ceil(PER_WORD))?;
            rest = after;
            Some(packed.iter().flat_map(|&word| unpack(word)).take(len).collect::<Vec<_>>())
        };
        Some(Self {
            entries: list(header & 0xffff_ffff)?,
            active: list(header >> 32 & 0xffff)?,
            draining: list(header >> 48)?,
            candidates: Vec::new(),
        })
    }
}

/// Up to four slots in a word, the first in its lowest bits.
fn pack(slots: &[Slot]) -> u64 {
    slots.iter().rev().fold(0, |word, slot| word << 16 | u64::from(slot.get()))
}

/// The four slots of a word.
fn unpack(word: u64) -> [Slot; PER_WORD] {
    [0, 16, 32, 48].map(|shift| Slot::new((word >> shift) as u16))
}
