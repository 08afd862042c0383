//! Where the walk over the kernel's tables goes on: `bpf/wire/record.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Where a run of the walk over the kernel's tables begins.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Cursor {
    stage: u32,
    bucket: u32,
    last: u64,
    cookie: u64,
    udp_fd: u32,
    again: u32,
    final_stage: u32,
    reserved: u32,
}

impl Cursor {
    /// The beginning. `udp_fd` is any UDP socket of the reading process, through which the walk finds the
    /// tables; `udp`: whether it goes through those of UDP sockets, too.
    pub(crate) fn start(udp_fd: u32, udp: bool) -> Self {
        let final_stage = if udp { STAGE_UDP } else { STAGE_TCP };
        Self { stage: STAGE_TCP, udp_fd, again: MAX_AGAIN, final_stage, ..Self::default() }
    }
}

const STAGE_TCP: u32 = 1;
const STAGE_UDP: u32 = 2;

/// How often a walk reads a list again that changed meanwhile. It must end all the same.
const MAX_AGAIN: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mirror::{assert_mirrors, object, value};

    #[test]
    fn both_sides_agree() {
        let btf = object("observe");
        assert_mirrors!(
            btf,
            "cursor",
            Cursor { stage, bucket, last, cookie, udp_fd, again, final_stage, reserved }
        );
        assert_eq!(value(&btf, "stage", "STAGE_TCP"), i64::from(STAGE_TCP));
        assert_eq!(value(&btf, "stage", "STAGE_UDP"), i64::from(STAGE_UDP));
    }
}
