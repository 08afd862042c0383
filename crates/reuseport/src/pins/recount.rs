//! Recounts open connections by a walk over their marks, and subtracts those whose close was missed.
//!
//! A close that the counting programs miss would stay counted. There are two of them so that none is missed,
//! but some kernels run no tracing program inside certain interrupts, without a report. A connection that is
//! gone has no mark, so the walk finds counts that are too high. It does not find connections whose opening
//! was missed.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::fence;

use sk_reuseport::maps::{Array, Map, MapData, MapError, MappedArray};
use sk_reuseport::programs::{FdLink, Iter, ProgramError};
use sk_reuseport::{EbpfLoader, KernelBtf};

use super::bpffs;
use crate::wire::host::HostMember;

/// The iterator, and the maps that it needs.
pub(crate) const OBJECT: &[u8] = include_bytes!("../../bpf/recount.bpf.o");

/// The map in which the walk counts, and its pin.
const LIVE: &str = "live";

/// The iterator that walks, and its pin: reading this file runs it.
pub(crate) const WALK: &str = "recount";

#[derive(Debug)]
pub(crate) struct Recount {
    /// The host-wide layer's directory.
    directory: PathBuf,
    /// Connections that the walk found, by member.
    live: MappedArray<u32>,
}

impl Recount {
    /// Creates the map and the iterator, if necessary, in a layer that has its maps. The caller holds the
    /// lock.
    pub(super) fn create(
        directory: &Path,
        btf: &KernelBtf,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let pin = directory.join(WALK);
        if pin.exists() {
            return Ok(()); // from an interrupted command
        }
        let mut loader = EbpfLoader::new();
        loader.kernel_btf(btf);
        for map in ["marks", "members", LIVE] {
            loader.map_pin_path(map, directory.join(map));
        }
        let mut ebpf = loader.load(OBJECT)?;
        let marks = MapData::from_pin(directory.join("marks"))?;
        let program: &mut Iter =
            ebpf.program_mut(WALK).ok_or(ProgramError::NotLoaded)?.try_into()?;
        program.load("bpf_sk_storage_map", btf)?;
        let id = program.attach_to_map(marks.fd())?;
        let link: FdLink = program.take_link(id)?.into();
        link.pin(pin)?;
        Ok(())
    }

    /// Opens the map; `None` in a layer that does not count.
    pub(super) fn open(directory: &Path) -> Result<Option<Self>, MapError> {
        if !directory.join(WALK).exists() {
            return Ok(None);
        }
        let live: Array<_, u32> =
            Map::from_map_data(MapData::from_pin(directory.join(LIVE))?)?.try_into()?;
        Ok(Some(Self { directory: directory.to_owned(), live: live.mapped()? }))
    }

    /// Subtracts connections that are certainly closed: all missed ones if no connection closes during the
    /// walk, otherwise fewer by at most the number that closes. With more than a million marks the walk
    /// stops (EAGAIN), and nothing is subtracted: it would continue at a position that closes have shifted.
    ///
    /// Does nothing if another process is recounting.
    pub(super) fn run(&self, members: &MappedArray<HostMember>) -> io::Result<()> {
        let Some(_lock) = bpffs::try_lock(&self.directory)? else { return Ok(()) };
        let used = |index: u32| Some((index, members.get(index)?)).filter(|(_, m)| m.used != 0);
        let before: Vec<(u32, HostMember)> = (0..members.len()).filter_map(used).collect();
        if before.iter().all(|(_, member)| member.balance() == 0) {
            return Ok(());
        }
        for (index, _) in &before {
            let _ = self.live.set(*index, 0);
        }
        fence(SeqCst);
        File::open(self.directory.join(WALK))?.read_to_end(&mut Vec::new())?;
        fence(SeqCst);
        for (index, before) in before {
            let (Some(after), Some(live)) = (members.get(index), self.live.get(index)) else {
                continue;
            };
            let missed = missed(&before, live, &after);
            if missed == 0 {
                continue;
            }
            // If the count has changed since, the next recount corrects it.
            if let Some(closed) = members.atomic_u32(index, HostMember::CLOSED)
                && closed
                    .compare_exchange(
                        after.closed,
                        after.closed.wrapping_add(missed),
                        Relaxed,
                        Relaxed,
                    )
                    .is_ok()
            {
                tracing::debug!("subtracted {missed} missed closes of host member {index}");
            }
        }
        Ok(())
    }
}

/// The least number of missed closes, after a walk that found `live` connections.
///
/// A connection that was open before the walk and was not found is closed: its close was missed or has been
/// counted since. The walk may also find connections that closed or opened since; both only make this
/// number smaller. This relies on the order in which `host.bpf.c` changes marks and counters.
fn missed(before: &HostMember, live: u32, after: &HostMember) -> u32 {
    if before.epoch != after.epoch {
        return 0;
    }
    let closed = after.closed.wrapping_sub(before.closed);
    u32::try_from(before.balance()).unwrap_or(0).saturating_sub(live).saturating_sub(closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(opened: u32, closed: u32) -> HostMember {
        HostMember { epoch: 7, used: 1, opened, closed }
    }

    #[test]
    fn a_connection_that_is_not_found_was_missed() {
        assert_eq!(missed(&member(10, 4), 6, &member(10, 4)), 0);
        assert_eq!(missed(&member(10, 4), 5, &member(10, 4)), 1);
        assert_eq!(missed(&member(10, 4), 0, &member(10, 4)), 6);
    }

    #[test]
    fn a_close_during_the_walk_was_not_missed() {
        assert_eq!(missed(&member(10, 4), 4, &member(10, 6)), 0);
        assert_eq!(missed(&member(10, 4), 6, &member(10, 6)), 0, "found before they closed");
        assert_eq!(missed(&member(10, 4), 3, &member(10, 6)), 1);
    }

    #[test]
    fn connections_opened_during_the_walk_are_not_missed() {
        assert_eq!(missed(&member(10, 4), 8, &member(12, 4)), 0);
        assert_eq!(missed(&member(10, 4), 6, &member(12, 4)), 0);
    }

    #[test]
    fn counters_may_wrap() {
        let before = member(3, u32::MAX - 1);
        assert_eq!(before.balance(), 5);
        assert_eq!(missed(&before, 4, &before), 1);
        assert_eq!(missed(&before, 3, &member(3, 0)), 0);
    }

    #[test]
    fn below_zero_nothing_is_missed() {
        assert_eq!(missed(&member(4, 5), 0, &member(4, 5)), 0);
        assert_eq!(member(4, 5).open(), 0);
    }

    #[test]
    fn a_new_member_has_missed_nothing() {
        let after = HostMember { epoch: 8, ..member(0, 0) };
        assert_eq!(missed(&member(10, 4), 0, &after), 0);
    }
}
