//! How members are picked: policies and stickiness, their names and their numbers.
//!
//! Names are what users type and read; numbers are what the kernel program and the pinned state
//! hold. Neither ever changes its meaning. What a policy *does* is in the kernel program and, as far
//! as the table goes, in [`table`](crate::table).

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind};
use crate::group::Protocol;
use crate::table::Fill;

/// Picks among the active members.
///
/// ```
/// use reuseport::policy::Policy;
///
/// assert_eq!("round-robin".parse(), Ok(Policy::RoundRobin));
/// let error = "round-robbin".parse::<Policy>().unwrap_err();
/// assert!(error.to_string().contains("did you mean `round-robin`?"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// Each connection or flow by a keyed hash of its addresses and ports, over a Maglev table:
    /// a member that comes or goes moves about 1/n of the flows.
    Hash,
    /// One after the other, in proportion to their weights, exactly.
    RoundRobin,
    /// At random, in proportion to their weights.
    Random,
}

impl Policy {
    /// Every policy, in the order in which to present them.
    pub const ALL: &'static [Self] = &[Self::RoundRobin, Self::Hash, Self::Random];

    /// What a group gets whose user names no policy.
    ///
    /// TCP: round-robin, because connections are alike enough to be counted. UDP: hash, because a
    /// flow's datagrams belong to the member that knows the flow.
    pub const fn default_for(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::RoundRobin,
            Protocol::Udp => Self::Hash,
        }
    }

    /// Its name, in kebab case: what [`Display`](fmt::Display) shows and [`FromStr`] reads.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
        }
    }

    /// One line for people who choose among policies.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Hash => {
                "by a hash of addresses and ports; who comes or goes moves few other flows"
            }
            Self::RoundRobin => "one after the other, exactly in proportion to weights",
            Self::Random => "at random, in proportion to weights",
        }
    }

    /// Its number in the pinned state and for the kernel program. 0 is no policy.
    ///
    /// | number | policy |
    /// |---|---|
    /// | 1 | `hash` |
    /// | 2 | reserved for `source` |
    /// | 3 | `round-robin` |
    /// | 4 | `random` |
    /// | 5 | reserved for `cpu` |
    /// | 6 | reserved for `least-loaded` |
    /// | 7 | reserved for `payload` |
    pub const fn code(self) -> u32 {
        match self {
            Self::Hash => 1,
            Self::RoundRobin => 3,
            Self::Random => 4,
        }
    }

    /// The policy with this number; `None` if this version knows none.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|policy| policy.code() == code)
    }

    /// How the table is filled for it.
    ///
    /// `hash` takes Maglev's fill with this seed. `round-robin` and `random` take the interleave,
    /// whose proportions are exact: a cursor or a random number stands for no flow that could move.
    pub const fn fill(self, seed: u64) -> Fill {
        match self {
            Self::Hash => Fill::Maglev { seed },
            Self::RoundRobin | Self::Random => Fill::Interleave,
        }
    }
}

/// Its name in kebab case: `round-robin`.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Policy {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let known = Self::ALL.iter().map(|policy| (policy.name(), *policy));
        by_name("policy", name, known)
    }
}

/// What overrides the policy for a flow that already has a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Stickiness {
    /// Nothing.
    #[default]
    None,
}

impl Stickiness {
    /// Every kind of stickiness, in the order in which to present them.
    pub const ALL: &'static [Self] = &[Self::None];

    /// Its name, in kebab case: what [`Display`](fmt::Display) shows and [`FromStr`] reads.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
        }
    }

    /// One line for people who choose.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::None => "the policy decides for every connection or datagram",
        }
    }

    /// Its number in the pinned state and for the kernel program.
    ///
    /// | number | stickiness |
    /// |---|---|
    /// | 0 | `none` |
    /// | 1 | reserved for `flow` |
    /// | 2 | reserved for `quic` |
    pub const fn code(self) -> u32 {
        match self {
            Self::None => 0,
        }
    }

    /// The stickiness with this number; `None` if this version knows none.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|stickiness| stickiness.code() == code)
    }
}

/// Its name in kebab case.
impl fmt::Display for Stickiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Stickiness {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let known = Self::ALL.iter().map(|stickiness| (stickiness.name(), *stickiness));
        by_name("stickiness", name, known)
    }
}

