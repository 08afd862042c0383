//! One operation on a group, from the lock to the last step: attaching, bringing up to date,
//! changing, detaching. If a step fails, those before it are undone.
//!
//! Whatever can go wrong happens before the step that counts, which is one call: attaching or
//! detaching the program. What follows it is housekeeping that the next operation can do as well.

mod change;
mod prepare;
mod reach;
mod settle;

use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use sk_reuseport::programs::SkReuseport;

use crate::balancer::{Attach, Attached, Decide};
use crate::cpus::CpuList;
use crate::enrol::{self, Changes, Enroller};
use crate::foreign;
use crate::group::{AttachedProgram, Group, GroupKey};
use crate::host::{Host, no_group, steering};
use crate::id::Cookie;
use crate::observe::Observer;
use crate::policy::{Policy, Stickiness};
use crate::state::bpffs::{Lock, Root};
use crate::state::group::{self as group_state, GroupState};
use crate::state::host::HostLayer;
use crate::state::layout::{Decider, NO_HOST_MEMBER};
use crate::status::Steering;
use crate::steer::Start;
use crate::stop::Stop;
use crate::{Error, ErrorKind, Result, rights};
use prepare::{Kind, Prepared, prepare};
use reach::{attach_to, detach_from, vanished};
use settle::settle;

/// Keeps a group's state, until what is returned is dropped, while the server restarts. `None` if
/// there is no state.
pub(crate) fn watch_over(key: &GroupKey) -> Result<Option<File>> {
    let Some(root) = Root::existing()? else { return Ok(None) };
    let Some(state) = GroupState::existing(&root, key)? else { return Ok(None) };
    match state.watch() {
        // Somebody detached the group a moment ago.
        Err(error) if rights::os_error(&error) == Some(Errno::NOENT) => Ok(None),
        result => result.map(Some),
    }
}

/// One operation: the lock, the groups as they were when it was got, and the layers.
pub(crate) struct Session {
    root: Root,
    /// Opened when it is needed: saying no to somebody makes none.
    layer: Option<HostLayer>,
    /// Whether this operation made it.
    made_layer: bool,
    groups: Vec<Group>,
    observer: Arc<Observer>,
    _lock: Lock,
}

/// When an operation ends: a layer that serves no group is removed.
impl Drop for Session {
    fn drop(&mut self) {
        let unused = group_state::names(&self.root).is_ok_and(|names| names.is_empty());
        let in_vain = self.made_layer && self.layer.as_ref().is_none_or(HostLayer::is_unused);
        if (unused || in_vain)
            && let Err(error) = HostLayer::remove(&self.root)
        {
            tracing::warn!("{error}");
        }
    }
}

impl Session {
    /// Waits for the lock, and removes what interrupted commands left.
    pub(crate) fn begin(host: &Host, stop: &Stop) -> Result<Self> {
        let root = Root::create()?;
        let lock = root.lock(stop)?;
        let groups = host.groups()?;
        group_state::clear_staging(&root)?;
        group_state::remove_dead(&root, &groups)?;
        Ok(Self {
            root,
            layer: None,
            made_layer: false,
            groups,
            observer: host.observer(),
            _lock: lock,
        })
    }

    /// The host-wide layer, made if there is none.
    fn layer(&mut self) -> Result<&mut HostLayer> {
        let layer = match self.layer.take() {
            Some(layer) => layer,
            None => {
                let existing = HostLayer::existing(&self.root)?;
                self.made_layer = existing.is_none();
                let layer = match existing {
                    Some(layer) if layer.counts() => layer,
                    // Also one that was made by somebody who may not count.
                    _ => HostLayer::create(&self.root)?,
                };
                match group_state::host_members(&self.root) {
                    Ok(used) => layer.release_all_but(&used),
                    // Whoever cannot be read may use any of them.
                    Err(error) => tracing::debug!("{error}"),
                }
                layer.recount();
                layer
            }
        };
        Ok(self.layer.insert(layer))
    }

    /// Whether anything of ours is pinned for the group.
    pub(crate) fn has_state(&self, key: &GroupKey) -> bool {
        !matches!(GroupState::existing(&self.root, key), Ok(None))
    }

