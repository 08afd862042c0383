//! A group's load reports in memory, which the kernel program and the workers share.

use std::sync::atomic::{AtomicU64, Ordering};

use sk_reuseport::maps::{Array, Map, MapData, MapError, MappedArray};

use crate::model::id::Slot;
use crate::wire::report::{self, Report};

/// The reports, by slot.
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

    /// Prepares a slot's entry for a new member. Later reports of the previous member are ignored.
    pub(crate) fn reset(&self, slot: Slot, epoch: u32) {
        for offset in [Report::BUSY, Report::IN_FLIGHT] {
            store(&self.memory, slot, offset, 0);
        }
        self.set_epoch(slot, epoch);
    }

    /// From here on, reports of the member with this epoch count.
    pub(crate) fn set_epoch(&self, slot: Slot, epoch: u32) {
        store(&self.memory, slot, Report::EPOCH, epoch.into());
    }

    /// From here on, no report from this slot counts.
    pub(crate) fn clear(&self, slot: Slot) {
        self.set_epoch(slot, 0);
    }

    /// The same for all slots.
    pub(crate) fn clear_all(&self) {
        let end = self.memory.len().min(Slot::LIMIT);
        for index in (0..end).filter_map(|index| u16::try_from(index).ok()) {
            self.clear(Slot::new(index));
        }
    }

    /// The entry in which this slot's member reports.
    pub(crate) fn into_entry(self, slot: Slot, epoch: u32) -> Entry {
        Entry { memory: self.memory, slot, epoch }
    }
}

/// The entry of one member.
#[derive(Debug)]
pub(crate) struct Entry {
    memory: MappedArray<Report>,
    slot: Slot,
    epoch: u32,
}

impl Entry {
    /// Whether the member still has the slot.
    pub(crate) fn is_current(&self) -> bool {
        let epoch = word(&self.memory, self.slot, Report::EPOCH);
        epoch.is_some_and(|epoch| epoch.load(Ordering::Relaxed) == u64::from(self.epoch))
    }

    /// Reports since when the worker has been busy, in units of 2^16 ns; 0: it is idle.
    pub(crate) fn set_busy(&self, since: u64) {
        self.set(Report::BUSY, since);
    }

    /// Reports how many requests are in flight.
    pub(crate) fn set_in_flight(&self, requests: u32) {
        self.set(Report::IN_FLIGHT, requests.into());
    }

    /// If the slot goes to another member between the check and the store, this overwrites that
    /// member's last report; the word has the old epoch, so it is ignored.
    fn set(&self, offset: usize, number: u64) {
        if self.is_current() {
            store(&self.memory, self.slot, offset, report::word(self.epoch, number));
        }
    }
}

fn word(memory: &MappedArray<Report>, slot: Slot, offset: usize) -> Option<&AtomicU64> {
    memory.atomic_u64(slot.index(), offset)
}

/// Sequentially consistent: the caller's later reads come after this store.
fn store(memory: &MappedArray<Report>, slot: Slot, offset: usize, value: u64) {
    // There is a report for every slot of the group.
    if let Some(word) = word(memory, slot, offset) {
        word.store(value, Ordering::SeqCst);
    }
}