/// A name that stands for no policy, or for no stickiness.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} `{}`{} (known: {})", given.escape_debug(), meant(*nearest), known.join(", "))]
pub struct UnknownName {
    /// What it should have been the name of: "policy".
    what: &'static str,
    given: String,
    nearest: Option<&'static str>,
    known: Vec<&'static str>,
}

impl UnknownName {
    /// The known name that looks most like the given one, if any does.
    pub fn nearest(&self) -> Option<&'static str> {
        self.nearest
    }

    /// Every known name.
    pub fn known(&self) -> &[&'static str] {
        &self.known
    }
}

impl From<UnknownName> for Error {
    fn from(unknown: UnknownName) -> Self {
        Self::new(ErrorKind::Invalid, unknown.to_string())
    }
}

fn meant(nearest: Option<&'static str>) -> String {
    nearest.map(|name| format!(": did you mean `{name}`?")).unwrap_or_default()
}

/// Finds what is called `given` among the `known`.
fn by_name<T: Copy>(
    what: &'static str,
    given: &str,
    known: impl Iterator<Item = (&'static str, T)>,
) -> Result<T, UnknownName> {
    let known: Vec<(&'static str, T)> = known.collect();
    if let Some((_, found)) = known.iter().find(|(name, _)| *name == given) {
        return Ok(*found);
    }
    let known: Vec<&'static str> = known.into_iter().map(|(name, _)| name).collect();
    let lower = given.to_lowercase();
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(name, &lower), *name))
        // Up to a third of the letters wrong is a slip; more is another word.
        .filter(|(distance, name)| distance * 3 <= name.len())
        .min()
        .map(|(_, name)| name);
    Err(UnknownName { what, given: given.into(), nearest, known })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_and_number_leads_back_to_its_policy() {
        for policy in Policy::ALL.iter().copied() {
            assert_eq!(policy.to_string().parse(), Ok(policy));
            assert_eq!(Policy::from_code(policy.code()), Some(policy));
        }
        for stickiness in Stickiness::ALL.iter().copied() {
            assert_eq!(stickiness.to_string().parse(), Ok(stickiness));
            assert_eq!(Stickiness::from_code(stickiness.code()), Some(stickiness));
        }
        assert_eq!([0, 2, 5, 6, 7, u32::MAX].map(Policy::from_code), [None; 6]);
        assert_eq!([1, 2].map(Stickiness::from_code), [None; 2]);
    }

    #[test]
    fn numbers_stay_as_they_are_pinned() {
        assert_eq!(Policy::Hash.code(), 1);
        assert_eq!(Policy::RoundRobin.code(), 3);
        assert_eq!(Policy::Random.code(), 4);
        assert_eq!(Stickiness::None.code(), 0);
    }

    #[test]
    fn a_slip_is_recognised() {
        let error = "round-robbin".parse::<Policy>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown policy `round-robbin`: did you mean `round-robin`? \
             (known: round-robin, hash, random)"
        );
        for (slip, meant) in [
            ("roundrobin", "round-robin"),
            ("ROUND_ROBIN", "round-robin"),
            ("hahs", "hash"),
            ("rnadom", "random"),
            ("Hash", "hash"),
        ] {
            assert_eq!(slip.parse::<Policy>().unwrap_err().nearest(), Some(meant), "{slip}");
        }
    }

    #[test]
    fn another_word_is_not_taken_for_a_slip() {
        for word in ["", "maglev", "least-conn", "x\u{1b}[31m"] {
            let error = word.parse::<Policy>().unwrap_err();
            assert_eq!(error.nearest(), None, "{word}");
            assert!(!error.to_string().contains('\u{1b}'));
        }
        assert_eq!(
            "quick".parse::<Stickiness>().unwrap_err().to_string(),
            "unknown stickiness `quick` (known: none)"
        );
    }

    #[test]
    fn flows_are_hashed_and_turns_are_exact() {
        assert_eq!(Policy::Hash.fill(9), Fill::Maglev { seed: 9 });
        assert_eq!(Policy::RoundRobin.fill(9), Fill::Interleave);
        assert_eq!(Policy::Random.fill(9), Fill::Interleave);
        assert_eq!(Policy::default_for(Protocol::Tcp), Policy::RoundRobin);
        assert_eq!(Policy::default_for(Protocol::Udp), Policy::Hash);
    }
}
