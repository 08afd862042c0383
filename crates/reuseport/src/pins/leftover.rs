//! State that decides nothing: what interrupted commands left, and what groups that ended left.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use sk_reuseport::maps::{Map, MapData};

use super::bpffs::{self, Root};
use super::directory::directory_name;
use super::group::{GroupState, host_members, names};
use super::host_layer::HostLayer;
use super::instance;
use super::schema::check_schema;
use crate::error::{ErrorKind, Result};
use crate::kernel::recognise::HEADER;
use crate::kernel::sockets::Sockets;
use crate::model::group::Group;
use crate::model::id::Slot;

/// A state that decides nothing.
pub(crate) struct Dead {
    name: String,
    directory: PathBuf,
    /// `None`: it is incomplete.
    state: Option<GroupState>,
}

/// What is pinned and decides nothing, or is not this version's.
#[derive(Debug, Default)]
pub(crate) struct Oddities {
    /// Directories of groups that no longer exist, and of what interrupted commands left.
    pub(crate) leftovers: Vec<PathBuf>,
    /// Directories of groups with another version's state.
    pub(crate) other_versions: Vec<PathBuf>,
}

/// Looks at all that is pinned. Changes nothing.
pub(crate) fn oddities(root: &Root, groups: &[Group]) -> Result<Oddities> {
    let dead = dead(root, groups)?.into_iter().map(|dead| dead.directory);
    let unfinished = [root.staging(), root.aside(), root.next_host()];
    let leftovers = dead.chain(unfinished.into_iter().filter(|path| path.exists())).collect();
    let directories = names(root)?.into_iter().map(|name| root.groups().join(name));
    let is_other = |directory: &PathBuf| {
        let opened = GroupState::open(directory.clone(), None);
        opened.is_err_and(|error| error.kind() == ErrorKind::Schema) && is_whole(directory)
    };
    Ok(Oddities { leftovers, other_versions: directories.filter(is_other).collect() })
}

/// The state of groups that no longer exist, unless they are watched.
///
/// A group that is not among `groups` may still exist: the caller may not see its processes, or its sockets
/// may be in flight between two processes. It is gone when the kernel has emptied every slot.
pub(crate) fn dead(root: &Root, groups: &[Group]) -> Result<Vec<Dead>> {
    let alive = names_of(groups);
    let mut dead = Vec::new();
    for name in names(root)?.into_iter().filter(|name| !alive.contains(name)) {
        let directory = root.groups().join(&name);
        if bpffs::is_watched(&directory) {
            continue;
        }
        match GroupState::open(directory.clone(), None) {
            Ok(state) if state.is_deserted() => {
                dead.push(Dead { name, directory, state: Some(state) });
            }
            Ok(_) => {}
            // Another version's state is left alone.
            Err(error) if error.kind() == ErrorKind::Schema && is_whole(&directory) => {}
            Err(error) if error.kind() == ErrorKind::Schema => {
                dead.push(Dead { name, directory, state: None });
            }
            // Unreadable this time: the next command tries again.
            Err(error) => tracing::debug!("{}", error.report()),
        }
    }
    Ok(dead)
}

/// Leaves only the state of groups that are not among these either.
pub(crate) fn keep_missing(dead: &mut Vec<Dead>, groups: &[Group]) {
    let alive = names_of(groups);
    dead.retain(|dead| !alive.contains(&dead.name));
}

/// Removes dead state, unless a watcher has come.
pub(crate) fn remove(root: &Root, dead: Vec<Dead>) -> Result<()> {
    for Dead { directory, state, .. } in dead {
        if bpffs::is_watched(&directory) {
            continue;
        }
        match state {
            Some(mut state) => state.unpin(root)?,
            None => root.discard(&directory)?,
        }
    }
    Ok(())
}

fn names_of(groups: &[Group]) -> HashSet<String> {
    groups.iter().map(|group| directory_name(&group.key)).collect()
}

/// Whether a state that cannot be opened is another version's, not an incomplete one.
fn is_whole(directory: &Path) -> bool {
    MapData::from_pin(directory.join(HEADER)).is_ok_and(|header| check_schema(&header, "").is_err())
}

/// Removes what an interrupted command left: a state in staging, a host-wide layer that was to be the next.
pub(crate) fn clear_unfinished(root: &Root) -> Result<()> {
    if let Err(error) = HostLayer::remove_next(root) {
        // Another user's: that user's next command removes it.
        tracing::debug!("{}", error.report());
    }
    let staging = root.staging();
    if !staging.exists() {
        return Ok(());
    }
    // No other array accepts its sockets while they are in this one.
    empty_staged(&staging);
    bpffs::remove_directory(&staging)
}

/// Takes the members out of the map for sockets, and of a user's own map no others: a pinned table names those that
/// entered a moment before the command was interrupted.
fn empty_staged(directory: &Path) {
    let open = |name: &str| MapData::from_pin(directory.join(name)).and_then(Map::from_map_data);
    let Ok(mut sockets) = open("sockets").and_then(Sockets::from_map) else { return };
    let slots: Vec<Slot> = sockets.slots().collect();
    for roster in instance::pinned_rosters(directory, slots.len()) {
        for (slot, cookie, _) in roster.occupied() {
            sockets.clear_of(slot, cookie, true);
        }
    }
}

/// Moves the state back that gave way to a new one which an interrupted command did not finish. If the new one is in
/// its place, the old one is removed, and also if its array does not tell whether it is empty.
pub(crate) fn bring_back(root: &Root) -> Result<()> {
    let aside = match GroupState::aside(root) {
        Ok(None) => return Ok(()),
        Ok(Some(state)) => Some(state),
        Err(error) if error.kind() == ErrorKind::Schema => None,
        // Another user's: that user's next command moves it.
        Err(error) => {
            tracing::debug!("{}", error.report());
            return Ok(());
        }
    };
    let readable = aside.filter(|state| state.sockets.is_readable());
    match readable.and_then(|state| state.place_of(root)).filter(|place| !place.exists()) {
        Some(place) => fs::rename(root.aside(), &place).map_err(|error| {
            bpffs::denied(format!("cannot move {} back", root.aside().display()), error)
        }),
        None => root.discard(&root.aside()),
    }
}

/// Frees indices of the host-wide layer that no member has.
pub(crate) fn release_indices(root: &Root, layer: &HostLayer) {
    match host_members(root) {
        Ok(used) => layer.release_all_but(&used),
        // A group whose state cannot be read may use any of them.
        Err(error) => tracing::debug!("{}", error.report()),
    }
}
