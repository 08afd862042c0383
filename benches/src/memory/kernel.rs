//! What is in the kernel for a directory of pins: the maps and programs there, those that they use
//! in turn, and how much memory the kernel says each takes (`memlock` in a descriptor's fdinfo).

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use aya::maps::MapInfo;
use aya::programs::{ProgramInfo, loaded_programs};
use sk_reuseport::maps::{ArrayOfMaps, Map, MapData};

/// `BPF_MAP_TYPE_ARRAY_OF_MAPS`.
const ARRAY_OF_MAPS: u32 = 12;

/// Maps and programs.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// Name and bytes, by id.
    maps: BTreeMap<u32, (String, u64)>,
    programs: BTreeMap<u32, (String, u64)>,
}

impl Objects {
    pub(super) fn pinned_below(directory: &Path) -> Result<Self> {
        let mut objects = Self::maps_pinned_below(directory)?;
        // The pin of a tracing program is a link, which knows no more than the program's id.
        objects.add_programs_that_use_them()?;
        ensure!(!objects.maps.is_empty(), "nothing is pinned in {}", directory.display());
        Ok(objects)
    }

    /// Maps alone.
    pub(super) fn maps_pinned_below(directory: &Path) -> Result<Self> {
        let mut objects = Self::default();
        for pin in fs::read_dir(directory).context("cannot list pins")? {
            objects.add_pin(&pin.context("cannot list pins")?.path())?;
        }
        Ok(objects)
    }

    /// These, less what the others have too.
    pub(super) fn without(mut self, others: &Self) -> Self {
        self.maps.retain(|id, _| !others.maps.contains_key(id));
        self.programs.retain(|id, _| !others.programs.contains_key(id));
        self
    }

    /// Names and bytes, largest first.
    pub(super) fn sizes(&self) -> Vec<(String, u64)> {
        let maps = self.maps.values().map(|(name, bytes)| (format!("map {name}"), *bytes));
        let programs = self.programs.values();
        let programs = programs.map(|(name, bytes)| (format!("program {name}"), *bytes));
        let mut sizes: Vec<_> = maps.chain(programs).collect();
        sizes.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        sizes
    }

    fn add_pin(&mut self, path: &Path) -> Result<()> {
        match MapData::from_pin(path) {
            Ok(map) => self.add_map(map),
            // Not a map.
            Err(_) => Ok(()),
        }
    }

    fn add_map(&mut self, map: MapData) -> Result<()> {
        let info = map.info()?;
        self.add_map_id(info.id())?;
        if info.map_type() == ARRAY_OF_MAPS {
            let tables: ArrayOfMaps<_> = Map::from_map_data(map)?.try_into()?;
            self.add_map_id(tables.get(&0, 0)?)?;
        }
        Ok(())
    }

    fn add_map_id(&mut self, id: u32) -> Result<()> {
        let info = MapInfo::from_id(id).with_context(|| format!("there is no map {id}"))?;
        let size = memlock(info.fd()?.as_fd())?;
        let name = info.name_as_str().unwrap_or("?").to_owned();
        self.maps.insert(id, (name, size));
        Ok(())
    }

    fn add_programs_that_use_them(&mut self) -> Result<()> {
        let pinned: Vec<u32> = self.maps.keys().copied().collect();
        for program in loaded_programs() {
            let program = program.context("cannot list programs")?;
            let uses = program.map_ids()?.unwrap_or_default();
            if uses.iter().any(|map| pinned.contains(map)) {
                self.add_program(&program)?;
                uses.into_iter().try_for_each(|map| self.add_map_id(map))?;
            }
        }
        Ok(())
    }

    fn add_program(&mut self, program: &ProgramInfo) -> Result<()> {
        let size = memlock(program.fd()?.as_fd())?;
        let name = program.name_as_str().unwrap_or("?").to_owned();
        self.programs.insert(program.id(), (name, size));
        Ok(())
    }
}

/// The directory of the only group that is steered.
pub(super) fn only_group() -> Result<PathBuf> {
    let groups = fs::read_dir("/sys/fs/bpf/reuseport/groups").context("no group is steered")?;
    let groups: Vec<PathBuf> = groups.map(|group| Ok(group?.path())).collect::<Result<_>>()?;
    ensure!(groups.len() == 1, "{} groups are steered", groups.len());
    Ok(groups[0].clone())
}

/// The bytes that the kernel says an object takes.
fn memlock(object: BorrowedFd<'_>) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", object.as_raw_fd());
    let fdinfo = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = fdinfo.lines().find_map(|line| line.strip_prefix("memlock:"));
    let bytes = line.with_context(|| format!("no memlock in {path}"))?.trim();
    bytes.parse().with_context(|| format!("not a number of bytes: {bytes}"))
}
