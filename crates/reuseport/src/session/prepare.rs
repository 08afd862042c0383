//! Before anything is touched: the program loaded, the maps made.

use sk_reuseport::programs::SkReuseport;

use crate::balancer::{Attach, Decide};
use crate::group::Group;
use crate::id::Slot;
use crate::policy::Stickiness;
use crate::state::group::GroupState;
use crate::state::host::HostLayer;
use crate::state::layout::{Decider, Header};
use crate::steer::{self, Config, Loaded, Sockets};
use crate::{Error, ErrorKind, Result, object, rights};

/// What a policy's sockets go into.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// The map type made for it.
    Array,
    /// For sockets that are in another program's socket maps.
    Map,
}

/// The program and the maps, nothing of it pinned, attached or filled.
pub(super) struct Prepared {
    pub(super) program: SkReuseport,
    pub(super) state: GroupState,
    /// Why the program does without something, if it does.
    pub(super) lost: Option<Error>,
}

pub(super) fn prepare(
    group: &Group,
    attach: &Attach,
    decide: &Decide,
    kind: Kind,
    layer: &HostLayer,
) -> Result<Prepared> {
    let denied = |error| match kind {
        Kind::Array => rights::failed(
            &format!("cannot make the maps for {}", group.key),
            error,
            rights::LOADING,
        ),
        Kind::Map => {
            let why = "which has sockets in another program's";
            let tried = format!("cannot make a socket map for {}, {why}", group.key);
            rights::failed(&tried, error, rights::SOCKET_MAPS)
        }
    };
    let seed = seed()?;
    let (loaded, sockets, maps, decider) = match decide {
        Decide::Policy(policy) => {
            policy.check(group.key.protocol)?;
            let capacity = capacity(group, attach)?;
            let sockets = match kind {
                Kind::Array => Sockets::array(capacity),
                Kind::Map => Sockets::map(capacity),
            };
            let sockets = sockets.map_err(denied)?;
            let config = Config { policy: *policy, seed, protocol: group.key.protocol };
            let (loaded, maps) = steer::load(config, &sockets, layer.members_map())?;
            let decider = Decider::Policy { policy: *policy, stickiness: Stickiness::default() };
            (loaded, sockets, Some(maps), decider)
        }
        Decide::Object(spec) => {
            let (program, sockets) = object::load(spec)?;
            (Loaded { program, lost: None }, sockets, None, Decider::Object)
        }
    };
    let mut header = Header::new(&group.key, decider, sockets.capacity(), seed);
    header.sockets = u8::from(matches!(sockets, Sockets::Map(_)));
    let Loaded { program, lost } = loaded;
    header.program_id = program_id(&program)?;
    header.set_reads_queues(lost.is_none());
    let state = GroupState::create(&header, sockets, maps).map_err(denied)?;
    Ok(Prepared { program, state, lost })
}

/// Room for four times the members, as a server that replaces all its workers needs twice.
fn capacity(group: &Group, attach: &Attach) -> Result<u32> {
    const SMALLEST: u32 = 64;

    let members = u32::try_from(group.members.len()).unwrap_or(u32::MAX);
    let roomy = members.saturating_mul(4).checked_next_power_of_two().unwrap_or(Slot::LIMIT);
    let capacity = attach.slots.unwrap_or(roomy.clamp(SMALLEST, Slot::LIMIT));
    if !(1..=Slot::LIMIT).contains(&capacity) {
        return Err(Error::new(ErrorKind::Invalid, format!("cannot make {capacity} slots"))
            .remedy(format!("a group has between 1 and {} slots", Slot::LIMIT)));
    }
    Ok(capacity)
}

/// A secret, so that no remote sender can tell which member its flows go to.
fn seed() -> Result<u64> {
    let mut bytes = [0; 8];
    let flags = rustix::rand::GetRandomFlags::empty();
    rustix::rand::getrandom(&mut bytes[..], flags).map_err(|error| {
        Error::new(ErrorKind::System, "cannot draw a random number").because(error)
    })?;
    Ok(u64::from_ne_bytes(bytes))
}

pub(super) fn program_id(program: &SkReuseport) -> Result<u32> {
    let info = program.info().map_err(|error| {
        Error::new(ErrorKind::System, "cannot ask for the program's id").because(error)
    })?;
    Ok(info.id())
}
