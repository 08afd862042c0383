//! The table, as `bpf/wire/table.h` has it.

/// A member that least-loaded may pick.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// Its slot.
    pub slot: u16,
    /// Loads are per weight.
    pub weight: u16,
    /// Picks in a window beyond which others go first.
    pub limit: u16,
}

/// Lists of slots.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// By key.
    pub entries: Vec<u16>,
    /// Members that get something new.
    pub active: Vec<u16>,
    /// Members that get it only if no active one is there.
    pub draining: Vec<u16>,
    /// Whether other members are on standby.
    pub standby: bool,
    /// For least-loaded. Each member is its own index in the host-wide layer.
    pub candidates: Vec<Candidate>,
}

impl Table {
    /// Members 0, 1, … of weight 1, each of which may have twice its share of a window.
    pub fn equal(members: u16) -> Self {
        let slots: Vec<u16> = (0..members).collect();
        let candidate = |&slot: &u16| Candidate { slot, weight: 1, limit: 16 };
        let candidates = slots.iter().map(candidate).collect();
        Self { entries: slots.clone(), active: slots, candidates, ..Self::default() }
    }

    pub(crate) fn encode(&self) -> Vec<u64> {
        let (entries, active, draining) =
            (self.entries.len() as u64, self.active.len() as u64, self.draining.len() as u64);
        let mut words =
            vec![entries | u64::from(self.standby) << 31 | active << 32 | draining << 48];
        for list in [&self.entries, &self.active, &self.draining] {
            let pack = |four: &[u16]| {
                four.iter().rev().fold(0, |word, slot| word << 16 | u64::from(*slot))
            };
            words.extend(list.chunks(4).map(pack));
        }
        let slots = self.candidates.iter().map(|candidate| usize::from(candidate.slot) + 1).max();
        let begin = words.len();
        words.resize(begin + slots.unwrap_or(0), 0);
        for Candidate { slot, weight, limit } in &self.candidates {
            let parts = [slot, limit, weight, slot].into_iter();
            words[begin + usize::from(*slot)] =
                parts.fold(0, |word, part| word << 16 | u64::from(*part));
        }
        words
    }
}
