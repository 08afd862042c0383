//! Where the walk over the kernel's tables goes on, and which sockets are asked for: `bpf/wire/record.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::model::group::{GroupKey, KernelAddress, Protocol};
use crate::model::id::Cookie;

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
    port: u16,
    detail: u16,
    only: u16,
    reserved: [u16; 3],
}

impl Cursor {
    /// The beginning. `udp_fd` is any UDP socket of the reading process, through which the walk finds the
    /// tables.
    pub(crate) fn start(udp_fd: u32, walk: Walk) -> Self {
        Self {
            stage: STAGE_TCP,
            udp_fd,
            again: MAX_AGAIN,
            final_stage: if walk.udp { STAGE_UDP } else { STAGE_TCP },
            port: walk.port.unwrap_or(0),
            detail: walk.detail.into(),
            only: walk.only.unwrap_or(0),
            ..Self::default()
        }
    }
}

/// A socket of which it is asked whether it is waited for.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Asked {
    sock_address: u64,
    cookie: u64,
}

impl Asked {
    pub(crate) fn new(cookie: Cookie, address: KernelAddress) -> Self {
        Self { sock_address: address.0, cookie: cookie.get() }
    }
}

/// The most sockets that are asked for at once.
pub(crate) const MAX_ASKED: u32 = 256;

/// What a walk over the tables reports.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Walk {
    /// Whether it goes through those of UDP sockets, too.
    pub(crate) udp: bool,
    /// Whether it reports how each socket was made, what it dropped and who waits for it.
    pub(crate) detail: bool,
    /// A port of which sockets in no group are reported, too.
    pub(crate) port: Option<u16>,
    /// The port of which alone sockets are reported.
    pub(crate) only: Option<u16>,
}

impl Walk {
    /// All there is to tell about groups.
    pub(crate) const WHOLE: Self = Self { udp: true, detail: true, port: None, only: None };

    /// The members of groups alone.
    pub(crate) fn members(udp: bool) -> Self {
        Self { udp, ..Self::default() }
    }

    /// Those at the group's port.
    pub(crate) fn of(group: &GroupKey) -> Self {
        let udp = group.protocol == Protocol::Udp;
        Self { only: Some(group.address.port()), ..Self::members(udp) }
    }
}

const STAGE_TCP: u32 = 1;
const STAGE_UDP: u32 = 2;

/// How often a walk reads a list again that changed meanwhile. It must end all the same.
const MAX_AGAIN: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mirror::{assert_mirrors, map, object, value};

    #[test]
    fn both_sides_agree() {
        let btf = object("observe");
        assert_mirrors!(
            btf,
            "cursor",
            Cursor {
                stage,
                bucket,
                last,
                cookie,
                udp_fd,
                again,
                final_stage,
                port,
                detail,
                only,
                reserved
            }
        );
        assert_mirrors!(btf, "asked", Asked { sock_address, cookie });
        assert_eq!(map(&btf, "asked").max_entries, MAX_ASKED);
        assert_eq!(value(&btf, "stage", "STAGE_TCP"), i64::from(STAGE_TCP));
        assert_eq!(value(&btf, "stage", "STAGE_UDP"), i64::from(STAGE_UDP));
    }
}
