//! Open connections counted once more, by a walk over the marks on them.
//!
//! What the program of the host-wide layer does not see stays counted. That no close passes it by is
//! what its two copies are for, but there are kernels that run no tracing program beneath some
//! interrupts, and say so nowhere. A connection that is gone has no mark any more: that is how
//! a count that is too high is found. What was never counted, because nobody saw it open, is not.

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

const OBJECT: &[u8] = include_bytes!("../../bpf/recount.bpf.o");

/// The map that the walk counts in, and its pin.
const LIVE: &str = "live";

/// The program that walks, and its pin: a file that runs it as it is read.
const WALK: &str = "recount";

#[derive(Debug)]
pub(super) struct Recount {
    /// The host-wide layer's.
    directory: PathBuf,
    /// Connections that the walk has found, by member.
    live: MappedArray<u32>,
}

impl Recount {
    /// Makes what it takes, if it is not there, in a layer that has its maps. The caller has the lock.
    pub(super) fn create(
        directory: &Path,
        btf: &KernelBtf,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let pin = directory.join(WALK);
        if pin.exists() {
            return Ok(()); // an interrupted command's
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

    /// `None` where it is not to be had: in a layer that does not count.
    pub(super) fn open(directory: &Path) -> Result<Option<Self>, MapError> {
        if !directory.join(WALK).exists() {
            return Ok(None);
        }
        let live: Array<_, u32> =
            Map::from_map_data(MapData::from_pin(directory.join(LIVE))?)?.try_into()?;
        Ok(Some(Self { directory: directory.to_owned(), live: live.mapped()? }))
    }

    /// Subtracts from members' counts what is certainly not open any more: all that was missed if
    /// no connection ends meanwhile, else all but as many as end. With more than a million marks the walk
    /// breaks off (EAGAIN), and nothing is subtracted: what is left of it would begin by number, at a
    /// place that others' ends have moved.
    ///
    /// If somebody else does so right now, that is enough.
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
            // Whoever changes it first has looked at what we have not: another time.
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
                tracing::debug!("{missed} connections of host member {index} had ended unseen");
            }
        }
        Ok(())
    }
}

/// How many connections have ended unseen at least, after a walk that found so many `live`.
///
/// Whatever was open before the walk and was not found has ended: it was missed, or it is among those
/// that were closed since. Some of these may be found and some not, and so may what was
/// opened since; both only make this number smaller. That relies on the order in which `host.bpf.c`
/// changes marks and counters.
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
    fn what_is_not_found_was_missed() {
        assert_eq!(missed(&member(10, 4), 6, &member(10, 4)), 0);
        assert_eq!(missed(&member(10, 4), 5, &member(10, 4)), 1);
        assert_eq!(missed(&member(10, 4), 0, &member(10, 4)), 6);
    }

    #[test]
    fn what_closes_meanwhile_was_not_missed() {
        assert_eq!(missed(&member(10, 4), 4, &member(10, 6)), 0);
        assert_eq!(missed(&member(10, 4), 6, &member(10, 6)), 0, "found before they closed");
        assert_eq!(missed(&member(10, 4), 3, &member(10, 6)), 1);
    }

    #[test]
    fn what_opens_meanwhile_is_not_held_against_anybody() {
        assert_eq!(missed(&member(10, 4), 8, &member(12, 4)), 0);
        assert_eq!(missed(&member(10, 4), 6, &member(12, 4)), 0);
    }

    #[test]
    fn counters_that_have_come_round_are_counters() {
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
    fn of_somebody_who_came_meanwhile_nothing_is_known() {
        let after = HostMember { epoch: 8, ..member(0, 0) };
        assert_eq!(missed(&member(10, 4), 0, &after), 0);
    }
}
