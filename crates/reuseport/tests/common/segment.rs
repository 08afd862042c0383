//! TCP segments sent through a raw socket, without a connection.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, bind, getsockname, ipproto, sendto,
    socket_with,
};

/// The bits of a segment's flags (RFC 9293, section 3.1).
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 1 << 1;
pub(crate) const RST: u8 = 1 << 2;
pub(crate) const PSH: u8 = 1 << 3;
pub(crate) const ACK: u8 = 1 << 4;
pub(crate) const URG: u8 = 1 << 5;

/// A header without options, in words of four bytes.
pub(crate) const HEADER_WORDS: u8 = 5;

/// Sends segments from a port that no other socket uses.
pub(crate) struct Sender {
    raw: OwnedFd,
    from: SocketAddr,
    to: SocketAddr,
    _port: OwnedFd,
}

/// The parts of a segment that a test chooses, valid or not.
pub(crate) struct Segment {
    pub(crate) flags: u8,
    pub(crate) payload: &'static [u8],
    /// The length of the header that it claims.
    pub(crate) header_words: u8,
    /// Added to the correct checksum.
    pub(crate) checksum_error: u16,
}

impl Segment {
    pub(crate) fn new(flags: u8) -> Self {
        Self { flags, payload: b"", header_words: HEADER_WORDS, checksum_error: 0 }
    }
}

impl Sender {
    pub(crate) fn new(to: SocketAddr) -> Self {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket =
            |kind| socket_with(family, kind, SocketFlags::CLOEXEC, Some(ipproto::TCP)).unwrap();
        // Bound but not listening: no other socket takes the port, and no segment is accepted
        // there.
        let port = socket(SocketType::STREAM);
        bind(&port, &SocketAddr::new(to.ip(), 0)).unwrap();
        let from = getsockname(&port).unwrap().try_into().unwrap();
        Self { raw: socket(SocketType::RAW), from, to, _port: port }
    }

    /// Sends a segment; the kernel prepends the IP header.
    pub(crate) fn send(&self, segment: &Segment) {
        let bytes = self.encode(segment);
        // A raw socket has no port; for IPv6, sendto refuses an address with one.
        let to = SocketAddr::new(self.to.ip(), 0);
        assert_eq!(sendto(&self.raw, &bytes, SendFlags::empty(), &to).unwrap(), bytes.len());
    }

    fn encode(&self, segment: &Segment) -> Vec<u8> {
        const SEQUENCE: u32 = 0x1234_5678;
        const WINDOW: u16 = 512;

        let mut bytes = Vec::new();
        bytes.extend(self.from.port().to_be_bytes());
        bytes.extend(self.to.port().to_be_bytes());
        bytes.extend(SEQUENCE.to_be_bytes());
        bytes.extend(SEQUENCE.to_be_bytes());
        bytes.extend([segment.header_words << 4, segment.flags]);
        bytes.extend(WINDOW.to_be_bytes());
        bytes.extend([0; 4]); // the checksum and the urgent pointer
        bytes.extend(segment.payload);
        let checksum = self.checksum(&bytes).wrapping_add(segment.checksum_error);
        bytes[16..18].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// RFC 9293, section 3.1: over the pseudo-header and the segment.
    fn checksum(&self, segment: &[u8]) -> u16 {
        let mut bytes = [octets(self.from.ip()), octets(self.to.ip())].concat();
        bytes.extend([0, 6]);
        bytes.extend(u16::try_from(segment.len()).unwrap().to_be_bytes());
        bytes.extend(segment);
        let words = bytes.chunks(2).map(|w| u16::from_be_bytes([w[0], *w.get(1).unwrap_or(&0)]));
        let sum: u32 = words.map(u32::from).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        !((folded & 0xffff) + (folded >> 16)) as u16
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
