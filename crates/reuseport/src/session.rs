//! One operation on a group, from the lock to the last step: attaching, bringing up to date,
//! changing, detaching. If a step fails, those before it are undone.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::AsFd as _;

use sk_reuseport::maps::MapError;
use sk_reuseport::programs::{ProgramError, SkReuseport};

use crate::balancer::{Attach, Attached, Decide};
use crate::enrol::{Changes, Enroller};
use crate::foreign;
use crate::group::{AttachedProgram, Group, GroupKey};
use crate::host::{Host, steering};
use crate::id::{Slot, Weight};
use crate::object;
use crate::policy::{Policy, Stickiness};
use crate::state::bpffs::{Lock, Root};
use crate::state::group::{self as group_state, GroupState};
use crate::state::host::HostLayer;
use crate::state::layout::{Decider, Header, NO_HOST_MEMBER};
use crate::status::Steering;
use crate::steer::{self, Config, Sockets};
use crate::stop::Stop;
use crate::{Error, ErrorKind, Result, rights};

/// Keeps a group's state, until what is returned is dropped, while the server restarts. `None` if
/// there is no state.
pub(crate) fn watch_over(key: &GroupKey) -> Result<Option<File>> {
    let Some(root) = Root::existing()? else { return Ok(None) };
    GroupState::existing(&root, key)?.map(|state| state.watch()).transpose()
}

/// One operation: the lock, the groups as they were when it was got, and the layers.
pub(crate) struct Session {
    root: Root,
    /// Opened when it is needed: saying no to somebody makes none.
    layer: Option<HostLayer>,
    groups: Vec<Group>,
    _lock: Lock,
}

/// When an operation ends: a layer that serves no group is removed.
impl Drop for Session {
    fn drop(&mut self) {
        let unused = group_state::names(&self.root).is_ok_and(|names| names.is_empty());
        if unused && let Err(error) = HostLayer::remove(&self.root) {
            tracing::warn!("{error}");
        }
    }
}

impl Session {
    /// Waits for the lock, and removes what interrupted commands left.
    pub(crate) fn begin(host: &Host) -> Result<Self> {
        let root = Root::create()?;
        let lock = root.lock()?;
        let groups = host.groups()?;
        group_state::clear_staging(&root)?;
        group_state::remove_dead(&root, &groups)?;
        Ok(Self { root, layer: None, groups, _lock: lock })
    }

    fn layer(&mut self) -> Result<&mut HostLayer> {
        if self.layer.is_none() {
            let layer = HostLayer::create(&self.root)?;
            layer.release_all_but(&members_in_use(&self.root)?);
            self.layer = Some(layer);
        }
        self.layer.as_mut().ok_or_else(|| Error::new(ErrorKind::System, "no host-wide layer"))
    }

