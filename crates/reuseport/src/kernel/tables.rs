//! Tables: what the program reads, and after it the roster, in one map that is written once. Replacing it in
//! the array that the program looks into changes both in one step.

use std::path::Path;

use sk_reuseport::maps::{Array, ArrayOfMaps, Map, MapData, MapError};
use sk_reuseport::pin::PinError;
use zerocopy::transmute;

use crate::model::roster::{Record, Roster};
use crate::model::table::{self, Table};
use crate::wire::slot::{RECORD_WORDS, SlotRecord};

/// A table with its roster. Nothing changes in it.
#[derive(Debug)]
pub(crate) struct TableMap {
    map: Array<MapData, u64>,
    id: u32,
}

/// The array in which the program finds its table.
#[derive(Debug)]
pub(crate) struct Tables {
    map: ArrayOfMaps<MapData>,
}

/// The length of tables in 64-bit words. All tables of a program have one length: see `bpf/wire/table.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Length {
    /// What a policy's program reads; 0 for a user's own program.
    table: usize,
    slots: usize,
}

impl Length {
    /// For a policy's program with this number of slots.
    pub(crate) fn of_policy(capacity: u32) -> Self {
        Self { table: table::maximum_words(capacity), slots: capacity as usize }
    }

    /// For a user's own program with this number of slots: the roster alone.
    pub(crate) fn of_object(slots: usize) -> Self {
        Self { table: 0, slots }
    }

    fn words(self) -> u32 {
        u32::try_from(self.table + self.slots * RECORD_WORDS).unwrap_or(u32::MAX)
    }
}

impl TableMap {
    /// Writes a table and a roster into a new map.
    pub(crate) fn create(length: Length, table: &Table, roster: &Roster) -> Result<Self, MapError> {
        let map: Array<_, u64> =
            Array::create_named("table", length.words(), Array::<MapData, u64>::MMAPABLE)?;
        let memory = map.mapped()?;
        let too_long = |index| MapError::OutOfBounds { index, max_entries: length.words() };
        let write = |index, word| match memory.set(index, word) {
            true => Ok(()),
            false => Err(too_long(index)),
        };
        if length.table > 0 {
            for (index, word) in (0..).zip(&table.encode()) {
                write(index, *word)?;
            }
        }
        // The map is zeroed, and so is the record of a slot that was never used; the first one has what holds for all.
        let unused = Record::free(0);
        let records = roster.records().iter().enumerate();
        let used = records.filter(|(slot, record)| *slot == 0 || **record != unused);
        for (slot, record) in
            used.filter_map(|(slot, _)| Some((slot, SlotRecord::of(roster, slot)?)))
        {
            let words: [u64; RECORD_WORDS] = transmute!(record);
            let first = (length.table + slot * RECORD_WORDS) as u32;
            for (index, word) in (first..).zip(words) {
                write(index, word)?;
            }
        }
        Self::over(map)
    }

    pub(crate) fn from_pin(path: impl AsRef<Path>) -> Result<Self, MapError> {
        Self::over(Map::from_map_data(MapData::from_pin(path)?)?.try_into()?)
    }

    fn over(map: Array<MapData, u64>) -> Result<Self, MapError> {
        let id = map.map_data().info()?.id();
        Ok(Self { map, id })
    }

    pub(crate) fn pin(&self, path: impl AsRef<Path>) -> Result<(), PinError> {
        self.map.map_data().pin(path)
    }

    /// The roster, for this number of slots.
    pub(crate) fn roster(&self, slots: usize) -> Result<Roster, MapError> {
        let memory = self.map.mapped()?;
        let roster = slots * RECORD_WORDS;
        let first = (memory.len() as usize)
            .checked_sub(roster)
            .ok_or(MapError::InvalidValueSize { size: roster, expected: memory.len() as usize })?;
        let record = |slot: usize| {
            let mut words = [0; RECORD_WORDS];
            for (index, word) in ((first + slot * RECORD_WORDS) as u32..).zip(&mut words) {
                *word = memory.get(index).unwrap_or(0);
            }
            let raw: SlotRecord = transmute!(words);
            raw
        };
        Ok(SlotRecord::roster(&(0..slots).map(record).collect::<Vec<_>>()))
    }
}

impl Tables {
    /// Makes the array, for tables of the shape of this one. It has none: programs find no member.
    pub(crate) fn empty(shape: &TableMap) -> Result<Self, MapError> {
        Ok(Self { map: ArrayOfMaps::create("tables", 1, shape.map.map_data())? })
    }

    pub(crate) fn from_pin(path: impl AsRef<Path>) -> Result<Self, MapError> {
        Ok(Self { map: Map::from_map_data(MapData::from_pin(path)?)?.try_into()? })
    }

    pub(crate) fn data(&self) -> &MapData {
        self.map.map_data()
    }

    /// Whether programs read this table.
    pub(crate) fn has(&self, table: &TableMap) -> Result<bool, MapError> {
        match self.map.get(&0, 0) {
            Err(MapError::KeyNotFound) => Ok(false),
            id => Ok(id? == table.id),
        }
    }

    /// Puts a table into force. When this returns, no program reads the old one.
    pub(crate) fn set(&mut self, table: &TableMap) -> Result<(), MapError> {
        self.map.set(0, table.map.map_data(), 0)
    }
}
