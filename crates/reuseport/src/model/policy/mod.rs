//! Policies: how a member is picked among the active ones.
//!
//! A policy is one file here and one header in `bpf/policy/`. Its file defines a `Rule`: number,
//! name, help, parameters, protocols, and how it fills the table. To add one, write the file, and add
//! its `mod`, its variant of [`Policy`] and its line in `LIST`.

mod cpu;
mod hash;
mod least_loaded;
mod payload;
mod random;
mod round_robin;
mod rule;
mod source;

use std::fmt;
use std::mem::discriminant;
use std::str::FromStr;

use super::group::Protocol;
use super::table::Table;
use crate::error::{Error, ErrorKind, Result};
use rule::Rule;

pub use super::id::{MaxShare, StaleAfter};
pub use super::name::UnknownName;
pub use cpu::CpuList;
pub(crate) use cpu::parse_list;
pub use least_loaded::{LeastLoaded, LoadTerms};
pub use payload::Payload;
pub use rule::BadOption;
pub(crate) use rule::{Global, Members};

/// How a member is picked among the active ones.
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
    /// The member with the fewest connections that makes progress, see [`LeastLoaded`].
    LeastLoaded(LeastLoaded),
    /// One member after the other, exactly in proportion to their weights.
    RoundRobin,
    /// By a keyed hash of addresses and ports, over a Maglev table: a member that comes or goes moves
    /// about 1/n of the flows.
    Hash,
    /// As [`Hash`](Self::Hash), but by the source address alone: all connections from one address
    /// reach the same member.
    Source,
    /// At random, in proportion to their weights.
    Random,
    /// The member for the CPU that received the packet.
    Cpu,
    /// As [`Hash`](Self::Hash), but by some of a datagram's own bytes. UDP only.
    Payload(Payload),
}

/// Every policy, in display order.
const LIST: &[Entry] = &[
    Entry::with(least_loaded::RULE, Policy::LeastLoaded(LeastLoaded::DEFAULT), |packed| {
        LeastLoaded::unpack(packed).map(Policy::LeastLoaded)
    }),
    Entry::plain(round_robin::RULE, Policy::RoundRobin),
    Entry::plain(hash::RULE, Policy::Hash),
    Entry::plain(source::RULE, Policy::Source),
    Entry::plain(random::RULE, Policy::Random),
    Entry::plain(cpu::RULE, Policy::Cpu),
    Entry::with(payload::RULE, Policy::Payload(Payload::FIRST_BYTE), |packed| {
        Payload::unpack(packed).map(Policy::Payload)
    }),
];

const fn is_all(entry: &Entry) -> bool {
    entry.rule.written.is_none()
}

const ALL: [Policy; {
    let (mut count, mut index) = (0, 0);
    while index < LIST.len() {
        count += is_all(&LIST[index]) as usize;
        index += 1;
    }
    count
}] = {
    let mut all = [Policy::Hash; _];
    let (mut count, mut index) = (0, 0);
    while index < LIST.len() {
        if is_all(&LIST[index]) {
            all[count] = LIST[index].default;
            count += 1;
        }
        index += 1;
    }
    all
};

/// A policy's rule, and how to make the policy.
struct Entry {
    rule: Rule,
    /// With default parameters.
    default: Policy,
    /// From packed parameters; `None` for a policy without any.
    unpack: Option<fn(u64) -> Option<Policy>>,
}

impl Entry {
    const fn plain(rule: Rule, policy: Policy) -> Self {
        Self { rule, default: policy, unpack: None }
    }

    const fn with(rule: Rule, default: Policy, unpack: fn(u64) -> Option<Policy>) -> Self {
        Self { rule, default, unpack: Some(unpack) }
    }

    fn policy(&self, packed: u64) -> Option<Policy> {
        self.unpack.map_or(Some(self.default), |unpack| unpack(packed))
    }

    /// What users write for it.
    fn usage(&self) -> &'static str {
        self.rule.written.as_ref().map_or(self.rule.name, |written| written.usage)
    }
}

impl Policy {
    /// Policies without written parameters, in display order; options have their defaults.
    pub const ALL: &'static [Self] = &ALL;

    /// What users can write, with a line of help: `round-robin`, `payload:OFFSET:LENGTH`.
    pub fn choices() -> impl Iterator<Item = (&'static str, &'static str)> {
        LIST.iter().map(|entry| (entry.usage(), entry.rule.help))
    }

