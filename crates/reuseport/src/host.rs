//! The whole host: every group, and what this tool knows of it.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::net::sockopt::socket_cookie;

use crate::Result;
use crate::group::{Group, GroupKey};
use crate::id::{Cookie, Netns, Slot};
use crate::observe::Observer;
use crate::policy::Policy;
use crate::spec::GroupSpec;
use crate::state::bpffs::Root;
use crate::state::counters;
use crate::state::group::GroupState;
use crate::state::host::HostLayer;
use crate::state::layout::{Decider, SlotRecord};
use crate::status::{Enrolment, GroupStatus, MemberStatus, Steering};
use crate::steer::Occupant;
use crate::{Error, ErrorKind};

/// A view of the whole host. Looking changes nothing.
///
/// # Example
///
/// ```no_run
/// let host = reuseport::Host::open()?;
/// for status in host.statuses()? {
///     println!("{} {:?}", status.group.key, status.steering);
/// }
/// # Ok::<(), reuseport::Error>(())
/// ```
#[derive(Debug)]
pub struct Host {
    observer: Arc<Observer>,
}

impl Host {
    /// Prepares to look. Needs CAP_BPF and CAP_PERFMON.
    ///
    /// # Errors
    ///
    /// As [`Observer::new`].
    pub fn open() -> Result<Self> {
        Ok(Self { observer: Arc::new(Observer::new()?) })
    }

    /// Every group on the host, as the kernel has it.
    ///
    /// # Errors
    ///
    /// As [`Observer::groups`].
    pub fn groups(&self) -> Result<Vec<Group>> {
        self.observer.groups()
    }

    /// What looks, for operations that look again.
    pub(crate) fn observer(&self) -> Arc<Observer> {
        Arc::clone(&self.observer)
    }

    /// The calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// As [`Observer::own_netns`].
    pub fn own_netns(&self) -> Result<Netns> {
        self.observer.own_netns()
    }

    /// The group that `spec` names; of several, the one in the caller's own network namespace.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], [`ErrorKind::Ambiguous`], and as [`groups`](Self::groups).
    pub fn find(&self, spec: &GroupSpec) -> Result<Group> {
        let groups = self.groups()?;
        let own = self.own_netns()?;
        spec.choose(&groups, Some(own.cookie)).cloned()
    }

    /// The group that this socket, one of the caller's own, is in.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if it is in none: `SO_REUSEPORT` has to be set before bind(2), and a TCP
    /// socket has to listen. [`ErrorKind::Invalid`] if it is no socket. And as
    /// [`groups`](Self::groups).
    ///
    /// # Example
    ///
    /// ```no_run
    /// use reuseport::Host;
    /// use reuseport::net::Bind;
    ///
    /// let sockets = Bind::new("127.0.0.1:0".parse()?).udp_sockets(4)?;
    /// let group = Host::open()?.group_of(&sockets[0])?;
    /// assert_eq!(group.members.len(), 4);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn group_of(&self, socket: impl AsFd) -> Result<Group> {
        let cookie = cookie_of(socket)?;
        let group = self.groups()?.into_iter().find(|group| group.member(cookie).is_some());
        group.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("socket {cookie} is in no group")).remedy(
                "set SO_REUSEPORT before bind, and listen, as `net::Bind` does; a UDP socket must \
                 not be connected",
            )
        })
    }

    /// A group as it is now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if it is gone, and as [`groups`](Self::groups).
    pub fn refresh(&self, key: &GroupKey) -> Result<Group> {
        self.groups()?.into_iter().find(|group| group.key == *key).ok_or_else(|| no_group(key))
    }

    /// Everything about every group, but for the members' owners.
    ///
    /// # Errors
    ///
    /// As [`groups`](Self::groups). A group whose pinned state cannot be read is shown as one that
    /// somebody else's program decides for.
    pub fn statuses(&self) -> Result<Vec<GroupStatus>> {
        let root = readable_root()?;
        let _lock = root.as_ref().map(Root::lock_shared).transpose()?;
        let layer = layer(root.as_ref());
        let nobody = HashMap::new();
        let status = |group: Group| {
            join(group.clone(), root.as_ref(), layer.as_ref(), &nobody).or_else(|error| {
                // One that cannot be read must not hide all the others.
                tracing::warn!("{error}");
                join(group, None, None, &nobody)
            })
        };
        self.groups()?.into_iter().map(status).collect()
    }

    /// Everything about one group.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if it is gone, and as [`statuses`](Self::statuses).
    pub fn status(&self, key: &GroupKey) -> Result<GroupStatus> {
        let root = readable_root()?;
        let _lock = root.as_ref().map(Root::lock_shared).transpose()?;
        let layer = layer(root.as_ref());
        let group = self.refresh(key)?;
        let owners = self.observer.owners(&group)?;
        join(group, root.as_ref(), layer.as_ref(), &owners)
    }
}

