//! The table from which the kernel program picks: computed from members, weights and states.
//!
//! The kernel program takes a key modulo the table's length and finds a slot there. Weights and states are
//! only how this module *fills* the table. It does no I/O and knows no sockets.
//!
//! There are two ways to fill it, see [`Fill`]:
//!
//! * [`Fill::Maglev`]: for keys that come from the packet. A member that comes or goes moves few keys.
//! * [`Fill::Interleave`]: for keys that count or are random. Proportions are exact.

mod candidate;
mod cpu;
mod interleave;
mod maglev;
pub(crate) mod share;
#[cfg(test)]
mod tests;

use crate::model::id::{MaxShare, Slot, State};

pub(crate) use candidate::Candidate;
pub(crate) use cpu::Topology;
pub use share::Share;
use share::Turns;

/// How a table is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub(crate) enum Fill {
    /// Maglev hashing (Eisenbud et al., NSDI 2016) with weights: a table of
    /// [`maximum_entries`] places, which each member takes in its own order, derived from its slot and
    /// the seed.
    ///
    /// * A member that comes or goes moves its own share of the keys and less than 2 % more. A member
    ///   replaced in its slot moves none. The same input gives the same table on every host.
    /// * A member has its weighted share of the table to within one entry and 0.8 % of that share. Each
    ///   of up to 4,096 equal members has at least 127 entries and is within 1 % of its share; each of
    ///   more members has at least 31 entries and is within 4 %.
    /// * Each member with a weight above 0 has at least one entry, however unequal the weights. A share
    ///   of less than one entry (weight 1 next to 4,095 members of weight 1000) is rounded up to one.
    Maglev {
        /// Keys the permutations, so that the table cannot be guessed; constant for a group's lifetime.
        seed: u64,
    },
    /// The shortest smooth weighted round of turns: the sum of the weights divided by their greatest
    /// common divisor, which for equal weights is one entry for each member.
    ///
    /// * Each member has exactly `weight / divisor` turns in the round, and at every point of any number
    ///   of consecutive rounds has had its proportional number of turns, rounded down or up.
    /// * If the round would exceed [`maximum_entries`], weights are scaled down and rounded: a member has
    ///   its share of the round to within one turn and 0.8 % of that share. Members of equal weight have
    ///   equally many turns, and each member has at least one.
    /// * A member that comes or goes changes the whole round: do not use it for keys that stand for flows.
    Interleave,
}

/// The most entries that a table can have, for a group with `capacity` slots.
///
/// A table filled by [`Fill::Maglev`] that is not empty has exactly this length. It depends on the capacity
/// alone: a length that changed with the number of members would move nearly every key each time. It is a
/// prime, so that regular keys do not align with it. There are three lengths: 65,521 (128 KiB) up to 512
/// slots, 524,287 (1 MiB) up to 16,384, and 4,194,301 (8 MiB) above. A longer table approximates the shares
/// better and fits the processor's caches worse: with 4,096 members and a capacity of 16,384, a pick by hash
/// takes a third longer from 8 MiB than from 1 MiB.
pub(crate) const fn maximum_entries(capacity: u32) -> u32 {
    match capacity {
        0..=512 => 65_521,
        513..=16_384 => 524_287,
        _ => 4_194_301,
    }
}

/// The most words that [`Table::encode`] returns, for a group with `capacity` slots.
pub(crate) const fn maximum_words(capacity: u32) -> usize {
    let entries = maximum_entries(capacity).div_ceil(PER_WORD as u32);
    // A slot is on one list only, and each list begins in a new word.
    let lists = capacity.div_ceil(PER_WORD as u32) + 1;
    (1 + entries + lists + capacity) as usize
}

/// Slots in a word of the encoding.
const PER_WORD: usize = 4;

/// The table from which the kernel program picks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Table {
    /// Slots by key: those of active members with a weight above 0.
    pub(crate) entries: Vec<Slot>,
    /// Every slot in `entries`, once, in ascending order: the alternatives if the picked slot is empty.
    pub(crate) active: Vec<Slot>,
    /// The slots of draining members and of active ones with weight 0, in ascending order: the last
    /// alternatives before the kernel's hash decides.
    pub(crate) draining: Vec<Slot>,
    /// Whether members are on standby, which no list names.
    pub(crate) standby: bool,
    /// The members in `active` as least-loaded compares them, by slot; empty if no policy does.
    pub(crate) candidates: Vec<Candidate>,
}

