//! What some policies are told beside their name.

use std::fmt;
use std::str::FromStr;

pub use crate::id::{MaxShare, StaleAfter};

/// What a least-loaded choice goes by.
///
/// The member with the shortest queue is picked, in relation to its weight. TCP: connections that
/// wait to be accepted, and half-open ones up to 256. UDP: bytes that wait to be received. Open
/// connections break ties, and among members that are equal in that, too, they take turns.
///
/// A worker may add its own word to that: see [`report`](crate::report).
///
/// # Example
///
/// ```
/// use reuseport::policy::{LeastLoaded, LoadTerms, Policy};
///
/// let queue_alone = LeastLoaded { load: LoadTerms::QUEUE, ..LeastLoaded::DEFAULT };
/// assert_eq!(Policy::LeastLoaded(queue_alone).name(), "least-loaded");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeastLoaded {
    /// Which terms count.
    pub load: LoadTerms,
    /// How much of the picks any member may get.
    pub max_share: MaxShare,
    /// For how long a worker that [reports](crate::report) may hang before others go first.
    pub stale_after: StaleAfter,
}

impl LeastLoaded {
    /// Queue and open connections; twice a fair share; a tenth of a second.
    pub const DEFAULT: Self = Self {
        load: LoadTerms::QUEUE_AND_OPEN,
        max_share: MaxShare::DEFAULT,
        stale_after: StaleAfter::DEFAULT,
    };

    /// From the lowest bit: the terms (8 bits), the share in hundredths (16), nothing (8), the time in
    /// milliseconds (32; 0 from before there was one: the default).
    pub(super) const fn pack(self) -> u64 {
        self.load.0 as u64
            | (self.max_share.hundredths() as u64) << 8
            | (self.stale_after.millis() as u64) << 32
    }

    pub(super) fn unpack(packed: u64) -> Option<Self> {
        let (options, millis) = (packed as u32, (packed >> 32) as u32);
        let load = LoadTerms((options & 0xff) as u8);
        let max_share = MaxShare::from_hundredths(u16::try_from(options >> 8).ok()?)?;
        let stale_after = match millis {
            0 => StaleAfter::DEFAULT,
            millis => StaleAfter::from_millis(millis)?,
        };
        (1..=3).contains(&load.0).then_some(Self { load, max_share, stale_after })
    }
}

impl Default for LeastLoaded {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The terms of a load: `queue`, `open`, or `queue,open`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LoadTerms(u8);

impl LoadTerms {
    /// What waits, and what workers [report](crate::report) that they have in flight.
    pub const QUEUE: Self = Self(1);
    /// Connections that are open. TCP only; for UDP nothing is left then but turns.
    pub const OPEN: Self = Self(2);
    /// What waits; of members that are equal in this, the one with the fewest open connections.
    pub const QUEUE_AND_OPEN: Self = Self(3);

    /// Its bits, as `enum load_term` in bpf/config.h has them.
    pub(crate) const fn bits(self) -> u32 {
        self.0 as u32
    }

    /// Whether queues count.
    pub const fn queue(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether open connections count.
    pub const fn open(self) -> bool {
        self.0 & 2 != 0
    }
}

impl fmt::Display for LoadTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match (self.queue(), self.open()) {
            (true, true) => "queue,open",
            (true, false) => "queue",
            _ => "open",
        })
    }
}

impl FromStr for LoadTerms {
    type Err = BadOption;

    fn from_str(terms: &str) -> Result<Self, BadOption> {
        let mut bits = 0;
        for term in terms.split(',') {
            bits |= match term.trim() {
                "queue" => Self::QUEUE.0,
                "open" => Self::OPEN.0,
                _ => {
                    return Err(BadOption::new("load", terms, "`queue`, `open` or `queue,open`"));
                }
            };
        }
        Ok(Self(bits))
    }
}

impl FromStr for MaxShare {
    type Err = BadOption;

    fn from_str(share: &str) -> Result<Self, BadOption> {
        let bad = || BadOption::new("share", share, "a number from 1 to 100, such as 2 or 1.5");
        let number: f64 = share.parse().map_err(|_| bad())?;
        // Out of range, and what is no number, end at the bounds of u16, which are out of range.
        Self::from_hundredths((number * 100.0).round() as u16).ok_or_else(bad)
    }
}

