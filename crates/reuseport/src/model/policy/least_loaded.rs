//! `least-loaded`: the member with the fewest connections, if it takes what it gets.
//!
//! The default for TCP. Kernel side: `bpf/policy/least_loaded.h`.

use std::fmt;
use std::str::FromStr;

use super::rule::{BadOption, Global, Rule};
use crate::model::id::{MaxShare, StaleAfter};

pub(super) const RULE: Rule = Rule {
    without_queues: |parameters| match options(parameters).load.open() {
        true => "it compares open connections only",
        false => "members are picked in turn, by weight",
    },
    details: |parameters| {
        let LeastLoaded { load, max_share, .. } = options(parameters);
        format!("{load}; max share {max_share}")
    },
    globals: |parameters| {
        let LeastLoaded { load, stale_after, .. } = options(parameters);
        vec![
            Global::U32("LOAD", load.bits()),
            Global::U64("STALE_AFTER", stale_after.nanoseconds()),
        ]
    },
    compares_open: |parameters| options(parameters).load.open(),
    ..Rule::new(
        6,
        "least-loaded",
        "the fewest connections, where they are taken",
        |parameters, members| members.by_turn_with(options(parameters).max_share),
    )
};

fn options(parameters: u64) -> LeastLoaded {
    LeastLoaded::unpack(parameters).unwrap_or_default()
}

/// The parameters of the policy least-loaded.
///
/// TCP: it picks the member with the fewest connections per weight, open ones and half-open ones up to 256.
/// Members at which connections wait and do not get fewer come later, and after 8 ms last. UDP: it picks the
/// member with the fewest bytes that wait to be received. Members that are equal take turns.
///
/// A worker may add its own report: see [`report`](crate::report).
///
/// # Example
///
/// ```
/// use reuseport::policy::{LeastLoaded, LoadTerms, Policy};
///
/// let queue_alone = LeastLoaded::DEFAULT.load(LoadTerms::QUEUE);
/// assert_eq!(Policy::LeastLoaded(queue_alone).name(), "least-loaded");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct LeastLoaded {
    /// The terms that count.
    pub load: LoadTerms,
    /// The most picks that a member may get, as a multiple of its fair share.
    pub max_share: MaxShare,
    /// How long a worker that [reports](crate::report) may hang before other members are preferred.
    pub stale_after: StaleAfter,
}

impl LeastLoaded {
    /// Queue and open connections; twice the fair share; 100 ms.
    pub const DEFAULT: Self = Self {
        load: LoadTerms::QUEUE_AND_OPEN,
        max_share: MaxShare::DEFAULT,
        stale_after: StaleAfter::DEFAULT,
    };

    /// With these [terms](Self::load).
    #[must_use]
    pub const fn load(self, load: LoadTerms) -> Self {
        Self { load, ..self }
    }

    /// With this [limit](Self::max_share).
    #[must_use]
    pub const fn max_share(self, max_share: MaxShare) -> Self {
        Self { max_share, ..self }
    }

    /// With this [time](Self::stale_after).
    #[must_use]
    pub const fn stale_after(self, stale_after: StaleAfter) -> Self {
        Self { stale_after, ..self }
    }

    /// From the lowest bit: the terms (8 bits), the share in hundredths (16), nothing (8), the time in
    /// milliseconds (32; 0, from versions without it: the default).
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
    /// The queue, and the requests in flight that workers [report](crate::report).
    pub const QUEUE: Self = Self(1);
    /// Open connections. TCP only: with UDP, members then take turns.
    pub const OPEN: Self = Self(2);
    /// Connections, and what waits: see [`LeastLoaded`].
    pub const QUEUE_AND_OPEN: Self = Self(3);

    /// The bits of `enum load_term`.
    pub(crate) const fn bits(self) -> u32 {
        self.0 as u32
    }

    /// Whether queues count.
    pub const fn queue(self) -> bool {
        self.0 & Self::QUEUE.0 != 0
    }

    /// Whether open connections count.
    pub const fn open(self) -> bool {
        self.0 & Self::OPEN.0 != 0
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
        // A number out of range, and NaN, saturate at the bounds of u16, which are out of range too.
        Self::from_hundredths((number * 100.0).round() as u16).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_options_parse_back() {
        for terms in ["queue", "open", "queue,open"] {
            assert_eq!(terms.parse::<LoadTerms>().unwrap().to_string(), terms);
        }
        for share in ["1", "1.5", "2", "100"] {
            assert_eq!(share.parse::<MaxShare>().unwrap().to_string(), share);
        }
    }

    #[test]
    fn bad_options_are_refused() {
        for terms in ["", "queue,", "cpu", "queue;open"] {
            assert!(terms.parse::<LoadTerms>().is_err(), "{terms}");
        }
        for share in ["", "0", "0.99", "-2", "100.1", "inf", "NaN", "1e9"] {
            assert!(share.parse::<MaxShare>().is_err(), "{share}");
        }
    }

    #[test]
    fn packed_options_unpack() {
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
        // From a version without `stale_after`.
        assert_eq!(LeastLoaded::unpack(200 << 8 | 3), Some(LeastLoaded::DEFAULT));
        assert_eq!(LeastLoaded::unpack(9 << 32 | 200 << 8 | 3), None);
        assert_eq!(LeastLoaded::unpack(100 << 32 | 1 << 24 | 200 << 8 | 3), None);
        assert_eq!([9, 3_600_001].map(StaleAfter::from_millis), [None; 2]);
        assert_eq!([0, 1, 4, 200 << 8].map(LeastLoaded::unpack), [None; 4]);
    }
}