impl Table {
    /// Fills a table for a group with `capacity` slots.
    ///
    /// The order of `shares` does not matter. Slots must be below the capacity; of several shares with the
    /// same slot one is used. A table for 4,096 members takes some 20 to 40 ms in an optimised build, one
    /// for 32,768 less than half a second.
    pub(crate) fn build(shares: &[Share], fill: Fill, capacity: u32) -> Self {
        let mut shares = shares.to_vec();
        shares.sort_unstable_by_key(|share| (share.slot, share.weight, share.state));
        shares.dedup_by_key(|share| share.slot);

        let standby = shares.iter().any(|share| share.state == State::Standby);
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
        Self { entries, active, draining, standby, candidates: Vec::new() }
    }

    /// Replaces the entries by entries by CPU; `cpu` returns a member's CPU, if it has one.
    pub(crate) fn by_cpu(
        mut self,
        capacity: u32,
        topology: &Topology,
        cpu: impl Fn(Slot) -> Option<u16>,
    ) -> Self {
        let placed: Vec<_> = self.active.iter().map(|slot| (*slot, cpu(*slot))).collect();
        self.entries = cpu::fill(&placed, topology, maximum_entries(capacity) as usize);
        self
    }

    /// Adds the candidates of least-loaded; `host` returns a member's index in the host-wide layer.
    pub(crate) fn comparing(
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

    /// The table in the kernel program's layout.
    ///
    /// Word 0 holds the number of entries (bits 0 to 30), whether members are on standby (31), the number of active slots (32 to 47) and of draining
    /// slots (48 to 63). The entries follow, four to a word: entry *i* is in word 1 + *i*/4 at bit
    /// 16·(*i* mod 4). The active slots and then the draining ones are packed likewise, each list
    /// from a new word on. If there are candidates, a word for each slot up to the last candidate's
    /// follows, 0 for a slot without one. A table without members is a single 0.
    pub(crate) fn encode(&self) -> Vec<u64> {
        // No list is ever cut: a group has at most `U16_MAX` sockets (reuseport_grow in
        // net/core/sock_reuseport.c).
        let listed = |list: &[Slot]| list.len().min(u16::MAX.into());
        let active = &self.active[..listed(&self.active)];
        let draining = &self.draining[..listed(&self.draining)];

        let lists = [&self.entries[..], active, draining];
        let words = lists.iter().map(|list| list.len().div_ceil(PER_WORD)).sum::<usize>();
        let mut encoded = Vec::with_capacity(1 + words);
        encoded.push(
            self.entries.len() as u64
                | u64::from(self.standby) << 31
                | (active.len() as u64) << 32
                | (draining.len() as u64) << 48,
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

    /// Reads the words of [`encode`](Self::encode), without candidates. `None` if there are fewer words
    /// than word 0 requires. Words after the table are ignored: a map may be longer than its table.
    #[cfg(test)]
    pub(crate) fn decode(words: &[u64]) -> Option<Self> {
        let (&header, mut rest) = words.split_first()?;
        let mut list = |len: u64| {
            let len = usize::try_from(len).ok()?;
            let (packed, after) = rest.split_at_checked(len.div_ceil(PER_WORD))?;
            rest = after;
            Some(packed.iter().flat_map(|&word| unpack(word)).take(len).collect::<Vec<_>>())
        };
        Some(Self {
            entries: list(header & 0x7fff_ffff)?,
            active: list(header >> 32 & 0xffff)?,
            draining: list(header >> 48)?,
            standby: header >> 31 & 1 == 1,
            candidates: Vec::new(),
        })
    }
}

/// Up to four slots in a word, the first in its lowest bits.
fn pack(slots: &[Slot]) -> u64 {
    slots.iter().rev().fold(0, |word, slot| word << 16 | u64::from(slot.get()))
}

/// The four slots of a word.
#[cfg(test)]
fn unpack(word: u64) -> [Slot; PER_WORD] {
    [0, 16, 32, 48].map(|shift| Slot::new((word >> shift) as u16))
}
