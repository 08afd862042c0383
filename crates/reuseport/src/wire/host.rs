//! The host-wide layer's map values: `bpf/wire/host.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The members that the host-wide layer can tell apart, of all groups together.
pub(crate) const HOST_MEMBERS: u32 = 32_768;

/// The index of a member that the host-wide layer has no room for: its connections are not counted.
pub(crate) const NO_HOST_MEMBER: u32 = u32::MAX;

/// On a socket: its member, or the member that accepted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Mark {
    pub(crate) member: u32,
    pub(crate) epoch: u32,
    /// The kernel program sets it on connections that it counts.
    counted: u32,
    reserved: u32,
}

impl Mark {
    /// The mark of a listener.
    pub(crate) fn new(member: u32, epoch: u32) -> Self {
        Self { member, epoch, counted: 0, reserved: 0 }
    }
}

/// A member in the host-wide layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct HostMember {
    /// Rises when the index goes to another member, and when a member returns it.
    pub(crate) epoch: u32,
    /// 1: a member has it.
    pub(crate) used: u32,
    /// Connections ever opened, modulo 2^32.
    pub(crate) opened: u32,
    /// Connections ever closed, modulo 2^32.
    pub(crate) closed: u32,
}

impl HostMember {
    /// The offset of `closed`.
    pub(crate) const CLOSED: usize = std::mem::offset_of!(Self, closed);

    /// Open connections.
    pub(crate) fn open(&self) -> u64 {
        u64::try_from(self.balance()).unwrap_or(0)
    }

    /// The same, negative if more were closed than opened.
    pub(crate) fn balance(&self) -> i32 {
        self.opened.wrapping_sub(self.closed).cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mirror::{assert_mirrors, map, object};

    #[test]
    fn both_sides_agree() {
        let btf = object("host");
        assert_mirrors!(btf, "mark", Mark { member, epoch, counted, reserved });
        assert_mirrors!(btf, "host_member", HostMember { epoch, used, opened, closed });
        let members = map(&btf, "members");
        assert_eq!((members.max_entries, members.key_size), (HOST_MEMBERS, 4));
        assert_eq!(map(&object("recount"), "live").max_entries, HOST_MEMBERS);
        assert_eq!(map(&object("select"), "members"), members);
    }
}