/// A socket's cookie.
pub(crate) fn cookie_of(socket: impl AsFd) -> Result<Cookie> {
    let tried = || Error::new(ErrorKind::Invalid, "cannot ask for a socket's cookie (SO_COOKIE)");
    let cookie = socket_cookie(socket).map_err(|errno| tried().because(errno))?;
    Cookie::new(cookie).ok_or_else(|| tried().because("the kernel gave it none"))
}

pub(crate) fn no_group(key: &GroupKey) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no group {key}"))
        .remedy("`reuseport ls` shows every group")
}

/// Our directory, if there is one and the caller may read it. Whoever may list sockets sees every
/// group; what we know of them is for those who may read that, too.
fn readable_root() -> Result<Option<Root>> {
    match Root::existing() {
        Err(error) if error.kind() == ErrorKind::Denied => {
            tracing::warn!("policies, slots and picks are not shown: {error}");
            Ok(None)
        }
        result => result,
    }
}

/// The host-wide layer. Without it, or if it cannot be read, open connections are unknown.
fn layer(root: Option<&Root>) -> Option<HostLayer> {
    let layer = HostLayer::existing(root?);
    let layer = layer.inspect_err(|error| tracing::warn!("{error}")).ok().flatten()?;
    layer.recount();
    Some(layer)
}

/// Whose program decides for the group, with its state where it is ours.
pub(crate) fn steering(
    group: &Group,
    root: Option<&Root>,
) -> Result<(Steering, Option<GroupState>)> {
    let Some(program) = &group.program else { return Ok((Steering::KernelHash, None)) };
    let state = match root.map(|root| GroupState::existing(root, &group.key)) {
        Some(Ok(state)) => state,
        // Of another version: to us it is somebody else's.
        Some(Err(error)) if error.kind() == ErrorKind::Schema => None,
        // Somebody else's, and not for us to read: the group itself is there for all to see.
        Some(Err(error)) if error.kind() == ErrorKind::Denied => {
            tracing::warn!("the policy of {} is not shown: {error}", group.key);
            None
        }
        Some(Err(error)) => return Err(error),
        None => None,
    };
    let (Some(state), Some(id)) = (state, program.id) else {
        return Ok((Steering::Foreign, None));
    };
    if !state.is_ours(id)? {
        return Ok((Steering::Foreign, None));
    }
    let steering = match state.header().map_err(unreadable)?.decider_of(id) {
        Some(Decider::Policy { policy, stickiness }) => Steering::Policy { policy, stickiness },
        Some(Decider::Object) => Steering::Object,
        None => Steering::Foreign,
    };
    Ok((steering, Some(state)))
}

fn join(
    group: Group,
    root: Option<&Root>,
    layer: Option<&HostLayer>,
    owners: &HashMap<Cookie, u32>,
) -> Result<GroupStatus> {
    let (steering, state) = steering(&group, root)?;
    let by_cpu = matches!(steering, Steering::Policy { policy: Policy::Cpu, .. });
    let mut enrolled = HashMap::new();
    if let Some(state) = &state {
        for (slot, cookie, record) in state.occupied() {
            // A listener that stopped and listens again still has its record, but the kernel has
            // emptied its slot: it gets nothing.
            let occupant = state.sockets.occupant(slot).map_err(unreadable)?;
            if matches!(occupant, Occupant::Unknown) || occupant == Occupant::Socket(cookie) {
                let mut enrolment = enrolment(state, layer, slot, &record)?;
                enrolment.cpu = record.cpu().filter(|_| by_cpu);
                enrolled.insert(cookie, enrolment);
            }
        }
    }
    let mut members: Vec<MemberStatus> = group
        .members
        .iter()
        .map(|member| MemberStatus {
            member: member.clone(),
            owner: owners.get(&member.cookie).copied(),
            enrolment: enrolled.get(&member.cookie).cloned(),
        })
        .collect();
    members.sort_by_key(|status| {
        let slot = status.enrolment.as_ref().map(|enrolment| enrolment.slot);
        (slot.is_none(), slot, status.member.cookie)
    });
    let counters = match state.as_ref().and_then(|state| state.policy_maps.as_ref()) {
        Some(maps) => counters::read(&maps.counters).map_err(unreadable)?,
        None => Vec::new(),
    };
    let reads_queues = match (&state, &steering) {
        (Some(state), Steering::Policy { .. }) => {
            state.header().map_err(unreadable)?.reads_queues()
        }
        _ => false,
    };
    Ok(GroupStatus { group, steering, members, reads_queues, counters })
}

fn enrolment(
    state: &GroupState,
    layer: Option<&HostLayer>,
    slot: Slot,
    record: &SlotRecord,
) -> Result<Enrolment> {
    let picks = state.policy_maps.as_ref().map(|maps| maps.picks_of(slot));
    Ok(Enrolment {
        slot,
        state: record.state(),
        weight: record.weight(),
        generation: record.generation,
        cpu: None,
        picks: picks.transpose().map_err(unreadable)?,
        open: layer.and_then(|layer| layer.open_connections(record.host_member)),
    })
}

fn unreadable(error: sk_reuseport::maps::MapError) -> Error {
    Error::new(ErrorKind::System, "cannot read a group's counters").because(error)
}
