//! `payload:OFFSET:LENGTH`: as `hash`, but by some of a datagram's own bytes. UDP only.
//!
//! Datagrams with the same bytes reach the same member, whatever address they come from. Kernel
//! side: `bpf/policy/payload.h`.

use std::fmt;
use std::str::FromStr;

use super::rule::{BadOption, Global, Rule, Written};
use crate::error::{Error, ErrorKind, Result};
use crate::model::group::Protocol;

pub(super) const RULE: Rule = Rule {
    written: Some(Written {
        usage: "payload:OFFSET:LENGTH",
        parse: |written| match written {
            Some(written) => written.parse().map(Payload::pack),
            None => Err(bad("payload")),
        },
        show: |parameters| Payload::unpack(parameters).unwrap_or(Payload::FIRST_BYTE).to_string(),
    }),
    check,
    globals: |parameters| {
        let payload = Payload::unpack(parameters).unwrap_or(Payload::FIRST_BYTE);
        vec![
            Global::U32("PAYLOAD_OFFSET", payload.offset.into()),
            Global::U32("PAYLOAD_LENGTH", payload.length.into()),
        ]
    },
    ..Rule::new(
        7,
        "payload",
        "by a hash of LENGTH of the datagram's bytes from OFFSET on (udp)",
        |_, members| members.by_flow(),
    )
};

fn check(protocol: Protocol) -> Result<()> {
    match protocol {
        Protocol::Udp => Ok(()),
        Protocol::Tcp => Err(Error::new(ErrorKind::Invalid, "cannot use policy `payload` for TCP")
            .because("a member is chosen when a SYN arrives, which has no payload")
            .with_hint("`hash` or `source` keep a client's connections together")),
    }
}

/// The bytes of a datagram that are hashed: `OFFSET:LENGTH`, in bytes, after the UDP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Payload {
    offset: u16,
    length: u8,
}

impl Payload {
    pub(super) const FIRST_BYTE: Self = Self { offset: 0, length: 1 };

    /// The most bytes that can be hashed.
    pub const MAX_LENGTH: u8 = 64;

    /// `length` bytes from `offset` on. `None` if `length` is 0 or above
    /// [`MAX_LENGTH`](Self::MAX_LENGTH), or if no datagram is long enough.
    pub const fn new(offset: u16, length: u8) -> Option<Self> {
        // 65,535 less the headers of UDP and IPv4.
        const LONGEST: u32 = 65_507;
        let fits =
            length >= 1 && length <= Self::MAX_LENGTH && offset as u32 + length as u32 <= LONGEST;
        if fits { Some(Self { offset, length }) } else { None }
    }

    /// The number of bytes before the first hashed one.
    pub const fn offset(self) -> u16 {
        self.offset
    }

    /// The number of hashed bytes.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// From the lowest bit: the offset (16 bits), the length (8).
    pub(super) const fn pack(self) -> u64 {
        self.offset as u64 | (self.length as u64) << 16
    }

    pub(super) fn unpack(packed: u64) -> Option<Self> {
        Self::new(packed as u16, u8::try_from(packed >> 16).ok()?)
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.offset, self.length)
    }
}

impl FromStr for Payload {
    type Err = BadOption;

    fn from_str(numbers: &str) -> Result<Self, BadOption> {
        let parse = || {
            let (offset, length) = numbers.split_once(':')?;
            Self::new(offset.parse().ok()?, length.parse().ok()?)
        };
        parse().ok_or_else(|| bad(numbers))
    }
}

fn bad(given: &str) -> BadOption {
    BadOption::new("range of payload bytes", given, "payload:OFFSET:LENGTH with 1 to 64 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_bytes_parse_back() {
        for payload in ["0:1", "4:8", "65443:64"] {
            assert_eq!(payload.parse::<Payload>().unwrap().to_string(), payload);
        }
        for payload in ["", "4", "4:", "4:0", "0:65", "-1:4", "65507:1", "65444:64", "1:2:3"] {
            assert!(payload.parse::<Payload>().is_err(), "{payload}");
        }
        assert_eq!(
            "0:65".parse::<Payload>().unwrap_err().to_string(),
            "`0:65` is not a valid range of payload bytes: give payload:OFFSET:LENGTH with 1 to 64 bytes"
        );
    }

    #[test]
    fn packed_bytes_unpack() {
        let payload = Payload::new(9, 64).unwrap();
        assert_eq!(Payload::unpack(payload.pack()), Some(payload));
        assert_eq!(Payload::unpack(0), None);
    }

    #[test]
    fn a_syn_has_no_payload() {
        assert_eq!(check(Protocol::Tcp).unwrap_err().kind(), ErrorKind::Invalid);
        assert!(check(Protocol::Udp).is_ok());
    }
}
