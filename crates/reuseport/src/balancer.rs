//! Attaches to a group, changes its policy and members, detaches.
//!
//! Every operation takes the lock and lists the groups again. If it fails, the program, the members' weights and
//! their states are as they were before.

use crate::change::request::{
    Attach, Attached, Detached, MemberChange, PolicySet, Promoted, SetPolicy,
};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::host::Host;
use crate::kernel::recognise::refuse_unknown;
use crate::look::stats::Stats;
use crate::look::view;
use crate::model::group::GroupKey;
use crate::model::id::{Percent, Slot, Weight};
use crate::model::refusal::{another_program, not_attached};
use crate::model::status::{GroupStatus, Steering};
use crate::model::table::Share;
use crate::stop::Stop;

/// A handle on a group for which this tool's program decides.
///
/// It holds the key of the group, a [`Host`], and no lock. Hundreds of them share one `Host` by cloning it.
/// Dropping it, or ending the process, detaches nothing: the program stays until a process
/// [detaches](Self::detach) it or the group's last socket closes.
///
/// # Minimum kernel version
///
/// Linux 5.14. Needs CAP_BPF and CAP_PERFMON, and the right to trace the processes that hold the
/// members. A process may trace itself and, by default, processes of the same user; all others take
/// CAP_SYS_PTRACE.
///
/// # Example
///
/// ```no_run
/// use reuseport::{Balancer, Host, Policy};
///
/// let host = Host::open()?;
/// let group = host.find(&"tcp:127.0.0.1:8080".parse()?)?; // or host.group_of(&listener)?
/// let (balancer, attached) = Balancer::attach(&host, &group.key, &Policy::RoundRobin.into())?;
/// println!("{} members", attached.changes.enrolled.len());
/// balancer.detach()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Balancer {
    host: Host,
    key: GroupKey,
}

impl Balancer {
    /// Attaches to a group, or updates an attachment: new members get a slot, slots of closed members
    /// are freed, and the policy changes if the request names another one. All of it works under traffic.
    ///
    /// While one of these members is left, those that join later get nothing until this is called again;
    /// [`watch`](crate::watch) does so for each of them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Foreign`] if another owner's program decides and `force` is not set;
    /// [`ErrorKind::Full`], [`ErrorKind::Busy`] for a socket in another program's array,
    /// [`ErrorKind::Starved`], [`ErrorKind::Denied`], [`ErrorKind::Schema`], [`ErrorKind::Interrupted`]. The group is
    /// then as it was.
    pub fn attach(host: &Host, key: &GroupKey, attach: &Attach) -> Result<(Self, Attached)> {
        let attached = host.lock(&attach.stop)?.transaction(key)?.attach(attach)?;
        Ok((Self::of(host, key), attached))
    }

    /// Attaches to several groups, each as [`attach`](Self::attach) does, which takes less time than one after another:
    /// some of them share a lock and a listing of the host, and the program of the next one is loaded in a thread
    /// meanwhile. Calls `done` with the result of each, in this order: one that fails keeps no other one from it. After
    /// the [stop](Attach::stop) of one is requested, it ends.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use reuseport::{Attach, Balancer, Host};
    ///
    /// let host = Host::open()?;
    /// let groups = host.groups()?.into_iter().map(|group| (group.key, Attach::default()));
    /// Balancer::attach_each(&host, &groups.collect::<Vec<_>>(), |group, result| match result {
    ///     Ok((_, attached)) => println!("{group}: {} members", attached.changes.enrolled.len()),
    ///     Err(error) => eprintln!("{group}: {}", error.report()),
    /// });
    /// # Ok::<(), reuseport::Error>(())
    /// ```
    pub fn attach_each(
        host: &Host,
        groups: &[(GroupKey, Attach)],
        mut done: impl FnMut(&GroupKey, Result<(Self, Attached)>),
    ) {
        let mut rest = groups;
        while !rest.is_empty() {
            let results = host.attach_some(rest);
            let (now, later) = rest.split_at(results.len());
            for ((key, _), result) in now.iter().zip(results) {
                done(key, result.map(|attached| (Self::of(host, key), attached)));
            }
            if now.iter().any(|(_, attach)| attach.stop.is_set()) {
                return;
            }
            rest = later;
        }
    }

