//! What the watching programs read and write: `bpf/wire/event.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A port that is followed: a key of the map `ports`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RawPort {
    /// The namespace's cookie.
    pub(crate) netns: u64,
    pub(crate) number: u16,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub(crate) protocol: u16,
    pub(crate) reserved: u32,
}

/// A socket came to a followed port, or a listener went: a record of the ring buffer.
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
    /// 1: came; 0: went.
    pub(crate) came: u8,
}

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
    use crate::wire::mirror::{assert_mirrors, map, object};

    #[test]
    fn both_sides_agree() {
        let btf = object("watch");
        assert_mirrors!(btf, "port", RawPort { netns, number, protocol, reserved });
        assert_mirrors!(btf, "event", Event { cookie, netns, process, port, protocol, came });
        assert_mirrors!(btf, "udp_member", UdpMember { cookie, port, reserved });
        assert_eq!(map(&btf, "ports").key_size, size_of::<RawPort>());
        assert_eq!(map(&btf, "ports").value_size, 1);
    }
}
