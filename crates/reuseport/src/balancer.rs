//! Attaching to a group, changing what decides, detaching.
//!
//! Every operation takes the lock, looks at the group afresh, and leaves it as it was if it fails.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use sk_reuseport::programs::{ProgramError, SkReuseport};

use crate::enrol::{self, Changes, Enroller};
use crate::foreign;
use crate::group::{AttachedProgram, Group, GroupKey};
use crate::host::{Host, steering};
use crate::id::{Slot, Weight};
use crate::object::{self, ObjectSpec};
use crate::policy::{Policy, Stickiness};
use crate::state::bpffs::{Lock, Root};
use crate::state::group::{self as group_state, GroupState};
use crate::state::host::HostLayer;
use crate::state::layout::{Decider, Header, NO_HOST_MEMBER};
use crate::status::Steering;
use crate::steer::{self, Config, Sockets};
use crate::stop::Stop;
use crate::{Error, ErrorKind, Result, rights};

/// How to attach.
#[derive(Debug, Clone, Default)]
pub struct Attach {
    /// What decides. `None`: what decides already, or the protocol's default policy.
    pub decide: Option<Decide>,
    /// Whether a program that somebody else attached may be replaced. It cannot be put back.
    pub force: bool,
    /// How many slots there are to be; by default room for four times the members.
    pub slots: Option<u32>,
    /// Looked at between steps.
    pub stop: Stop,
}

/// What decides for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decide {
    /// One of our policies.
    Policy(Policy),
    /// The user's own program.
    Object(ObjectSpec),
}

/// What an attachment did.
#[derive(Debug)]
pub struct Attached {
    /// What decides now.
    pub steering: Steering,
    /// What became of the members.
    pub changes: Changes,
    /// Somebody else's program that was replaced.
    pub replaced: Option<AttachedProgram>,
}

/// A handle on a group that a program of this tool decides for.
///
/// It holds no descriptor and no lock. Dropping it detaches nothing: what is attached stays, also
/// when the process ends, until somebody [detaches](Self::detach) it or the group's last socket
/// closes.
///
/// # Minimum kernel version
///
/// Linux 5.14. Needs CAP_BPF and CAP_PERFMON, and the right to trace the processes that hold the
/// members (CAP_SYS_PTRACE, or the same user).
///
/// # Example
///
/// ```no_run
/// use reuseport::{Attach, Balancer, Decide, Host, Policy};
///
/// let host = Host::open()?;
/// let group = host.find(&"tcp:127.0.0.1:8080".parse()?)?;
/// let decide = Some(Decide::Policy(Policy::RoundRobin));
/// let (balancer, attached) = Balancer::attach(&host, &group.key, &Attach { decide, ..Attach::default() })?;
/// println!("{} members", attached.changes.enrolled.len());
/// balancer.detach(&host)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balancer {
    key: GroupKey,
}

impl Balancer {
    /// Attaches to a group, or brings what is attached up to date: members that came since get a
    /// slot, slots of members that went are freed, and the policy is changed if another one is
    /// asked for, all under traffic.
    ///
    /// Members that come later get nothing until this is called again; see
    /// [`watch`](crate::watch) for following them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Foreign`] if somebody else's program decides and `force` is not set;
    /// [`ErrorKind::Full`], [`ErrorKind::Busy`] for a socket in another program's array,
    /// [`ErrorKind::Denied`], [`ErrorKind::Schema`], [`ErrorKind::Interrupted`]. The group is
    /// then as it was.
    pub fn attach(host: &Host, key: &GroupKey, attach: &Attach) -> Result<(Self, Attached)> {
        let session = Session::begin(host, &attach.stop)?;
        let group = session.group(key)?.clone();
        let attached = session.attach(&group, attach)?;
        Ok((Self { key: key.clone() }, attached))
    }

    /// A handle on a group that is steered already.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotAttached`] if it is not, [`ErrorKind::NotFound`] if it is gone.
    pub fn open(host: &Host, key: &GroupKey) -> Result<Self> {
        match host.status(key)?.steering {
            Steering::Policy { .. } | Steering::Object => Ok(Self { key: key.clone() }),
            Steering::KernelHash | Steering::Foreign => Err(not_attached(key)),
        }
    }

    /// The group.
    pub fn key(&self) -> &GroupKey {
        &self.key
    }

