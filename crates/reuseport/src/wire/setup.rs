//! The setup of a program: what it decides by, and in which layer its group's connections are counted. Pinned
//! with the program, bound to it, and never changed; the kernel program does not read it.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::model::policy::Policy;
use crate::model::selection::{Program, Selection};
use crate::model::sticky::Stickiness;

/// A setup. `reserved` bytes are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Setup {
    /// 1: this tool's program, 2: the user's own.
    kind: u32,
    policy: u32,
    policy_parameters: u64,
    sticky: u32,
    /// 1: the program cannot read queues.
    without_queues: u32,
    /// The id of the map in which the host-wide layer counts this group's connections; [`NO_LAYER`]: they are not
    /// counted; 0: of a version that did not note it.
    host_layer: u32,
    /// 1: the program knows that a table may have members on standby.
    knows_standby: u32,
    reserved: [u32; 8],
}

const _: () = assert!(size_of::<Setup>() == 64);

/// In place of the id of a host-wide layer.
const NO_LAYER: u32 = u32::MAX;

impl Setup {
    /// `host_layer` is the id of the layer in which connections are counted; `None`: they are not.
    pub(crate) fn new(program: Program, reads_queues: bool, host_layer: Option<u32>) -> Self {
        let (kind, policy, policy_parameters, sticky) = match program {
            Program::Selection(Selection { policy, sticky }) => {
                (1, policy.code(), policy.parameters(), sticky.code())
            }
            Program::Object(()) => (2, 0, 0, 0),
        };
        let (without_queues, layer) = (u32::from(!reads_queues), host_layer.unwrap_or(NO_LAYER));
        let setup =
            Self::from_codes([kind, policy, sticky], policy_parameters, without_queues, layer);
        Self { knows_standby: 1, ..setup }
    }

    /// The same from its numbers, which an earlier version wrote into a group's header.
    pub(super) fn from_codes(
        [kind, policy, sticky]: [u32; 3],
        policy_parameters: u64,
        without_queues: u32,
        host_layer: u32,
    ) -> Self {
        Self {
            kind,
            policy,
            policy_parameters,
            sticky,
            without_queues,
            host_layer,
            knows_standby: 0,
            reserved: [0; 8],
        }
    }

    /// What decides; `None` for a number that this version does not know.
    pub(crate) fn program(&self) -> Option<Program> {
        match self.kind {
            1 => Some(Program::Selection(Selection {
                policy: Policy::from_code(self.policy, self.policy_parameters)?,
                sticky: Stickiness::from_code(self.sticky)?,
            })),
            2 => Some(Program::Object(())),
            _ => None,
        }
    }

    /// Whether the program can read queues.
    pub(crate) fn reads_queues(&self) -> bool {
        self.without_queues == 0
    }

    /// Whether an earlier version loaded the program, which would misread a table that has members on standby.
    pub(crate) fn misreads_standby(&self) -> bool {
        self.kind == 1 && self.knows_standby == 0
    }

    /// Whether the group's connections are counted, in whichever host-wide layer.
    pub(crate) fn is_counted(&self) -> bool {
        self.host_layer != NO_LAYER
    }

    /// Whether they are counted in the layer with this id.
    pub(crate) fn is_in_layer(&self, id: u32) -> bool {
        self.is_counted() && (self.host_layer == 0 || self.host_layer == id)
    }

    /// Whether both name one layer.
    pub(crate) fn same_layer(&self, other: &Self) -> bool {
        self.host_layer == other.host_layer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setup_converts_back_to_its_program() {
        for program in [Policy::RoundRobin.into(), Policy::Random.into(), Program::Object(())] {
            let setup = Setup::new(program, false, Some(5));
            assert_eq!(setup.program(), Some(program));
            assert!(!setup.reads_queues() && setup.is_in_layer(5) && !setup.is_in_layer(6));
            assert!(setup.is_counted() && !setup.misreads_standby());
            let setup = Setup::new(program, true, None);
            assert!(setup.reads_queues() && !setup.is_counted() && !setup.is_in_layer(5));
        }
    }

    #[test]
    fn a_program_that_an_earlier_version_loaded_misreads_members_on_standby() {
        let selection = Setup { knows_standby: 0, ..Setup::new(Policy::Random.into(), true, None) };
        assert!(selection.misreads_standby());
        let own = Setup { knows_standby: 0, ..Setup::new(Program::Object(()), true, None) };
        assert!(!own.misreads_standby(), "it reads no table");
    }

    #[test]
    fn unknown_bytes_have_no_program() {
        assert_eq!(Setup::read_from_bytes(&[0xa5; 64]).unwrap().program(), None);
    }
}