    pub(crate) fn group(&self, key: &GroupKey) -> Result<&Group> {
        self.groups.iter().find(|group| group.key == *key).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no group {key}"))
                .remedy("`reuseport ls` shows every group")
        })
    }

    fn enroller<'a>(
        &'a mut self,
        state: &'a mut GroupState,
        stop: &'a Stop,
    ) -> Result<Enroller<'a>> {
        Ok(Enroller { state, layer: self.layer()?, stop })
    }

    pub(crate) fn attach(mut self, group: &Group, attach: &Attach) -> Result<Attached> {
        let (now, state) = steering(group, Some(&self.root))?;
        match state {
            Some(state) => self.update(group, attach, &now, state),
            None => self.attach_anew(group, attach, now),
        }
    }

    /// Ours decides already.
    fn update(
        &mut self,
        group: &Group,
        attach: &Attach,
        now: &Steering,
        mut state: GroupState,
    ) -> Result<Attached> {
        match (&attach.decide, now) {
            (Some(decide @ Decide::Object(_)), _)
            | (Some(decide @ Decide::Policy(_)), Steering::Object) => {
                // A socket is in one array only: the new one can be filled when the old is empty.
                // Whatever is wrong with the new program is found out before that.
                drop(prepare(group, attach, decide, Sockets::array)?);
                self.detach_ours(group, state)?;
                return self.attach_anew(group, attach, Steering::KernelHash);
            }
            _ => {}
        }
        if attach.slots.is_some_and(|slots| slots != state.capacity()) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("cannot change the slots of {}", group.key),
            )
            .because(format!("it has {}, fixed while it is attached", state.capacity()))
            .remedy("`reuseport detach` it first, or leave out --slots"));
        }
        let changes = self.enroller(&mut state, &attach.stop)?.sync(group)?;
        if let (Some(Decide::Policy(policy)), Steering::Policy { policy: old, .. }) =
            (&attach.decide, now)
            && policy != old
        {
            self.change_policy(group, &mut state, *policy)?;
        }
        let (steering, _) = steering(&self.refreshed(group)?, Some(&self.root))?;
        Ok(Attached { steering, changes, replaced: None })
    }

    /// Loads another instance over the same maps and replaces the attachment, which is atomic in
    /// the kernel. The table is filled for the new policy just before: for the moment between, the
    /// old policy picks from it, by its own kind of key.
    fn change_policy(
        &mut self,
        group: &Group,
        state: &mut GroupState,
        policy: Policy,
    ) -> Result<()> {
        let unreadable =
            |error| Error::new(ErrorKind::System, "cannot change the policy").because(error);
        let old = state.header().map_err(unreadable)?;
        let config = Config { policy, seed: old.seed };
        let maps = state.policy_maps.as_ref().ok_or_else(|| not_attached(&group.key))?;
        let mut program = steer::load_over(config, &state.sockets, maps)?;
        state.forget_next();
        state.pin_next(&mut program)?;
        let mut new = old;
        let stickiness = match old.decider() {
            Some(Decider::Policy { stickiness, .. }) => stickiness,
            _ => Stickiness::default(),
        };
        new.set_decider(Decider::Policy { policy, stickiness });
        new.program_id = program_id(&program)?;
        let stop = Stop::default();
        let result = state
            .set_header(&new)
            .map_err(unreadable)
            .and_then(|()| self.enroller(state, &stop))
            .and_then(|mut enroller| enroller.swap_table())
            .and_then(|()| attach_to(group, &program));
        if let Err(error) = result {
            state.set_header(&old).map_err(unreadable)?;
            self.enroller(state, &stop)?.swap_table()?;
            state.forget_next();
            return Err(error);
        }
        state.adopt_next()
    }

    /// Gives members other shares: all or none.
    pub(crate) fn set_weights(mut self, key: &GroupKey, weights: &[(Slot, Weight)]) -> Result<()> {
        let group = self.group(key)?.clone();
        let (_, state) = steering(&group, Some(&self.root))?;
        let mut state = state.ok_or_else(|| not_attached(key))?;
        let tried = || format!("cannot set weights in {}", key);
        let mut records = Vec::new();
        for (slot, weight) in weights {
            let old = state.record(*slot);
            if old.cookie().is_none() {
                return Err(Error::new(ErrorKind::NotFound, tried())
                    .because(format!("slot {slot} has no member")));
            }
            let mut new = old;
            new.set_weight(*weight);
            records.push((*slot, old, new));
        }
        records.iter().for_each(|(slot, _, new)| state.set_record(*slot, *new));
        let stop = Stop::default();
        let result =
            self.enroller(&mut state, &stop).and_then(|mut enroller| enroller.swap_table());
        if result.is_err() {
            records.iter().for_each(|(slot, old, _)| state.set_record(*slot, *old));
        }
        result
    }

    /// Nothing of ours decides.
    fn attach_anew(&mut self, group: &Group, attach: &Attach, now: Steering) -> Result<Attached> {
        let replaced = group.program.clone().filter(|_| now == Steering::Foreign);
        if let (Some(program), false) = (&replaced, attach.force) {
            return Err(foreign_program(&group.key, program, "attach to"));
        }
        if let Some(leftover) = GroupState::existing(&self.root, &group.key)? {
            self.refuse_if_in_use(&leftover, group)?;
            if attach.decide.is_none() && attach.slots.is_none() {
                return self.resume(group, attach, leftover, replaced);
            }
            self.remove_state(group, leftover)?;
        }
        let decide = attach
            .decide
            .clone()
            .unwrap_or_else(|| Decide::Policy(Policy::default_for(group.key.protocol)));
        let changes = match self.build(group, attach, &decide, Sockets::array) {
            // In another program's socket map: a socket map takes it all the same.
            Err(error) if error.kind() == ErrorKind::Busy => {
                self.build(group, attach, &decide, Sockets::map).map_err(|second| {
                    if second.kind() == ErrorKind::Busy { in_another_array(error) } else { second }
                })?
            }
            result => result?,
        };
        let (steering, _) = steering(&self.refreshed(group)?, Some(&self.root))?;
        Ok(Attached { steering, changes, replaced })
    }

    /// Attaches what is pinned: the server restarted, which ended the group and the attachment
    /// with it, or a command was interrupted just before.
    fn resume(
        &mut self,
        group: &Group,
        attach: &Attach,
        mut state: GroupState,
        replaced: Option<AttachedProgram>,
    ) -> Result<Attached> {
        let changes = self.enroller(&mut state, &attach.stop)?.sync(group)?;
        attach_to(group, &state.program()?)?;
        let (steering, _) = steering(&self.refreshed(group)?, Some(&self.root))?;
        Ok(Attached { steering, changes, replaced })
    }

    /// Builds everything, pins it, attaches the program. If that fails, nothing is left.
    fn build(
        &mut self,
        group: &Group,
        attach: &Attach,
        decide: &Decide,
        sockets: fn(u32) -> Result<Sockets, MapError>,
    ) -> Result<Changes> {
        let (mut program, mut state) = prepare(group, attach, decide, sockets)?;
        let synced =
            self.enroller(&mut state, &attach.stop).and_then(|mut enroller| enroller.sync(group));
        let result = synced.and_then(|changes| {
            if changes.enrolled.is_empty() {
                return Err(vanished(&group.key));
            }
            attach.stop.check(&format!("attaching to {}", group.key))?;
            state.pin(&self.root, &group.key, &mut program)?;
            attach_to(group, &program)?;
            Ok(changes)
        });
        result.inspect_err(|_| {
            if let Err(error) = self.remove_state(group, state) {
                tracing::warn!("{error}");
            }
            let _ = group_state::clear_staging(&self.root);
        })
    }

    /// Two groups can have the same address (a program attached before bind makes one of its
    /// own), and then the same name here. The state of one that is steered must not be touched.
    fn refuse_if_in_use(&self, state: &GroupState, group: &Group) -> Result<()> {
        let in_use = self.groups.iter().any(|other| {
            let program = other.program.as_ref().and_then(|program| program.id);
            program.is_some_and(|id| state.is_ours(id))
        });
        if !in_use {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Busy, format!("cannot attach to {}", group.key))
            .because("another group with the same address is steered already"))
    }

    pub(crate) fn detach(mut self, key: &GroupKey) -> Result<()> {
        let group = self.group(key)?.clone();
        let (_, state) = steering(&group, Some(&self.root))?;
        match (state, &group.program) {
            (Some(state), _) => self.detach_ours(&group, state),
            (None, Some(program)) => Err(foreign_program(key, program, "detach from")),
            (None, None) => {
                // What an interrupted command pinned and never attached.
                if let Some(leftover) = GroupState::existing(&self.root, key)? {
                    self.refuse_if_in_use(&leftover, &group)?;
                    self.remove_state(&group, leftover)?;
                }
                Err(not_attached(key))
            }
        }
    }

    /// Detaches the program, then removes the state.
    fn detach_ours(&mut self, group: &Group, state: GroupState) -> Result<()> {
        through_any_member(group, "detach from", |socket| {
            match SkReuseport::detach(socket) {
                // Somebody was faster.
                Err(error) if rights::os_error(&error) == Some(rustix::io::Errno::NOENT) => Ok(()),
                result => result,
            }
        })?;
        self.remove_state(group, state)
    }

    /// Removes a state whose program is attached nowhere, and the marks of its members.
    fn remove_state(&mut self, group: &Group, state: GroupState) -> Result<()> {
        let layer = self.layer()?;
        for (_, cookie, record) in state.occupied() {
            if let Some(Ok(socket)) = group.member(cookie).map(foreign::borrow) {
                layer.unmark(socket.as_fd());
            }
            if record.host_member != NO_HOST_MEMBER {
                layer.release(record.host_member);
            }
        }
        state.remove()
    }

    /// The group with the program that it was just given.
    fn refreshed(&self, group: &Group) -> Result<Group> {
        let state = GroupState::existing(&self.root, &group.key)?;
        let mut group = group.clone();
        group.program = match state {
            Some(state) => Some(AttachedProgram {
                id: Some(program_id(&state.program()?)?),
                name: String::new(),
            }),
            None => None,
        };
        Ok(group)
    }
}

