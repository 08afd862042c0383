//! How members are picked: policies and stickiness, their names and their numbers.
//!
//! Names are what users type and read; numbers are what the kernel program and the pinned state
//! hold. Neither ever changes its meaning. What a policy *does* is in the kernel program and, as far
//! as the table goes, in [`table`](crate::table).

mod options;

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind};
use crate::group::Protocol;
use crate::table::Fill;

pub use options::{BadOption, LeastLoaded, LoadTerms, MaxShare, Payload, StaleAfter};

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
    /// The member with the shortest queue at this moment, see [`LeastLoaded`].
    LeastLoaded(LeastLoaded),
    /// One after the other, in proportion to their weights, exactly.
    RoundRobin,
    /// Each connection or flow by a keyed hash of its addresses and ports, over a Maglev table:
    /// a member that comes or goes moves about 1/n of the flows.
    Hash,
    /// As [`Hash`](Self::Hash), but by the source address alone: whoever comes from one address meets
    /// the same member.
    Source,
    /// At random, in proportion to their weights.
    Random,
    /// The member for the CPU that received the packet.
    Cpu,
    /// As [`Hash`](Self::Hash), but by some of a datagram's own bytes. UDP only.
    Payload(Payload),
}

impl Policy {
    /// Every policy that does without a number of the user's, in the order in which to present them.
    pub const ALL: &'static [Self] = &[
        Self::LeastLoaded(LeastLoaded::DEFAULT),
        Self::RoundRobin,
        Self::Hash,
        Self::Source,
        Self::Random,
        Self::Cpu,
    ];

    /// What a group gets whose user names no policy.
    ///
    /// TCP: least-loaded, because nobody should have to know the others to be well served. UDP: hash,
    /// because a flow's datagrams belong to the member that knows the flow.
    pub const fn default_for(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::LeastLoaded(LeastLoaded::DEFAULT),
            Protocol::Udp => Self::Hash,
        }
    }

    /// Its name, in kebab case: what [`Display`](fmt::Display) shows and [`FromStr`] reads. A policy
    /// with numbers has them behind its name there.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LeastLoaded(_) => "least-loaded",
            Self::RoundRobin => "round-robin",
            Self::Hash => "hash",
            Self::Source => "source",
            Self::Random => "random",
            Self::Cpu => "cpu",
            Self::Payload(_) => "payload",
        }
    }

    /// One line for people who choose among policies.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::LeastLoaded(_) => "the shortest queue; open connections break ties",
            Self::RoundRobin => "one after the other, exactly in proportion to weights",
            Self::Hash => {
                "by a hash of addresses and ports; who comes or goes moves few other flows"
            }
            Self::Source => "by a hash of the source address: a client meets the same member",
            Self::Random => "at random, in proportion to weights",
            Self::Cpu => "the member for the CPU that received the packet",
            Self::Payload(_) => "by a hash of some of the datagram's bytes (UDP)",
        }
    }

    /// Its number in the pinned state and for the kernel program. 0 is no policy.
    ///
    /// | number | policy |
    /// |---|---|
    /// | 1 | `hash` |
    /// | 2 | `source` |
    /// | 3 | `round-robin` |
    /// | 4 | `random` |
    /// | 5 | `cpu` |
    /// | 6 | `least-loaded` |
    /// | 7 | `payload` |
    pub const fn code(self) -> u32 {
        match self {
            Self::Hash => 1,
            Self::Source => 2,
            Self::RoundRobin => 3,
            Self::Random => 4,
            Self::Cpu => 5,
            Self::LeastLoaded(_) => 6,
            Self::Payload(_) => 7,
        }
    }

    /// What the pinned state holds of it beside the number; 0 for most.
    pub(crate) const fn parameters(self) -> u64 {
        match self {
            Self::LeastLoaded(options) => options.pack(),
            Self::Payload(payload) => payload.pack(),
            _ => 0,
        }
    }

    /// The policy with this number and these parameters; `None` if this version knows none.
    pub(crate) fn from_code(code: u32, parameters: u64) -> Option<Self> {
        Some(match code {
            1 => Self::Hash,
            2 => Self::Source,
            3 => Self::RoundRobin,
            4 => Self::Random,
            5 => Self::Cpu,
            6 => Self::LeastLoaded(LeastLoaded::unpack(parameters)?),
            7 => Self::Payload(Payload::unpack(parameters)?),
            _ => return None,
        })
    }

    /// How the table is filled for it.
    ///
    /// Keys that stand for flows take Maglev's fill with this seed. The others take the interleave,
    /// whose proportions are exact: a cursor or a random number stands for no flow that could move.
    pub const fn fill(self, seed: u64) -> Fill {
        match self {
            Self::Hash | Self::Source | Self::Payload(_) => Fill::Maglev { seed },
            Self::LeastLoaded(_) | Self::RoundRobin | Self::Random | Self::Cpu => Fill::Interleave,
        }
    }

    /// Refuses what the protocol cannot have.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`].
    pub(crate) fn check(self, protocol: Protocol) -> Result<(), Error> {
        match (self, protocol) {
            (Self::Payload(_), Protocol::Tcp) => {
                Err(Error::new(ErrorKind::Invalid, format!("cannot use policy `{self}` for TCP"))
                    .because("a member is chosen when a SYN arrives, which has no payload")
                    .remedy("`hash` or `source` keep a client's connections together"))
            }
            _ => Ok(()),
        }
    }
}

