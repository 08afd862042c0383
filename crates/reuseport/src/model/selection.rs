//! Which program decides for a group, and how it selects.

use std::path::PathBuf;

use super::group::Protocol;
use super::policy::Policy;
use super::setting::{Place, Setting, Value};
use super::sticky::Stickiness;

/// How this tool's program selects a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Selection {
    /// What picks among the active members.
    pub policy: Policy,
    /// What overrides the policy for a flow that already has a member.
    pub sticky: Stickiness,
}

impl Selection {
    /// With this [stickiness](Self::sticky).
    #[must_use]
    pub const fn sticky(self, sticky: Stickiness) -> Self {
        Self { sticky, ..self }
    }
}

/// The policy, without stickiness.
impl From<Policy> for Selection {
    fn from(policy: Policy) -> Self {
        Self { policy, sticky: Stickiness::None }
    }
}

/// A program that this tool attaches: its own, or the user's.
///
/// A request names the user's object (`Program<ObjectSpec>`); the pinned state only records that
/// there is one (`Program`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Program<O = ()> {
    /// This tool's program.
    Selection(Selection),
    /// The user's own eBPF program (`attach --object`).
    Object(O),
}

impl<O> Program<O> {
    /// The program without what names the user's object.
    pub fn kind(&self) -> Program {
        match self {
            Self::Selection(selection) => Program::Selection(*selection),
            Self::Object(_) => Program::Object(()),
        }
    }

    /// The selection of this tool's program; `None` for the user's own.
    pub fn selection(&self) -> Option<Selection> {
        match self {
            Self::Selection(selection) => Some(*selection),
            Self::Object(_) => None,
        }
    }

    /// Whether it compares the members' open connections, which then have to be counted. What a user's own
    /// program compares, it counts itself.
    pub(crate) fn counts_open(&self, protocol: Protocol) -> bool {
        self.selection().is_some_and(|selection| selection.policy.counts_open(protocol))
    }
}

impl<O> From<Selection> for Program<O> {
    fn from(selection: Selection) -> Self {
        Self::Selection(selection)
    }
}

impl<O> From<Policy> for Program<O> {
    fn from(policy: Policy) -> Self {
        Self::Selection(policy.into())
    }
}

impl From<ObjectSpec> for Program<ObjectSpec> {
    fn from(object: ObjectSpec) -> Self {
        Self::Object(object)
    }
}

/// A user's own eBPF program: which program of which file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ObjectSpec {
    /// The BPF object: an ELF file, as clang or aya's linker write it.
    pub path: PathBuf,
    /// The program's function. `None`: the only program of the object that selects sockets.
    pub program: Option<String>,
    /// The map that takes the group's sockets, by index from 0 on. `None`: the only socket array that the
    /// program uses, or its only socket map or socket hash if it uses no array.
    pub map: Option<String>,
    /// Values for its variables and for elements of its arrays.
    pub settings: Vec<Setting>,
}

impl ObjectSpec {
    /// The only program of this object, with its only map for sockets.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), program: None, map: None, settings: Vec::new() }
    }

    /// This [program](Self::program).
    #[must_use]
    pub fn program(self, program: impl Into<String>) -> Self {
        Self { program: Some(program.into()), ..self }
    }

    /// With this [map](Self::map) for sockets.
    #[must_use]
    pub fn map(self, map: impl Into<String>) -> Self {
        Self { map: Some(map.into()), ..self }
    }

    /// With this value for a global variable, or for an element: `set("limit", 3)`, `set(("limits", 2), 3)`,
    /// `set("workers", Value::Members)`.
    #[must_use]
    pub fn set(mut self, place: impl Into<Place>, value: impl Into<Value>) -> Self {
        self.settings.push(Setting { place: place.into(), value: value.into() });
        self
    }
}

/// Which program decides for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Steering {
    /// None: the kernel's own hash decides.
    KernelHash,
    /// One that this tool attached.
    Ours(Program),
    /// One that this tool attached, whose state is pinned elsewhere or not at all: another bpffs, or
    /// pins that were removed. What it decides by; `None` if a newer version attached it. Recognised with
    /// CAP_SYS_ADMIN only; without it, such a program is [`Foreign`](Self::Foreign).
    Elsewhere(Option<Program>),
    /// The same, and no socket of the group is in its maps, as [`detach`](crate::detach) leaves a program that
    /// it cannot detach. A policy then leaves every choice to the kernel's hash; what a user's own program
    /// does is not known.
    Emptied(Option<Program>),
    /// One that another owner attached.
    Foreign,
}

impl Steering {
    /// How this tool's program selects; `None` if another one decides.
    pub fn selection(&self) -> Option<Selection> {
        match self {
            Self::Ours(program) => program.selection(),
            Self::KernelHash | Self::Elsewhere(_) | Self::Emptied(_) | Self::Foreign => None,
        }
    }

    /// The program that this tool attached, wherever its state is; `None` for another owner's, and for one of a
    /// newer version.
    pub fn program(&self) -> Option<Program> {
        match *self {
            Self::Ours(program) => Some(program),
            Self::Elsewhere(program) | Self::Emptied(program) => program,
            Self::KernelHash | Self::Foreign => None,
        }
    }

    /// The policy of this tool's program; `None` if another one decides.
    pub fn policy(&self) -> Option<Policy> {
        self.selection().map(|selection| selection.policy)
    }

    /// Whether this tool attached the program.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Ours(_))
    }
}