/// Which bytes of a datagram choose its member: `OFFSET:LENGTH`, in bytes, behind the UDP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Payload {
    offset: u16,
    length: u8,
}

impl Payload {
    pub(super) const FIRST_BYTE: Self = Self { offset: 0, length: 1 };

    /// The most bytes that can choose.
    pub const MAX_LENGTH: u8 = 64;

    /// `length` bytes from `offset` on; `None` if these are none, or more than
    /// [`MAX_LENGTH`](Self::MAX_LENGTH), or end beyond every datagram.
    pub const fn new(offset: u16, length: u8) -> Option<Self> {
        // 65,535 less the headers of UDP and IPv4.
        const LONGEST: u32 = 65_507;
        let fits =
            length >= 1 && length <= Self::MAX_LENGTH && offset as u32 + length as u32 <= LONGEST;
        if fits { Some(Self { offset, length }) } else { None }
    }

    /// Bytes before the first one that counts.
    pub const fn offset(self) -> u16 {
        self.offset
    }

    /// How many count.
    pub const fn length(self) -> u8 {
        self.length
    }

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
        parse().ok_or_else(|| BadOption::payload(numbers))
    }
}

/// An option that a policy cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no {what}: it takes {takes}", given.escape_debug())]
pub struct BadOption {
    what: &'static str,
    given: String,
    takes: &'static str,
}

impl BadOption {
    fn new(what: &'static str, given: &str, takes: &'static str) -> Self {
        Self { what, given: given.to_owned(), takes }
    }

    pub(super) fn payload(given: &str) -> Self {
        Self::new("choice of payload bytes", given, "payload:OFFSET:LENGTH with 1 to 64 bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_they_are_shown() {
        for terms in ["queue", "open", "queue,open"] {
            assert_eq!(terms.parse::<LoadTerms>().unwrap().to_string(), terms);
        }
        for share in ["1", "1.5", "2", "100"] {
            assert_eq!(share.parse::<MaxShare>().unwrap().to_string(), share);
        }
        for payload in ["0:1", "4:8", "65443:64"] {
            assert_eq!(payload.parse::<Payload>().unwrap().to_string(), payload);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for terms in ["", "queue,", "cpu", "queue;open"] {
            assert!(terms.parse::<LoadTerms>().is_err(), "{terms}");
        }
        for share in ["", "0", "0.99", "-2", "100.1", "inf", "NaN", "1e9"] {
            assert!(share.parse::<MaxShare>().is_err(), "{share}");
        }
        for payload in ["", "4", "4:", "4:0", "0:65", "-1:4", "65507:1", "65444:64", "1:2:3"] {
            assert!(payload.parse::<Payload>().is_err(), "{payload}");
        }
        assert_eq!(
            "0:65".parse::<Payload>().unwrap_err().to_string(),
            "`0:65` is no choice of payload bytes: it takes payload:OFFSET:LENGTH with 1 to 64 bytes"
        );
    }

    #[test]
    fn options_come_back_from_pinned_state() {
        for load in [LoadTerms::QUEUE, LoadTerms::OPEN, LoadTerms::QUEUE_AND_OPEN] {
            for share in [100, 150, 10_000] {
                let max_share = MaxShare::from_hundredths(share).unwrap();
                for millis in [10, 100, 3_600_000] {
                    let stale_after = StaleAfter::from_millis(millis).unwrap();
                    let options = LeastLoaded { load, max_share, stale_after };
                    assert_eq!(LeastLoaded::unpack(options.pack()), Some(options));
                }
            }
        }
        // What was packed before a worker could be stale.
        assert_eq!(LeastLoaded::unpack(200 << 8 | 3), Some(LeastLoaded::DEFAULT));
        assert_eq!(LeastLoaded::unpack(9 << 32 | 200 << 8 | 3), None);
        assert_eq!(LeastLoaded::unpack(100 << 32 | 1 << 24 | 200 << 8 | 3), None);
        assert_eq!([9, 3_600_001].map(StaleAfter::from_millis), [None; 2]);
        let payload = Payload::new(9, 64).unwrap();
        assert_eq!(Payload::unpack(payload.pack()), Some(payload));
        assert_eq!([0, 1, 4, 200 << 8].map(LeastLoaded::unpack), [None; 4]);
    }
}