/// Its name in kebab case, with its numbers: `round-robin`, `payload:0:8`.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload(payload) => f.pad(&format!("{}:{payload}", self.name())),
            _ => f.pad(self.name()),
        }
    }
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        if let Some(numbers) = name.strip_prefix("payload:") {
            return Ok(Self::Payload(numbers.parse()?));
        }
        if name == "payload" {
            return Err(BadOption::payload(name).into());
        }
        let known = Self::ALL.iter().map(|policy| (policy.name(), *policy));
        // Never found by this name: it stands there to be suggested.
        let payload = Self::Payload(Payload::FIRST_BYTE);
        Ok(by_name("policy", name, known.chain([("payload:OFFSET:LENGTH", payload)]))?)
    }
}

/// What names no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownPolicy {
    /// There is none with that name.
    #[error(transparent)]
    Name(#[from] UnknownName),
    /// There is, but not with such numbers.
    #[error(transparent)]
    Numbers(#[from] BadOption),
}

impl UnknownPolicy {
    /// The known name that looks most like the given one, if any does.
    pub fn nearest(&self) -> Option<&'static str> {
        match self {
            Self::Name(unknown) => unknown.nearest(),
            Self::Numbers(_) => None,
        }
    }
}

impl From<UnknownPolicy> for Error {
    fn from(unknown: UnknownPolicy) -> Self {
        Self::new(ErrorKind::Invalid, unknown.to_string())
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
    // A slip is in the name; numbers stand behind it.
    let word = |name: &'static str| name.split(':').next().unwrap_or(name);
    let lower = lower.split(':').next().unwrap_or_default();
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(word(name), lower), *name))
        // Up to a third of the letters wrong is a slip; more is another word.
        .filter(|(distance, name)| distance * 3 <= word(name).len())
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
            assert_eq!(Policy::from_code(policy.code(), policy.parameters()), Some(policy));
        }
        let payload = "payload:4:8".parse::<Policy>().unwrap();
        assert_eq!(payload.to_string(), "payload:4:8");
        assert_eq!(Policy::from_code(payload.code(), payload.parameters()), Some(payload));
        for stickiness in Stickiness::ALL.iter().copied() {
            assert_eq!(stickiness.to_string().parse(), Ok(stickiness));
            assert_eq!(Stickiness::from_code(stickiness.code()), Some(stickiness));
        }
        assert_eq!([0, 6, 7, 8, u32::MAX].map(|code| Policy::from_code(code, 0)), [None; 5]);
        assert_eq!([1, 2].map(Stickiness::from_code), [None; 2]);
    }

    #[test]
    fn numbers_stay_as_they_are_pinned() {
        let codes: Vec<u32> = Policy::ALL.iter().map(|policy| policy.code()).collect();
        assert_eq!(codes, [6, 3, 1, 2, 4, 5]);
        assert_eq!("payload:0:1".parse::<Policy>().unwrap().code(), 7);
        assert_eq!(Stickiness::None.code(), 0);
    }

    #[test]
    fn a_slip_is_recognised() {
        let error = "round-robbin".parse::<Policy>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown policy `round-robbin`: did you mean `round-robin`? \
             (known: least-loaded, round-robin, hash, source, random, cpu, \
             payload:OFFSET:LENGTH)"
        );
        for (slip, meant) in [
            ("roundrobin", "round-robin"),
            ("ROUND_ROBIN", "round-robin"),
            ("hahs", "hash"),
            ("rnadom", "random"),
            ("Hash", "hash"),
            ("paylod:0:8", "payload:OFFSET:LENGTH"),
        ] {
            assert_eq!(slip.parse::<Policy>().unwrap_err().nearest(), Some(meant), "{slip}");
        }
    }

    #[test]
    fn another_word_is_not_taken_for_a_slip() {
        for word in ["", "maglev", "leastconn", "x\u{1b}[31m"] {
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
        assert_eq!(Policy::Source.fill(9), Fill::Maglev { seed: 9 });
        assert_eq!(Policy::default_for(Protocol::Tcp).name(), "least-loaded");
        assert_eq!(Policy::default_for(Protocol::Udp), Policy::Hash);
    }
}