    /// Refuses to go on if somebody attached or detached a program since the operation began.
    fn refuse_if_changed(&self, group: &Group) -> Result<()> {
        let groups = self.observer.groups()?;
        let Some(now) = groups.into_iter().find(|other| other.key == group.key) else {
            return Err(vanished(&group.key));
        };
        if now.attached_id() == group.attached_id()
            && now.program.is_some() == group.program.is_some()
        {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Foreign,
            format!("will not change what decides for {}", group.key),
        )
        .because("somebody attached or detached a program meanwhile")
        .remedy("try again"))
    }

    /// Whether the socket is in any group.
    pub(crate) fn knows(&self, cookie: Cookie) -> bool {
        self.groups.iter().any(|group| group.member(cookie).is_some())
    }

    pub(crate) fn group(&self, key: &GroupKey) -> Result<&Group> {
        self.groups.iter().find(|group| group.key == *key).ok_or_else(|| no_group(key))
    }

    fn enroller<'a>(
        &'a mut self,
        state: &'a mut GroupState,
        stop: &'a Stop,
    ) -> Result<Enroller<'a>> {
        Ok(Enroller { state, layer: self.layer()?, stop, start: Start::Together, weights: &[] })
    }

    pub(crate) fn attach(mut self, group: &Group, attach: &Attach) -> Result<Attached> {
        attach.cpus.as_ref().map_or(Ok(()), CpuList::check)?;
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
        settle(&mut state, group.attached_id())?;
        match (&attach.decide, now) {
            (Some(decide @ Decide::Object(_)), _)
            | (Some(decide @ Decide::Policy(_)), Steering::Object) => {
                return self.replace(group, attach, decide, state);
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
        let changes = self
            .enroller(&mut state, &attach.stop)?
            .weighing(&attach.weights)
            .sync(group)
            .map_err(|error| if_busy(error, DETACH_FIRST))?;
        match self.reconsider(group, attach, now, &mut state) {
            Ok((steering, lost)) => Ok(Attached { steering, changes, replaced: None, lost }),
            Err(error) => {
                self.withdraw(group, &mut state, &changes);
                Err(error)
            }
        }
    }

    /// Nothing of ours decides.
    fn attach_anew(&mut self, group: &Group, attach: &Attach, now: Steering) -> Result<Attached> {
        let leftover = GroupState::existing(&self.root, &group.key)?;
        let replaced = group.program.clone().filter(|_| now == Steering::Foreign);
        if let (Some(program), false) = (&replaced, attach.force) {
            return Err(foreign_program(&group.key, program, "attach to"));
        }
        let default = Decide::Policy(Policy::default_for(group.key.protocol));
        let decide = attach.decide.as_ref().unwrap_or(&default);
        if let Some(leftover) = leftover {
            self.refuse_if_in_use(&leftover, group)?;
            if attach.decide.is_none() && attach.slots.is_none() {
                return self.resume(group, attach, leftover, replaced);
            }
            self.layer()?;
            self.remove_state(group, leftover)?;
        }
        let prepared = prepare(group, attach, decide, Kind::Array, self.layer()?)?;
        let (changes, lost) = match self.build_either(group, attach, decide, prepared) {
            // The program that is to be replaced holds the sockets in an array of its own, which
            // goes when it goes.
            Err(error) if error.kind() == ErrorKind::Busy && replaced.is_some() => {
                let prepared = prepare(group, attach, decide, Kind::Array, self.layer()?)?;
                detach_from(group)?;
                let bare = Group { program: None, ..group.clone() };
                self.build_either(&bare, attach, decide, prepared)?
            }
            result => result?,
        };
        Ok(Attached { steering: steering_by(decide), changes, replaced, lost })
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
        settle(&mut state, group.attached_id())?;
        let steering = match state.decider()? {
            Some(Decider::Policy { policy, stickiness }) => Steering::Policy { policy, stickiness },
            _ => Steering::Object,
        };
        let program = state.program()?;
        let changes = self
            .enroller(&mut state, &attach.stop)?
            .weighing(&attach.weights)
            .sync(group)
            .map_err(|error| if_busy(error, DETACH_FIRST))?;
        let attached = self
            .place_on_cpus(group, &mut state, attach.cpus.as_ref())
            .and_then(|()| Self::weigh(&mut state, &attach.weights).map(|_| ()))
            .and_then(|()| self.refuse_if_changed(group))
            .and_then(|()| attach_to(group, &program));
        if let Err(error) = attached {
            self.withdraw(group, &mut state, &changes);
            return Err(error);
        }
        Ok(Attached { steering, changes, replaced, lost: None })
    }

    /// With the policy `cpu`: gives members a CPU of their own who have none, or all if some are given.
    fn place_on_cpus(
        &self,
        group: &Group,
        state: &mut GroupState,
        given: Option<&CpuList>,
    ) -> Result<()> {
        match state.decider()? {
            Some(Decider::Policy { policy: Policy::Cpu, .. }) => {
                self.assign_cpus(group, state, given)?;
                enrol::swap_table(state, Policy::Cpu)
            }
            _ => Ok(()),
        }
    }

    fn assign_cpus(
        &self,
        group: &Group,
        state: &GroupState,
        given: Option<&CpuList>,
    ) -> Result<()> {
        given.map_or(Ok(()), CpuList::check)?;
        // Without the right to look for them, nobody is bound to a CPU.
        let owners = self.observer.owners(group).unwrap_or_else(|error| {
            tracing::debug!("{error}");
            Default::default()
        });
        let given = given.map(CpuList::as_slice);
        enrol::assign_cpus(state, given, |cookie| owners.get(&cookie).copied());
        Ok(())
    }

    /// Takes out again who was taken in by an operation that failed afterwards.
    fn withdraw(&mut self, group: &Group, state: &mut GroupState, changes: &Changes) {
        if changes.enrolled.is_empty() {
            return;
        }
        let stop = Stop::default();
        let enroller = self.enroller(state, &stop);
        if let Err(error) = enroller.and_then(|mut e| e.withdraw(group, &changes.enrolled)) {
            tracing::warn!("{error}");
        }
    }

    /// Builds with a socket array, and if a socket is in another program's socket map, with a socket
    /// map, which takes it all the same.
    ///
    /// A socket in another array goes into neither. But the kernel takes an array apart only some
    /// time after its last user went (`bpf_map_put`), so it gets a moment.
    fn build_either(
        &mut self,
        group: &Group,
        attach: &Attach,
        decide: &Decide,
        mut prepared: Prepared,
    ) -> Result<(Changes, Option<Error>)> {
        const PATIENCE: Duration = Duration::from_millis(250);
        const PAUSE: Duration = Duration::from_millis(10);

        let end = Instant::now() + PATIENCE;
        loop {
            let busy = match self.build(group, attach, prepared) {
                Err(error) if error.kind() == ErrorKind::Busy => error,
                result => return result,
            };
            if matches!(decide, Decide::Policy(_)) {
                let second = prepare(group, attach, decide, Kind::Map, self.layer()?)
                    .and_then(|prepared| self.build(group, attach, prepared));
                match second {
                    Err(error) if error.kind() == ErrorKind::Busy => {}
                    result => return result,
                }
            }
            if Instant::now() >= end {
                return Err(busy.remedy(TAKE_OUT));
            }
            std::thread::sleep(PAUSE);
            prepared = prepare(group, attach, decide, Kind::Array, self.layer()?)?;
        }
    }

    /// Pins everything, fills it, attaches the program. If that fails, nothing is left.
    fn build(
        &mut self,
        group: &Group,
        attach: &Attach,
        prepared: Prepared,
    ) -> Result<(Changes, Option<Error>)> {
        let Prepared { mut program, mut state, lost } = prepared;
        match self.commit(group, attach, &mut program, &mut state) {
            Ok(changes) => Ok((changes, lost)),
            Err(error) => {
                if let Err(error) = self.remove_state(group, state) {
                    tracing::warn!("{error}");
                }
                Err(error)
            }
        }
    }

    fn commit(
        &mut self,
        group: &Group,
        attach: &Attach,
        program: &mut SkReuseport,
        state: &mut GroupState,
    ) -> Result<Changes> {
        state.stage(&self.root, program)?;
        let changes = self.enroller(state, &attach.stop)?.weighing(&attach.weights).sync(group)?;
        if changes.enrolled.is_empty() {
            return Err(vanished(&group.key));
        }
        self.place_on_cpus(group, state, attach.cpus.as_ref())?;
        attach.stop.check(&format!("attaching to {}", group.key))?;
        state.place(&self.root, &group.key)?;
        self.refuse_if_changed(group)?;
        attach_to(group, program)?;
        Ok(changes)
    }

    /// Two groups can have the same address (a program attached before bind makes one of its
    /// own), and then the same name here. The state of one that is steered must not be touched.
    fn refuse_if_in_use(&self, state: &GroupState, group: &Group) -> Result<()> {
        let ids = self.groups.iter().filter_map(|other| other.program.as_ref()?.id);
        let in_use = ids.map(|id| state.is_ours(id)).collect::<Result<Vec<_>>>()?;
        if !in_use.contains(&true) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Busy, format!("cannot attach to {}", group.key))
            .because("another group with the same address is steered already")
            .remedy("`reuseport ls` shows both; one of the two has to close its sockets"))
    }

    pub(crate) fn detach(mut self, key: &GroupKey) -> Result<()> {
        let group = self.group(key)?.clone();
        let (_, state) = steering(&group, Some(&self.root))?;
        if let Some(state) = state {
            self.layer()?;
            self.refuse_if_changed(&group)?;
            detach_from(&group)?;
            return self.remove_state(&group, state);
        }
        let leftover = GroupState::existing(&self.root, key)?;
        if let Some(program) = &group.program {
            return Err(foreign_program(key, program, "detach from"));
        }
        // What an interrupted command pinned and never attached.
        if let Some(leftover) = leftover {
            self.refuse_if_in_use(&leftover, &group)?;
            self.layer()?;
            self.remove_state(&group, leftover)?;
        }
        Err(not_attached(key))
    }

    /// Removes a state whose program is attached nowhere, and the marks of its members.
    fn remove_state(&mut self, group: &Group, mut state: GroupState) -> Result<()> {
        if let Some(layer) = &mut self.layer {
            for (_, cookie, _) in state.occupied() {
                if let Some(Ok(socket)) = group.member(cookie).map(foreign::borrow) {
                    layer.unmark(socket.as_fd());
                }
            }
        }
        self.release_members(&state);
        state.unpin(&self.root)
    }

    /// Takes back what the host-wide layer gave a group's members.
    fn release_members(&self, state: &GroupState) {
        let Some(layer) = &self.layer else { return };
        state
            .occupied()
            .filter(|(_, _, record)| record.host_member != NO_HOST_MEMBER)
            .for_each(|(_, _, record)| layer.release(record.host_member));
    }
}

