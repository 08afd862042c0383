//! What the watching programs read and write: `bpf/wire/event.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A port that is followed: a key of the map `ports`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RawPort {
    /// The namespace's cookie; 0: all namespaces.
    pub(crate) netns: u64,
    pub(crate) number: u16,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub(crate) protocol: u16,
    pub(crate) reserved: u32,
}

/// What happened on a followed port: a record of the ring buffer.
#[derive(Debug, Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Event {
    pub(crate) cookie: u64,
    pub(crate) netns: u64,
    /// In the initial pid namespace.
    pub(crate) process: u32,
    pub(crate) port: u16,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub(crate) protocol: u8,
    pub(crate) happened: u8,
}

/// A listener went.
pub(crate) const WENT: u8 = 0;
/// A socket came.
pub(crate) const CAME: u8 = 1;
/// Connections come.
pub(crate) const BUSY: u8 = 2;

/// A UDP socket on a followed port: what the iterator writes.
#[derive(Debug, Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct UdpMember {
    pub(crate) cookie: u64,
    pub(crate) port: u16,
    reserved: [u16; 3],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mirror::{assert_mirrors, map, object, value};

    #[test]
    fn both_sides_agree() {
        let btf = object("watch");
        assert_mirrors!(btf, "port", RawPort { netns, number, protocol, reserved });
        assert_mirrors!(btf, "event", Event { cookie, netns, process, port, protocol, happened });
        assert_mirrors!(btf, "udp_member", UdpMember { cookie, port, reserved });
        assert_eq!(map(&btf, "ports").key_size, size_of::<RawPort>());
        assert_eq!(map(&btf, "ports").value_size, 8);
        assert_eq!(map(&btf, "lost").value_size, 8);
        for (name, ours) in [("WENT", WENT), ("CAME", CAME), ("BUSY", BUSY)] {
            assert_eq!(value(&btf, "happened", name), i64::from(ours), "{name}");
        }
    }
}
