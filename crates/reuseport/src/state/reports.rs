//! Load reports as they lie in memory, which the program, this crate and the workers share.
//!
//! `struct report` in bpf/report.h has the same layout. What a worker says with it is
//! [`report`](crate::report)'s.

use std::sync::atomic::{AtomicU64, Ordering};

use sk_reuseport::maps::{Array, Map, MapData, MapError, MappedArray};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::id::Slot;

/// What is reported from a slot: words of a worker's, and the epoch that says which worker's count.
/// A cache line long, because each is another worker's to write.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Report {
    /// Of the member that has the slot; 0: nobody.
    epoch: u64,
    busy: u64,
    in_flight: u64,
    reserved: [u64; 5],
}

const _: () = assert!(size_of::<Report>() == 64);

/// Offsets into a report.
const EPOCH: usize = 0;
const BUSY: usize = 8;
const IN_FLIGHT: usize = 16;

/// The number of a worker's word is below so many bits, and the epoch above.
const WORD_BITS: u32 = 48;

/// A group's load reports, by slot.
#[derive(Debug)]
pub(crate) struct Reports {
    map: Array<MapData, Report>,
    memory: MappedArray<Report>,
}

impl TryFrom<Map> for Reports {
    type Error = MapError;

    fn try_from(map: Map) -> Result<Self, MapError> {
        let map: Array<_, Report> = map.try_into()?;
        Ok(Self { memory: map.mapped()?, map })
    }
}

impl Reports {
    pub(crate) fn map_data(&self) -> &MapData {
        self.map.map_data()
    }

    /// A new member has the slot, and has said nothing. Whoever had it speaks for nobody any more.
    pub(crate) fn welcome(&self, slot: Slot, epoch: u32) {
        for offset in [BUSY, IN_FLIGHT] {
            store(&self.memory, slot, offset, 0);
        }
        self.hear(slot, epoch);
    }

    /// What the member of this epoch says counts.
    pub(crate) fn hear(&self, slot: Slot, epoch: u32) {
        store(&self.memory, slot, EPOCH, epoch.into());
    }

    /// What is said from this slot counts for nobody.
    pub(crate) fn dismiss(&self, slot: Slot) {
        store(&self.memory, slot, EPOCH, 0);
    }

    /// The same for all slots.
    pub(crate) fn dismiss_all(&self) {
        let end = self.memory.len().min(Slot::LIMIT);
        (0..end).filter_map(|index| u16::try_from(index).ok()).map(Slot::new).for_each(|slot| {
            self.dismiss(slot);
        });
    }

    /// The entry of a slot's member, for its own words.
    pub(crate) fn into_entry(self, slot: Slot, epoch: u32) -> Entry {
        Entry { memory: self.memory, slot, epoch }
    }
}

/// Where one member's worker writes.
#[derive(Debug)]
pub(crate) struct Entry {
    memory: MappedArray<Report>,
    slot: Slot,
    epoch: u32,
}

impl Entry {
    /// Whether the slot is still the member's.
    pub(crate) fn is_current(&self) -> bool {
        let epoch = word(&self.memory, self.slot, EPOCH);
        epoch.is_some_and(|epoch| epoch.load(Ordering::Relaxed) == u64::from(self.epoch))
    }

    /// Since when it has been busy, in units of 2^16 ns; 0: it is not.
    pub(crate) fn set_busy(&self, since: u64) {
        self.say(BUSY, since);
    }

    /// How much it has in flight.
    pub(crate) fn set_in_flight(&self, requests: u32) {
        self.say(IN_FLIGHT, requests.into());
    }

    /// Should the slot go to another member between the look and the store, that one's word is gone
    /// until it speaks again, but this one counts for nothing: it has the wrong epoch.
    fn say(&self, offset: usize, number: u64) {
        if self.is_current() {
            store(&self.memory, self.slot, offset, word_of(self.epoch, number));
        }
    }
}

fn word_of(epoch: u32, number: u64) -> u64 {
    u64::from(epoch) << WORD_BITS | number & ((1 << WORD_BITS) - 1)
}

fn word(memory: &MappedArray<Report>, slot: Slot, offset: usize) -> Option<&AtomicU64> {
    memory.atomic_u64(slot.index(), offset)
}

/// Sequentially, so that whoever reads something else afterwards has said this before.
fn store(memory: &MappedArray<Report>, slot: Slot, offset: usize, value: u64) {
    // There is a report for every slot of the group.
    if let Some(word) = word(memory, slot, offset) {
        word.store(value, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_has_the_epoch_above_its_number() {
        assert_eq!(word_of(1, 0), 1 << 48);
        assert_eq!(word_of(0x12_3456, 7), 0x3456_0000_0000_0007);
        assert_eq!(word_of(2, u64::MAX), 0x0002_ffff_ffff_ffff);
    }

    #[test]
    fn the_layout_is_that_of_the_kernel_program() {
        let source = include_str!("../../../../bpf/report.h");
        let (_, fields) = source.split_once("struct report {").unwrap();
        let (fields, _) = fields.split_once("};").unwrap();
        let names: Vec<&str> = fields
            .lines()
            .filter_map(|line| Some(line.trim().strip_prefix("__u64 ")?.split_once(';')?.0))
            .collect();
        assert_eq!(names, ["epoch", "busy", "in_flight", "reserved[5]"]);
        assert!(source.contains(&format!("#define WORD_BITS {WORD_BITS}\n")));
    }
}
