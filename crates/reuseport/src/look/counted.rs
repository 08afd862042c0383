//! What a watcher asks often and of many groups: whether open connections are counted, and which members are held.

use crate::error::Result;
use crate::model::group::Group;
use crate::model::held::{self, HeldSocket};
use crate::pins::bpffs::Root;
use crate::pins::group::GroupState;
use crate::pins::host_layer::HostLayer;
use crate::pins::place::Place;
use crate::wire::setup::Setup;

/// In which host-wide layer the connections of a group have to be counted: as its program says, which never changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counting {
    /// The program; `None`: none decides, or it could not be read.
    program: Option<u32>,
    /// `None`: they need not be counted, or it is not known.
    setup: Option<Setup>,
}

impl Counting {
    pub(crate) fn of(place: &Place, group: &Group) -> Self {
        let setup = || -> Result<Option<Setup>> {
            let Some(root) = Root::existing(place)? else { return Ok(None) };
            let state = GroupState::of(&root, group)?.filter(GroupState::counts_open);
            Ok(state.map(|state| state.instance.setup))
        };
        match setup() {
            Ok(setup) => Self { program: group.attached_id(), setup },
            // To be read again.
            Err(_) => Self { program: None, setup: None },
        }
    }

    /// Whether this is known of the group as it is.
    pub(crate) fn is_of(&self, group: &Group) -> bool {
        self.program.is_some() && self.program == group.attached_id()
    }

    /// Whether they are counted, or need not or cannot be. `layer`: the [present one](layer).
    pub(crate) fn is_in(&self, layer: Option<u32>) -> bool {
        self.setup.is_none_or(|setup| layer.is_some_and(|layer| setup.is_in_layer(layer)))
    }
}

/// The host-wide layer, by its identity, if it counts.
pub(crate) fn layer(place: &Place) -> Option<u32> {
    let root = Root::existing(place).ok().flatten()?;
    HostLayer::counting(&root)
}

/// The members of the group that are on standby until a thread waits for them; `None` if its state cannot be read.
pub(crate) fn held(place: &Place, group: &Group) -> Option<Vec<HeldSocket>> {
    let Some(root) = Root::existing(place).ok()? else { return Some(Vec::new()) };
    let state = GroupState::of(&root, group).ok()?;
    Some(state.map_or(Vec::new(), |state| held::sockets(&state.instance.roster, group)))
}
