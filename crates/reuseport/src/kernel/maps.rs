//! The maps of a select program, except its sockets and tables: created, pinned, opened, changed.

use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::io::Errno;
use sk_reuseport::maps::{Array, Map, MapData, MapError, PerCpuArray};
use sk_reuseport::pin::PinError;
use sk_reuseport::{Ebpf, Pod};

use super::caps;
use super::reports::Reports;
use crate::model::id::Slot;
use crate::model::status::Counter;
use crate::wire::reason::REASONS;
use crate::wire::slot::{Limiter, Progress, Start};

/// A map of the select program.
struct Entry {
    /// Its name in the object.
    name: &'static str,
    /// The name of its pin.
    pin: &'static str,
    /// Whether it has one element for each slot.
    per_slot: bool,
    /// For a map that pinned state may lack, as that of a version without it does: makes an empty one
    /// for this number of slots. The next program that is loaded uses it.
    make: Option<fn(u32) -> Result<Map, MapError>>,
}

const fn entry(name: &'static str) -> Entry {
    Entry { name, pin: name, per_slot: false, make: None }
}

const fn per_slot(name: &'static str) -> Entry {
    Entry { per_slot: true, ..entry(name) }
}

/// Every map, in the order of [`PolicyMaps::new`].
const LIST: [Entry; 7] = [
    entry("cursor"),
    entry("counters"),
    per_slot("picks"),
    per_slot("addresses"),
    // Pins keep their names: other versions look for them.
    Entry {
        pin: "paces",
        make: Some(|slots| make::<Limiter>("limiters", slots)),
        ..per_slot("limiters")
    },
    Entry { make: Some(|slots| make::<Progress>("progress", slots)), ..per_slot("progress") },
    per_slot("reports"),
];

fn make<T: Pod>(name: &str, slots: u32) -> Result<Map, MapError> {
    let map = Array::<MapData, T>::create_named(name, slots, 0)?;
    let fd = map.map_data().fd().as_fd().try_clone_to_owned().map_err(MapError::from)?;
    Map::from_map_data(MapData::from_fd(fd)?)
}

/// The maps of a program with a policy.
#[derive(Debug)]
pub(crate) struct PolicyMaps {
    cursor: Array<MapData, u64>,
    counters: PerCpuArray<MapData, u64>,
    picks: PerCpuArray<MapData, u64>,
    /// The kernel's addresses of the members' sockets, by slot, for reading their queues. They are secret:
    /// the pin is readable for its owner only, and the map is never mapped into memory.
    addresses: Array<MapData, u64>,
    limiters: Array<MapData, Limiter>,
    progress: Array<MapData, Progress>,
    /// What workers report, by slot.
    pub(crate) reports: Reports,
}

impl PolicyMaps {
    fn new(
        [cursor, counters, picks, addresses, limiters, progress, reports]: [Map; LIST.len()],
    ) -> Result<Self, MapError> {
        Ok(Self {
            cursor: cursor.try_into()?,
            counters: counters.try_into()?,
            picks: picks.try_into()?,
            addresses: addresses.try_into()?,
            limiters: limiters.try_into()?,
            progress: progress.try_into()?,
            reports: reports.try_into()?,
        })
    }

    /// The maps with their names in the object.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, &MapData)> {
        let maps = [
            self.cursor.map_data(),
            self.counters.map_data(),
            self.picks.map_data(),
            self.addresses.map_data(),
            self.limiters.map_data(),
            self.progress.map_data(),
            self.reports.map_data(),
        ];
        LIST.iter().map(|entry| entry.name).zip(maps)
    }

    /// The maps whose length is the number of slots.
    pub(crate) fn per_slot() -> impl Iterator<Item = &'static str> {
        LIST.iter().filter(|entry| entry.per_slot).map(|entry| entry.name)
    }

    /// Takes the maps that the loader made for an object.
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        Self::new(each(|entry| ebpf.take_map(entry.name).ok_or(MapError::KeyNotFound))?)
    }

    /// Pins the maps that are not pinned there.
    pub(crate) fn pin(&self, directory: &Path) -> Result<(), PinError> {
        LIST.iter()
            .zip(self.named())
            .map(|(entry, (_, map))| (directory.join(entry.pin), map))
            .filter(|(path, _)| !path.exists())
            .try_for_each(|(path, map)| map.pin(path))
    }

    /// Opens the maps of a group with this number of slots.
    pub(crate) fn from_pins(directory: &Path, slots: u32) -> Result<Self, MapError> {
        let open = |name| Map::from_map_data(MapData::from_pin(directory.join(name))?);
        Self::new(each(|entry| match (open(entry.pin), entry.make) {
            (Err(error), Some(make)) if caps::os_error(&error) == Some(Errno::NOENT) => make(slots),
            (result, _) => result,
        })?)
    }

    /// Prepares a slot for a new member with this epoch and socket address.
    pub(crate) fn reset_slot(
        &mut self,
        slot: Slot,
        epoch: u32,
        address: u64,
    ) -> Result<(), MapError> {
        let cpus = self.picks.get(&slot.index(), 0)?.len();
        let zeros = vec![0; cpus].try_into()?;
        self.picks.set(slot.index(), zeros, 0)?;
        self.reports.reset(slot, epoch);
        self.addresses.set(slot.index(), address, 0)
    }

    /// Resets what least-loaded remembers of a slot. Call it when the new socket is in the slot: before that, the program
    /// might still record that the slot is empty.
    pub(crate) fn reset_limiter(&mut self, slot: Slot, start: Start) -> Result<(), MapError> {
        self.progress.set(slot.index(), Progress::default(), 0)?;
        self.limiters.set(slot.index(), Limiter::new(start), 0)
    }

    /// Clears a slot that no member has.
    pub(crate) fn clear_slot(&mut self, slot: Slot) {
        self.reports.clear(slot);
        // A failure leaves what the next member overwrites.
        let _ = self.addresses.set(slot.index(), 0, 0);
    }

    /// How often the program picked the member in a slot.
    pub(crate) fn picks_of(&self, slot: Slot) -> Result<u64, MapError> {
        Ok(self.picks.get(&slot.index(), 0)?.iter().sum())
    }

    /// Every reason with its count, added up over the CPUs.
    pub(crate) fn counters(&self) -> Result<Vec<Counter>, MapError> {
        REASONS
            .iter()
            .zip(self.counters.iter())
            .map(|(reason, values)| Ok(Counter { reason, count: values?.iter().sum() }))
            .collect()
    }
}

/// One map for each entry of the list.
fn each(get: impl FnMut(&Entry) -> Result<Map, MapError>) -> Result<[Map; LIST.len()], MapError> {
    let maps: Vec<Map> = LIST.iter().map(get).collect::<Result<_, _>>()?;
    // `LIST` has as many entries.
    maps.try_into().map_err(|_| MapError::KeyNotFound)
}