    /// A handle on a group for which this tool's program decides already.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotAttached`] if no program is attached, [`ErrorKind::Foreign`] if another owner's
    /// program decides, [`ErrorKind::NotFound`] if the group is gone.
    pub fn open(host: &Host, key: &GroupKey) -> Result<Self> {
        steered(host, key, "change").map(|_| Self::of(host, key))
    }

    /// The member in the key may leave, and the group that is steered is known without it.
    fn of(host: &Host, key: &GroupKey) -> Self {
        Self { host: host.clone(), key: key.name_only() }
    }

    /// The group, by its name alone.
    pub fn key(&self) -> &GroupKey {
        &self.key
    }

    /// The group's present queues, open connections, picks and shares, by member.
    ///
    /// This lists all descriptors of the host, which takes some 20 ms: do not call it for every request.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    ///
    /// # Example
    ///
    /// ```no_run
    /// # use reuseport::{Balancer, Host, Policy, net::Bind};
    /// # let listeners = Bind::new("127.0.0.1:0".parse()?).listeners(4)?;
    /// # let host = Host::open()?;
    /// # let group = host.group_of(&listeners[0])?;
    /// # let (balancer, _) = Balancer::attach(&host, &group.key, &Policy::RoundRobin.into())?;
    /// let stats = balancer.stats()?;
    /// for member in &stats.members {
    ///     println!("{:?} picks, {} waiting", member.picks, member.queue.waiting);
    /// }
    /// let mine = stats.of(&listeners[0]).ok_or("it left the group")?;
    /// println!("{:?} open, skew {:?}", mine.open, stats.skew);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> Result<Stats> {
        steered(&self.host, &self.key, "read counters of").map(|status| Stats::new(&status))
    }

    /// Changes the policy, atomically and under traffic: either the old one or the new one picks for each
    /// connection or datagram.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a policy that does not work for the protocol, for a CPU that this host cannot
    /// have, and where the user's own program decides; [`ErrorKind::NotAttached`], [`ErrorKind::Foreign`].
    pub fn set_policy(&self, policy: impl Into<SetPolicy>) -> Result<PolicySet> {
        self.host.lock(&Stop::default())?.transaction(&self.key)?.set_policy(&policy.into())
    }

    /// Changes the weights of members, in one step for the traffic.
    ///
    /// # Errors
    ///
    /// As [`change_members`](Self::change_members).
    pub fn set_weights(&self, weights: &[(Slot, Weight)]) -> Result<()> {
        let change = |&(slot, weight)| MemberChange::new(slot).weight(weight);
        let changes: Vec<MemberChange> = weights.iter().map(change).collect();
        self.change_members(&changes).map(|_| ())
    }

    /// Changes the weights and states of members, all or none, in one step for the traffic.
    ///
    /// When this returns, a member that is no longer active gets no new connection or datagram, unless
    /// no active member can be selected. If no member is active with a weight above 0, the program picks
    /// draining ones, and if there are none, the kernel's hash decides.
    ///
    /// Returns the new weights and states of all members, by slot.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for a slot without a member, [`ErrorKind::Vanished`] if another
    /// member than the given one has the slot, [`ErrorKind::NotAttached`], [`ErrorKind::Foreign`],
    /// [`ErrorKind::Invalid`] where the user's own program decides, and to make a member active whose generation does
    /// not serve.
    pub fn change_members(&self, changes: &[MemberChange]) -> Result<Vec<Share>> {
        self.host.lock(&Stop::default())?.transaction(&self.key)?.change_members(changes)
    }

    /// Lets the newest generation serve, alone, in one step for the traffic: members of older ones are retired, which is
    /// to drain. What was drained by hand stays so. See [`Attach::hold_new`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoGeneration`] if the newest generation serves alone already, [`ErrorKind::NotAttached`],
    /// [`ErrorKind::Foreign`], [`ErrorKind::Invalid`] where the user's own program decides.
    pub fn promote(&self) -> Result<Promoted> {
        self.host.lock(&Stop::default())?.transaction(&self.key)?.promote(None)
    }

    /// The same, if this is the newest generation: one that was checked, or tried out.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Superseded`] if a newer one came, [`ErrorKind::Vanished`] if no member of it is left; else as
    /// [`promote`](Self::promote).
    pub fn promote_generation(&self, generation: u32) -> Result<Promoted> {
        self.host.lock(&Stop::default())?.transaction(&self.key)?.promote(Some(generation))
    }

    /// Puts the newest generation on trial, in one step for the traffic: all of its members together get this part of all
    /// picks. It is state, and ends with [`promote`](Self::promote) or [`rollback`](Self::rollback). `least-loaded` deals
    /// by load per weight, and keeps to the part as far as members are equally loaded.
    ///
    /// # Errors
    ///
    /// As [`promote`](Self::promote); [`ErrorKind::Invalid`] also under [`Policy::Cpu`](crate::Policy::Cpu), and for a
    /// part that weights cannot express between these members.
    pub fn try_out(&self, share: Percent) -> Result<Promoted> {
        self.host.lock(&Stop::default())?.transaction(&self.key)?.try_out(None, share)
    }

    /// The same, if this is the newest generation.
    ///
    /// # Errors
    ///
    /// As [`promote_generation`](Self::promote_generation), and as [`try_out`](Self::try_out).
    pub fn try_out_generation(&self, generation: u32, share: Percent) -> Result<Promoted> {
        self.host.lock(&Stop::default())?.transaction(&self.key)?.try_out(Some(generation), share)
    }

    /// Lets the generation before the one that serves do so again, alone, in one step for the traffic: members of newer
    /// ones are put on standby. During a [trial](Self::try_out), ends it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoGeneration`] if no member of an older generation is left; else as [`promote`](Self::promote).
    pub fn rollback(&self) -> Result<Promoted> {
        self.host.lock(&Stop::default())?.transaction(&self.key)?.rollback()
    }

    /// Detaches and removes all state. From now on the kernel's hash decides.
    ///
    /// # Errors
    ///
    /// As [`detach`].
    pub fn detach(self) -> Result<Detached> {
        detach(&self.host, &self.key)
    }
}