    /// The policy of a group for which the user names none: least-loaded for TCP; hash for UDP, because
    /// the datagrams of a flow belong to the member that knows the flow.
    pub const fn default_for(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::LeastLoaded(LeastLoaded::DEFAULT),
            Protocol::Udp => Self::Hash,
        }
    }

    fn rule(self) -> &'static Rule {
        let is_it = |entry: &&Entry| discriminant(&entry.default) == discriminant(&self);
        // A test proves that each policy is on the list.
        &LIST.iter().find(is_it).unwrap_or(&LIST[0]).rule
    }

    /// The name in kebab case, without parameters.
    pub fn name(self) -> &'static str {
        self.rule().name
    }

    /// One line of help.
    pub fn help(self) -> &'static str {
        self.rule().help
    }

    /// The effect if the program cannot read the members' queues: a clause, such as "it compares open
    /// connections only".
    pub fn without_queues(self) -> &'static str {
        (self.rule().without_queues)(self.parameters())
    }

    /// The number in the pinned state and for the kernel program (`enum policy` in
    /// `bpf/wire/config.h`). 0 is no policy.
    pub(crate) fn code(self) -> u32 {
        self.rule().code
    }

    /// The parameters as the pinned state has them; 0 for a policy without any.
    pub(crate) const fn parameters(self) -> u64 {
        match self {
            Self::LeastLoaded(options) => options.pack(),
            Self::Payload(payload) => payload.pack(),
            _ => 0,
        }
    }

    /// The policy with this number and these parameters; `None` if this version knows none.
    pub(crate) fn from_code(code: u32, parameters: u64) -> Option<Self> {
        LIST.iter().find(|entry| entry.rule.code == code)?.policy(parameters)
    }

    /// Globals of the kernel program that this policy sets.
    pub(crate) fn globals(self) -> Vec<Global> {
        (self.rule().globals)(self.parameters())
    }

    /// Whether each member needs a CPU.
    pub(crate) fn places_on_cpus(self) -> bool {
        self.rule().places_on_cpus
    }

    /// Whether it compares open connections, which then have to be counted. UDP has none.
    pub(crate) fn counts_open(self, protocol: Protocol) -> bool {
        protocol == Protocol::Tcp && (self.rule().compares_open)(self.parameters())
    }

    /// Fills the table.
    pub(crate) fn table(self, members: &Members<'_>) -> Table {
        (self.rule().table)(self.parameters(), members)
    }

    /// Refuses a protocol that the policy does not work for.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`].
    pub(crate) fn check(self, protocol: Protocol) -> Result<()> {
        (self.rule().check)(protocol)
    }
}

/// The name in kebab case, with the parameters that are part of it: `round-robin`, `payload:0:8`.
/// `{:#}` adds all others: `least-loaded (queue,open; max share 2)`.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rule, packed) = (self.rule(), self.parameters());
        if let Some(written) = &rule.written {
            return f.pad(&format!("{}:{}", rule.name, (written.show)(packed)));
        }
        match (rule.details)(packed) {
            details if f.alternate() && !details.is_empty() => {
                f.pad(&format!("{} ({details})", rule.name))
            }
            _ => f.pad(rule.name),
        }
    }
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        let unknown = || UnknownName::new("policy", text, Self::choices().map(|c| c.0).collect());
        let (name, written) = match text.split_once(':') {
            Some((name, written)) => (name, Some(written)),
            None => (text, None),
        };
        let entry = LIST.iter().find(|entry| entry.rule.name == name).ok_or_else(unknown)?;
        match (&entry.rule.written, written) {
            (Some(form), written) => {
                Ok(entry.policy((form.parse)(written)?).ok_or_else(unknown)?)
            }
            (None, None) => Ok(entry.default),
            (None, Some(_)) => Err(unknown().into()),
        }
    }
}

/// A text that names no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnknownPolicy {
    /// No policy has that name.
    #[error(transparent)]
    Name(#[from] UnknownName),
    /// The policy exists and does not accept these parameters.
    #[error(transparent)]
    Parameters(#[from] BadOption),
}

impl UnknownPolicy {
    /// The known name that is most similar to the given one, if any is similar.
    pub fn nearest(&self) -> Option<&'static str> {
        match self {
            Self::Name(unknown) => unknown.nearest(),
            Self::Parameters(_) => None,
        }
    }
}

impl From<UnknownPolicy> for Error {
    fn from(unknown: UnknownPolicy) -> Self {
        Self::new(ErrorKind::Invalid, unknown.to_string())
    }
}

#[cfg(test)]
mod tests;
