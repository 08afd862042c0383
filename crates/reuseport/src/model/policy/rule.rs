//! What a policy defines: one [`Rule`] in each policy's file.

use crate::error::Result;
use crate::model::group::Protocol;
use crate::model::id::{MaxShare, Slot};
use crate::model::table::{Fill, Share, Table, Topology};

/// A policy's definition. Functions get the policy's parameters packed, as the pinned state has them.
pub(super) struct Rule {
    /// The number in the pinned state and for the kernel program. It never changes its meaning; 0 is
    /// no policy.
    pub(super) code: u32,
    /// The name that users type and read, in kebab case.
    pub(super) name: &'static str,
    /// One line of help.
    pub(super) help: &'static str,
    /// The effect if the program cannot read queues: a clause.
    pub(super) without_queues: fn(u64) -> &'static str,
    /// The parameters that are part of the name.
    pub(super) written: Option<Written>,
    /// Parameters to show in parentheses after the name; empty: none.
    pub(super) details: fn(u64) -> String,
    /// Refuses a protocol that the policy does not work for.
    pub(super) check: fn(Protocol) -> Result<()>,
    /// Globals of the kernel program (`bpf/wire/config.h`) that differ from their defaults.
    pub(super) globals: fn(u64) -> Vec<Global>,
    /// Whether each member needs a CPU.
    pub(super) places_on_cpus: bool,
    /// Whether it compares the members' open connections. Only TCP has any.
    pub(super) compares_open: fn(u64) -> bool,
    /// Fills the table.
    pub(super) table: fn(u64, &Members<'_>) -> Table,
}

impl Rule {
    /// A policy without parameters, for both protocols.
    pub(super) const fn new(
        code: u32,
        name: &'static str,
        help: &'static str,
        table: fn(u64, &Members<'_>) -> Table,
    ) -> Self {
        Self {
            code,
            name,
            help,
            without_queues: |_| "members with full queues are not skipped",
            written: None,
            details: |_| String::new(),
            check: |_| Ok(()),
            globals: |_| Vec::new(),
            places_on_cpus: false,
            compares_open: |_| false,
            table,
        }
    }
}

/// Parameters that are part of a policy's name: `payload:OFFSET:LENGTH`.
pub(super) struct Written {
    /// The name with placeholders.
    pub(super) usage: &'static str,
    /// Packs the text after the first colon; `None`: there was no colon.
    pub(super) parse: fn(Option<&str>) -> Result<u64, BadOption>,
    /// The text after the first colon.
    pub(super) show: fn(u64) -> String,
}

/// A global of the kernel program and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Global {
    U32(&'static str, u32),
    U64(&'static str, u64),
}

/// A group's members, for the functions that fill a table.
pub(crate) struct Members<'a> {
    pub(crate) shares: &'a [Share],
    /// The group's secret, which keys Maglev's permutations.
    pub(crate) seed: u64,
    /// The group's slots.
    pub(crate) capacity: u32,
    /// A member's index in the host-wide layer; `None`: it has none.
    pub(crate) host: &'a dyn Fn(Slot) -> Option<u16>,
    /// A member's CPU; `None`: it has none.
    pub(crate) cpu: &'a dyn Fn(Slot) -> Option<u16>,
    /// The host's CPUs.
    pub(crate) topology: &'a dyn Fn() -> Topology,
}

impl Members<'_> {
    /// For keys that stand for flows: a member that comes or goes moves few of them.
    pub(super) fn by_flow(&self) -> Table {
        self.filled(Fill::Maglev { seed: self.seed }, MaxShare::DEFAULT)
    }

    /// For keys that count or are random: exact proportions.
    pub(super) fn by_turn(&self) -> Table {
        self.by_turn_with(MaxShare::DEFAULT)
    }

    /// The same, with this limit on each member's share where members are compared.
    pub(super) fn by_turn_with(&self, max_share: MaxShare) -> Table {
        self.filled(Fill::Interleave, max_share)
    }

    /// For keys that are the number of a CPU.
    pub(super) fn by_cpu(&self) -> Table {
        self.by_turn().by_cpu(self.capacity, &(self.topology)(), self.cpu)
    }

    /// Every table has the candidates of least-loaded: while the policy changes, the other policy's
    /// program reads this table.
    fn filled(&self, fill: Fill, max_share: MaxShare) -> Table {
        Table::build(self.shares, fill, self.capacity).comparing(self.shares, max_share, self.host)
    }
}

/// An option that a policy does not accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a valid {what}: give {takes}", given.escape_debug())]
pub struct BadOption {
    what: &'static str,
    given: String,
    takes: &'static str,
}

impl BadOption {
    pub(super) fn new(what: &'static str, given: &str, takes: &'static str) -> Self {
        Self { what, given: given.to_owned(), takes }
    }
}