/// The present status of a group for which this tool's program decides.
fn steered(host: &Host, key: &GroupKey, what: &str) -> Result<GroupStatus> {
    // To a caller who may not read the state, this tool's program looks like another owner's.
    view::refuse_unreadable(host.place(), key)?;
    let status = host.status(key)?;
    if status.steering == Steering::Foreign {
        refuse_unknown(key, status.group.program.as_ref())?;
    }
    match (&status.steering, &status.group.program) {
        (Steering::Ours(_), _) => Ok(status),
        (Steering::Foreign | Steering::Elsewhere(_) | Steering::Emptied(_), Some(program)) => {
            Err(another_program(key, &status.steering, program, what))
        }
        _ => Err(not_attached(key)),
    }
}

/// Detaches this tool's program from a group and removes the group's state.
///
/// If another owner's program has replaced this tool's meanwhile, removes the state alone; that program
/// stays: see [`Detached::displaced_by`].
///
/// If no socket of the group can be borrowed, the state is removed all the same, and the program stays attached
/// without effect: see [`Detached::left_attached`].
///
/// # Errors
///
/// [`ErrorKind::NotAttached`] if no program is attached, [`ErrorKind::Foreign`] if another owner's program
/// decides and there is no state, [`ErrorKind::NotFound`] if the group is gone.
pub fn detach(host: &Host, key: &GroupKey) -> Result<Detached> {
    host.lock(&Stop::default())?.transaction(key)?.detach()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balancers_may_be_stored_and_moved_to_threads() {
        fn check<T: Clone + Send + Sync + 'static>() {}
        check::<Balancer>();
        check::<Host>();
    }
}