    /// Gives members other shares, in one step for the traffic.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for a slot without a member, [`ErrorKind::NotAttached`].
    pub fn set_weights(&self, host: &Host, weights: &[(Slot, Weight)]) -> Result<()> {
        let session = Session::begin(host, &Stop::default())?;
        let group = session.group(&self.key)?.clone();
        let (_, state) = steering(&group, Some(&session.root))?;
        let mut state = state.ok_or_else(|| not_attached(&self.key))?;
        settle(&mut state, &group)?;
        let tried = || format!("cannot set weights in {}", self.key);
        let Some(Decider::Policy { policy, .. }) = state.decider()? else {
            return Err(Error::new(ErrorKind::Invalid, tried())
                .because("the user's own program decides there, and it knows no weights"));
        };
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
        let result = enrol::swap_table(&mut state, policy);
        if result.is_err() {
            records.iter().for_each(|(slot, old, _)| state.set_record(*slot, *old));
        }
        result
    }

    /// Detaches: the kernel's hash decides from now on, and nothing of ours is left.
    ///
    /// # Errors
    ///
    /// As [`detach`].
    pub fn detach(self, host: &Host) -> Result<()> {
        detach(host, &self.key)
    }
}

/// Detaches whatever of ours is attached to a group and removes its state.
///
/// # Errors
///
/// [`ErrorKind::NotAttached`] if nothing is, [`ErrorKind::Foreign`] if somebody else's program
/// decides, [`ErrorKind::NotFound`] if the group is gone.
pub fn detach(host: &Host, key: &GroupKey) -> Result<()> {
    Session::begin(host, &Stop::default())?.detach(key)
}

/// Keeps a group's state, until what is returned is dropped, while the server restarts. `None` if
/// there is no state.
pub(crate) fn watch_over(key: &GroupKey) -> Result<Option<File>> {
    let Some(root) = Root::existing()? else { return Ok(None) };
    GroupState::existing(&root, key)?.map(|state| state.watch()).transpose()
}

/// One operation: the lock, the groups as they were when it was got, and the layers.
struct Session {
    root: Root,
    /// `None` until something needs it that was not there.
    layer: Option<HostLayer>,
    /// Whether this operation made the layer.
    made_layer: bool,
    groups: Vec<Group>,
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
    fn begin(host: &Host, stop: &Stop) -> Result<Self> {
        let root = Root::create()?;
        let lock = root.lock(stop)?;
        let groups = host.groups()?;
        let mut session = Self { root, layer: None, made_layer: false, groups, _lock: lock };
        group_state::clear_staging(&session.root)?;
        group_state::remove_dead(&session.root, &session.groups)?;
        session.layer = HostLayer::existing(&session.root)?;
        if let Some(layer) = &session.layer {
            match members_in_use(&session.root) {
                Ok(used) => layer.release_all_but(&used),
                // Whoever cannot be read may use any of them.
                Err(error) => tracing::debug!("{error}"),
            }
        }
        Ok(session)
    }

    fn group(&self, key: &GroupKey) -> Result<&Group> {
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
        let layer = match self.layer.take() {
            Some(layer) if layer.counts() => layer,
            // Also one that was made by somebody who may not count.
            other => {
                self.made_layer |= other.is_none();
                HostLayer::create(&self.root)?
            }
        };
        Ok(Enroller { state, layer: self.layer.insert(layer), stop })
    }

    fn attach(mut self, group: &Group, attach: &Attach) -> Result<Attached> {
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
        settle(&mut state, group)?;
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
            .sync(group)
            .map_err(|error| if_busy(error, DETACH_FIRST))?;
        let mut steering = now.clone();
        if let (Some(Decide::Policy(policy)), Steering::Policy { policy: old, stickiness }) =
            (&attach.decide, now)
            && policy != old
        {
            if let Err(error) = self.change_policy(group, &mut state, *policy, *old) {
                self.withdraw(group, &mut state, &changes);
                return Err(error);
            }
            steering = Steering::Policy { policy: *policy, stickiness: *stickiness };
        }
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
        old: Policy,
    ) -> Result<()> {
        let unreadable =
            |error| Error::new(ErrorKind::System, "cannot change the policy").because(error);
        let mut header = state.header().map_err(unreadable)?;
        let config = Config { policy, seed: header.seed };
        let maps = state.policy_maps.as_ref().ok_or_else(|| not_attached(&group.key))?;
        let mut program = steer::load_over(config, &state.sockets, maps)?;
        let id = program_id(&program)?;
        header.announce(id, policy, Stickiness::None);
        let mut steps = || -> Result<()> {
            state.pin_next(&mut program)?;
            state.set_header(&header).map_err(unreadable)?;
            enrol::swap_table(state, policy)?;
            attach_to(group, &program)
        };
        let result = steps();
        // If this fails, the next command does it.
        let done = result.as_ref().map_or(None, |()| Some(id));
        if let Err(error) = settle_as(state, done, old) {
            tracing::debug!("{error}");
        }
        result
    }