/// The program and the maps, nothing of it pinned, attached or filled.
fn prepare(
    group: &Group,
    attach: &Attach,
    decide: &Decide,
    sockets: fn(u32) -> Result<Sockets, MapError>,
) -> Result<(SkReuseport, GroupState)> {
    let tried = format!("cannot make the maps for {}", group.key);
    let denied = |error| rights::failed(&tried, error, rights::SOCKET_MAPS);
    let seed = seed()?;
    let (program, sockets, maps, decider) = match decide {
        Decide::Policy(policy) => {
            let sockets = sockets(capacity(group, attach)?).map_err(denied)?;
            let config = Config { policy: *policy, seed };
            let (program, maps) = steer::load(config, &sockets)?;
            let decider = Decider::Policy { policy: *policy, stickiness: Stickiness::default() };
            (program, sockets, Some(maps), decider)
        }
        Decide::Object(spec) => {
            let (program, sockets) = object::load(spec)?;
            (program, sockets, None, Decider::Object)
        }
    };
    let mut header = Header::new(&group.key, decider, sockets.capacity(), seed);
    header.sockets = u8::from(matches!(sockets, Sockets::Map(_)));
    header.program_id = program_id(&program)?;
    let state = GroupState::create(&header, sockets, maps).map_err(denied)?;
    Ok((program, state))
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

fn program_id(program: &SkReuseport) -> Result<u32> {
    let info = program.info().map_err(|error| {
        Error::new(ErrorKind::System, "cannot ask for the program's id").because(error)
    })?;
    Ok(info.id())
}

fn attach_to(group: &Group, program: &SkReuseport) -> Result<()> {
    through_any_member(group, "attach to", |socket| program.attach(socket))
}

/// Does something to the group through the first member with which it works.
fn through_any_member(
    group: &Group,
    what: &str,
    mut action: impl FnMut(std::os::fd::BorrowedFd<'_>) -> Result<(), ProgramError>,
) -> Result<()> {
    let mut last = vanished(&group.key);
    for member in &group.members {
        match foreign::borrow(member) {
            Ok(socket) => match action(socket.as_fd()) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    last = Error::new(ErrorKind::System, format!("cannot {what} {}", group.key))
                        .because(error);
                }
            },
            Err(error) if error.kind() == ErrorKind::Vanished => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn members_in_use(root: &Root) -> Result<HashSet<u32>> {
    let states = group_state::all(root)?;
    Ok(states
        .iter()
        .flat_map(|state| state.occupied().map(|(_, _, record)| record.host_member))
        .collect())
}

fn vanished(key: &GroupKey) -> Error {
    Error::new(ErrorKind::Vanished, format!("cannot reach any member of {key}"))
        .because("all of them were closed meanwhile")
        .remedy("`reuseport ls` shows what is there now")
}

pub(crate) fn not_attached(key: &GroupKey) -> Error {
    Error::new(ErrorKind::NotAttached, format!("nothing of this tool is attached to {key}"))
}

fn foreign_program(key: &GroupKey, program: &AttachedProgram, what: &str) -> Error {
    let which = match program.id {
        Some(id) => format!("program {} (id {id})", program.name),
        None => "a classic BPF program".to_owned(),
    };
    Error::new(ErrorKind::Foreign, format!("will not {what} {key}"))
        .because(format!("{which} of somebody else decides there"))
        .remedy("`attach --force` replaces it, for good: it cannot be put back")
}

fn in_another_array(error: Error) -> Error {
    error.remedy(
        "a socket that is in another program's socket array can be in no second one: take it out \
         there, or restart the server",
    )
}
