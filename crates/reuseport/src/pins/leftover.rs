//! State that decides nothing: what interrupted commands left, and what groups that ended left.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use sk_reuseport::maps::{Array, Map, MapData, MapError};

use super::bpffs::{self, Root};
use super::directory::directory_name;
use super::group::{GroupState, check_schema, names};
use super::host_layer::HostLayer;
use crate::error::{ErrorKind, Result};
use crate::kernel::recognise::HEADER;
use crate::kernel::sockets::Sockets;
use crate::model::group::Group;
use crate::model::selection::Program;
use crate::wire::header::Header;
use crate::wire::slot::SlotRecord;

/// A state that decides nothing.
pub(crate) struct Dead {
    name: String,
    directory: PathBuf,
    /// `None`: it is incomplete.
    state: Option<GroupState>,
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
        match GroupState::open(directory.clone()) {
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

/// Takes the members out of the map for sockets, and of a user's own map no others.
fn empty_staged(directory: &Path) {
    let open = |name: &str| MapData::from_pin(directory.join(name)).and_then(Map::from_map_data);
    let records = || -> Result<_, MapError> {
        let header: Array<_, Header> = open(HEADER)?.try_into()?;
        let slots: Array<_, SlotRecord> = open("slots")?.try_into()?;
        Ok((header.get(&0, 0)?.program(), slots.mapped()?))
    };
    let Ok(mut sockets) = open("sockets").and_then(Sockets::from_map) else { return };
    match records() {
        Ok((Some(Program::Object(())), records)) => {
            for slot in sockets.slots() {
                // They entered a moment before the command was interrupted.
                if let Some(cookie) = records.get(slot.index()).and_then(|record| record.cookie()) {
                    sockets.clear_of(slot, cookie, true);
                }
            }
        }
        _ => {
            for slot in sockets.slots() {
                sockets.clear(slot);
            }
        }
    }
}