fn steering_by(decide: &Decide) -> Steering {
    match decide {
        Decide::Policy(policy) => {
            Steering::Policy { policy: *policy, stickiness: Stickiness::default() }
        }
        Decide::Object(_) => Steering::Object,
    }
}

pub(crate) fn not_attached(key: &GroupKey) -> Error {
    Error::new(ErrorKind::NotAttached, format!("nothing of this tool is attached to {key}"))
}

pub(crate) fn foreign_program(key: &GroupKey, program: &AttachedProgram, what: &str) -> Error {
    let which = match program.id {
        Some(id) => format!("program {} (id {id})", program.name),
        None => "a classic BPF program".to_owned(),
    };
    Error::new(ErrorKind::Foreign, format!("will not {what} {key}"))
        .because(format!("{which} of somebody else decides there"))
        .remedy("`attach --force` replaces it, for good: it cannot be put back")
}

const TAKE_OUT: &str = "a socket that is in another program's socket array can be in no second \
                        one: take it out there, or restart the server";

const DETACH_FIRST: &str = "`reuseport detach` the group and attach to it again: that takes sockets \
                            that are in another program's socket map";

fn if_busy(error: Error, remedy: &str) -> Error {
    if error.kind() == ErrorKind::Busy { error.remedy(remedy) } else { error }
}
