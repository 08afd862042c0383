//! Load reports: one entry for each slot, which the member's worker writes and the kernel program
//! reads. `struct report` in `bpf/wire/report.h`.

use std::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A worker's report. One cache line, because each entry has another writer.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Report {
    /// The epoch of the member in the slot; 0: none.
    epoch: u64,
    busy: u64,
    in_flight: u64,
    reserved: [u64; 5],
}

const _: () = assert!(size_of::<Report>() == 64);

impl Report {
    /// The offset of the slot's epoch.
    pub(crate) const EPOCH: usize = offset_of!(Self, epoch);
    /// The offset of the time since which the worker has been busy, in units of 2^[`TIME_SHIFT`] ns; 0:
    /// idle.
    pub(crate) const BUSY: usize = offset_of!(Self, busy);
    /// The offset of the number of requests in flight.
    pub(crate) const IN_FLIGHT: usize = offset_of!(Self, in_flight);
}

/// The bits of a reported number in its word; the bits above are the low bits of the epoch for which it
/// counts.
pub(crate) const WORD_BITS: u32 = 48;

/// Times are in units of 2 to this power, in ns.
pub(crate) const TIME_SHIFT: u32 = 16;

/// A number with the epoch for which it counts.
pub(crate) fn word(epoch: u32, number: u64) -> u64 {
    u64::from(epoch) << WORD_BITS | number & ((1 << WORD_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mirror::{assert_mirrors, object, value};

    #[test]
    fn a_word_has_the_epoch_above_its_number() {
        assert_eq!(word(1, 0), 1 << 48);
        assert_eq!(word(0x12_3456, 7), 0x3456_0000_0000_0007);
        assert_eq!(word(2, u64::MAX), 0x0002_ffff_ffff_ffff);
    }

    #[test]
    fn both_sides_agree() {
        let btf = object("select");
        assert_mirrors!(btf, "report", Report { epoch, busy, in_flight, reserved });
        let shift = value(&btf, "report_layout", "REPORT_EPOCH_SHIFT");
        assert_eq!(shift, i64::from(WORD_BITS));
        assert_eq!(value(&btf, "report_layout", "REPORT_TIME_SHIFT"), i64::from(TIME_SHIFT));
    }
}
