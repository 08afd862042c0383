//! What the kernel has for a directory of pins: the maps there, the programs that use them, the maps
//! that those use in turn, and the memory that the kernel reports for each (`memlock` in a
//! descriptor's fdinfo).

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use aya::programs::loaded_programs;
use sk_reuseport::maps::{ArrayOfMaps, Map, MapData};

/// `BPF_MAP_TYPE_ARRAY_OF_MAPS`.
const ARRAY_OF_MAPS: u32 = 12;

/// Names and bytes of maps and programs, by kind and id.
pub(super) struct Objects(BTreeMap<(&'static str, u32), (String, u64)>);

impl Objects {
    /// With the programs, which cannot be read from their pins: a tracing program's is a link, which
    /// knows only the program's id.
    pub(super) fn pinned_below(directory: &Path) -> Result<Self> {
        let mut objects = Self::maps_pinned_below(directory)?;
        ensure!(!objects.0.is_empty(), "nothing is pinned in {}", directory.display());
        let pinned: Vec<u32> = objects.0.keys().map(|(_, id)| *id).collect();
        for program in loaded_programs() {
            let program = program.context("cannot list programs")?;
            let uses = program.map_ids()?.unwrap_or_default();
            if uses.iter().any(|map| pinned.contains(map)) {
                let name = program.name_as_str().unwrap_or("?");
                objects.add("program", program.id(), name, program.fd()?.as_fd())?;
                uses.into_iter().try_for_each(|map| objects.add_map(&MapData::from_id(map)?))?;
            }
        }
        Ok(objects)
    }

    pub(super) fn maps_pinned_below(directory: &Path) -> Result<Self> {
        let mut objects = Self(BTreeMap::new());
        for pin in fs::read_dir(directory).context("cannot list pins")? {
            let pin = pin.context("cannot list pins")?.path();
            if pin.is_dir() {
                objects.0.extend(Self::maps_pinned_below(&pin)?.0);
                continue;
            }
            let Ok(map) = MapData::from_pin(pin) else { continue }; // not a map
            objects.add_map(&map)?;
            if map.info()?.map_type() == ARRAY_OF_MAPS {
                let tables: ArrayOfMaps<_> = Map::from_map_data(map)?.try_into()?;
                objects.add_map(&MapData::from_id(tables.get(&0, 0)?)?)?;
            }
        }
        Ok(objects)
    }

    /// Without the objects that `others` has, too.
    pub(super) fn without(mut self, others: &Self) -> Self {
        self.0.retain(|object, _| !others.0.contains_key(object));
        self
    }

    /// Names and bytes, largest first.
    pub(super) fn sizes(&self) -> Vec<&(String, u64)> {
        let mut sizes: Vec<_> = self.0.values().collect();
        sizes.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        sizes
    }

    fn add_map(&mut self, map: &MapData) -> Result<()> {
        let info = map.info()?;
        self.add("map", info.id(), info.name_as_str().unwrap_or("?"), map.fd().as_fd())
    }

    fn add(&mut self, kind: &'static str, id: u32, name: &str, fd: BorrowedFd<'_>) -> Result<()> {
        let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
        let fdinfo = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let memlock = fdinfo.lines().find_map(|line| line.strip_prefix("memlock:"));
        let bytes = memlock.with_context(|| format!("no memlock in {path}"))?.trim().parse()?;
        self.0.insert((kind, id), (format!("{kind} {name}"), bytes));
        Ok(())
    }
}

/// The directory of the only group that is steered.
pub(super) fn only_group() -> Result<PathBuf> {
    let groups = fs::read_dir("/sys/fs/bpf/reuseport/groups").context("no group is steered")?;
    let mut groups = groups.map(|group| Ok(group?.path())).collect::<Result<Vec<_>>>()?;
    ensure!(groups.len() == 1, "{} groups are steered", groups.len());
    Ok(groups.remove(0))
}