    /// Puts a program with maps of its own in the place of ours. A socket is in one array only: the
    /// new one can be filled when the old one is empty, and in between the kernel's hash decides.
    fn replace(
        &mut self,
        group: &Group,
        attach: &Attach,
        decide: &Decide,
        mut old: GroupState,
    ) -> Result<Attached> {
        let mut old_program = old.program()?;
        // Whatever is wrong with the new one shows before anything is touched.
        let prepared = prepare(group, attach, decide, Sockets::array)?;
        enrol::check_room(group, &prepared.1)?;
        detach_from(group)?;
        old.unpin(&self.root)?;
        match self.build_either(group, attach, decide, prepared) {
            Ok(changes) => {
                self.release_members(&old);
                Ok(Attached { steering: steering_by(decide), changes, replaced: None })
            }
            Err(error) => {
                if let Err(second) = self.put_back(group, &mut old, &mut old_program) {
                    tracing::warn!("{second}");
                }
                Err(error)
            }
        }
    }

    /// Attaches again what [`replace`](Self::replace) took away.
    fn put_back(
        &mut self,
        group: &Group,
        old: &mut GroupState,
        program: &mut SkReuseport,
    ) -> Result<()> {
        old.stage(&self.root, program)?;
        let stop = Stop::default();
        self.enroller(old, &stop)?.refill_all(group)?;
        old.place(&self.root, &group.key)?;
        attach_to(group, program)
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
            self.remove_state(group, leftover)?;
        }
        let prepared = prepare(group, attach, decide, Sockets::array)?;
        let changes = self.build_either(group, attach, decide, prepared)?;
        Ok(Attached { steering: steering_by(decide), changes, replaced })
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
        settle(&mut state, group)?;
        let steering = match state.decider()? {
            Some(Decider::Policy { policy, stickiness }) => Steering::Policy { policy, stickiness },
            _ => Steering::Object,
        };
        let program = state.program()?;
        let changes = self
            .enroller(&mut state, &attach.stop)?
            .sync(group)
            .map_err(|error| if_busy(error, DETACH_FIRST))?;
        if let Err(error) = attach_to(group, &program) {
            self.withdraw(group, &mut state, &changes);
            return Err(error);
        }
        Ok(Attached { steering, changes, replaced })
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
        mut prepared: (SkReuseport, GroupState),
    ) -> Result<Changes> {
        const PATIENCE: Duration = Duration::from_millis(250);
        const PAUSE: Duration = Duration::from_millis(10);

        let end = Instant::now() + PATIENCE;
        loop {
            let busy = match self.build(group, attach, prepared) {
                Err(error) if error.kind() == ErrorKind::Busy => error,
                result => return result,
            };
            if matches!(decide, Decide::Policy(_)) {
                let second = prepare(group, attach, decide, Sockets::map)
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
            prepared = prepare(group, attach, decide, Sockets::array)?;
        }
    }

    /// Pins everything, fills it, attaches the program. If that fails, nothing is left.
    fn build(
        &mut self,
        group: &Group,
        attach: &Attach,
        (mut program, mut state): (SkReuseport, GroupState),
    ) -> Result<Changes> {
        let result = self.commit(group, attach, &mut program, &mut state);
        result.inspect_err(|_| {
            if let Err(error) = self.remove_state(group, state) {
                tracing::warn!("{error}");
            }
        })
    }

    fn commit(
        &mut self,
        group: &Group,
        attach: &Attach,
        program: &mut SkReuseport,
        state: &mut GroupState,
    ) -> Result<Changes> {
        state.stage(&self.root, program)?;
        let changes = self.enroller(state, &attach.stop)?.sync(group)?;
        if changes.enrolled.is_empty() {
            return Err(vanished(&group.key));
        }
        attach.stop.check(&format!("attaching to {}", group.key))?;
        state.place(&self.root, &group.key)?;
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

    fn detach(mut self, key: &GroupKey) -> Result<()> {
        let group = self.group(key)?.clone();
        let (_, state) = steering(&group, Some(&self.root))?;
        if let Some(state) = state {
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

/// Ends a change of policy that was interrupted: whichever program is attached, stays.
fn settle(state: &mut GroupState, group: &Group) -> Result<()> {
    let attached = group.program.as_ref().and_then(|program| program.id);
    match state.decider()? {
        Some(Decider::Policy { policy, .. }) => settle_as(state, attached, policy),
        _ => Ok(()),
    }
}

/// The same, where it is known which program is attached and which policy decided before.
fn settle_as(state: &mut GroupState, attached: Option<u32>, old: Policy) -> Result<()> {
    let failed =
        |error| Error::new(ErrorKind::System, "cannot read a group's state").because(error);
    let mut header = state.header().map_err(failed)?;
    let Some(announced) = header.announced() else {
        state.forget_next();
        return Ok(());
    };
    let taken_over = attached == Some(announced);
    if taken_over {
        state.adopt_next()?;
    } else {
        enrol::swap_table(state, old)?;
    }
    header.settle(taken_over);
    state.set_header(&header).map_err(failed)?;
    state.forget_next();
    Ok(())
}

fn steering_by(decide: &Decide) -> Steering {
    match decide {
        Decide::Policy(policy) => {
            Steering::Policy { policy: *policy, stickiness: Stickiness::None }
        }
        Decide::Object(_) => Steering::Object,
    }
}

/// The program and the maps, nothing of it pinned, attached or filled.
fn prepare(
    group: &Group,
    attach: &Attach,
    decide: &Decide,
    sockets: fn(u32) -> Result<Sockets, sk_reuseport::maps::MapError>,
) -> Result<(SkReuseport, GroupState)> {
    let tried = format!("cannot make the maps for {}", group.key);
    let denied = |error| rights::failed(&tried, error, rights::SOCKET_MAPS);
    let seed = seed()?;
    let (program, sockets, maps, decider) = match decide {
        Decide::Policy(policy) => {
            let sockets = sockets(capacity(group, attach)?).map_err(denied)?;
            let config = Config { policy: *policy, seed };
            let (program, maps) = steer::load(config, &sockets)?;
            let decider = Decider::Policy { policy: *policy, stickiness: Stickiness::None };
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

fn detach_from(group: &Group) -> Result<()> {
    through_any_member(group, "detach from", |socket| match SkReuseport::detach(socket) {
        // Somebody was faster.
        Err(error) if rights::os_error(&error) == Some(Errno::NOENT) => Ok(()),
        result => result,
    })
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
                Err(error) => last = refused(format!("cannot {what} {}", group.key), error),
            },
            Err(error) if error.kind() == ErrorKind::Vanished => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn refused(tried: String, error: ProgramError) -> Error {
    match rights::os_error(&error) {
        Some(Errno::PERM) => Error::new(ErrorKind::Denied, tried)
            .because(error)
            .remedy("one member without it would do, but all have it: ask who runs the server"),
        _ => Error::new(ErrorKind::System, tried).because(error),
    }
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

fn not_attached(key: &GroupKey) -> Error {
    Error::new(ErrorKind::NotAttached, format!("nothing of this tool is attached to {key}"))
}

fn foreign_program(key: &GroupKey, program: &AttachedProgram, what: &str) -> Error {
    let which = match program.id {
        Some(id) => format!("program {} (id {id})", program.name),
        None => "a classic BPF program".to_owned(),
    };
    Error::new(ErrorKind::Foreign, format!("will not {what} {key}"))
        .because(format!("{which} of somebody else decides there"))
        .remedy("--force replaces it; it cannot be put back")
}

const TAKE_OUT: &str = "a socket that is in another program's socket array can be in no second \
                        one: take it out there, or restart the server";

const DETACH_FIRST: &str = "`reuseport detach` the group and attach to it again: that takes sockets \
                            that are in another program's socket map";

fn if_busy(error: Error, remedy: &str) -> Error {
    if error.kind() == ErrorKind::Busy { error.remedy(remedy) } else { error }
}
