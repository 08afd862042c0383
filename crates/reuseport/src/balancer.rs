//! Attaching to a group, changing its program, detaching.
//!
//! Every operation takes the lock, looks at the group afresh, and leaves it as it was if it fails.

use crate::change::request::{Attach, Attached, MemberChange};
use crate::change::transaction::Transaction;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::look::stats::Stats;
use crate::model::group::GroupKey;
use crate::model::id::{Slot, Weight};
use crate::model::policy::{CpuList, Policy};
use crate::model::refusal::{foreign_program, not_attached};
use crate::model::status::{GroupStatus, Steering};
use crate::model::table::Share;
use crate::stop::Stop;

/// A handle on a group that a program of this tool decides for.
///
/// It holds no descriptor and no lock. Dropping it detaches nothing: what is attached stays, also
/// when the process ends, until somebody [detaches](Self::detach) it or the group's last socket
/// closes.
///
/// # Minimum kernel version
///
/// Linux 5.14. Needs CAP_BPF and CAP_PERFMON, and the right to trace the processes that hold the
/// members: a process has it over itself and, by default, over those of the same user; for all others
/// it takes CAP_SYS_PTRACE.
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
        let transaction = Transaction::begin(host.observer(), &attach.stop)?;
        let group = transaction.group(key)?.clone();
        let attached = transaction.attach(&group, attach)?;
        Ok((Self { key: key.clone() }, attached))
    }

    /// A handle on a group that is steered already.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotAttached`] if it is not, [`ErrorKind::Foreign`] if somebody else's program
    /// decides, [`ErrorKind::NotFound`] if it is gone.
    pub fn open(host: &Host, key: &GroupKey) -> Result<Self> {
        steered(host, key, "change").map(|_| Self { key: key.clone() })
    }

    /// The group.
    pub fn key(&self) -> &GroupKey {
        &self.key
    }

    /// The group's numbers at this moment, by member: queues, open connections, picks, shares. All
    /// descriptors of the host are walked for it, which takes some 20 ms: nothing to do for each
    /// request.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open): where nothing of ours decides any more, there are no numbers.
    ///
    /// # Example
    ///
    /// ```no_run
    /// # use reuseport::{Balancer, Host, Policy, net::Bind};
    /// # let listeners = Bind::new("127.0.0.1:0".parse()?).listeners(4)?;
    /// # let host = Host::open()?;
    /// # let group = host.group_of(&listeners[0])?;
    /// # let (balancer, _) = Balancer::attach(&host, &group.key, &Policy::RoundRobin.into())?;
    /// let stats = balancer.stats(&host)?;
    /// for member in &stats.members {
    ///     println!("{:?} picks, {} wait", member.picks, member.queue.waiting);
    /// }
    /// let mine = stats.of(&listeners[0]).ok_or("it left the group")?;
    /// println!("{:?} open, skew {:?}", mine.open, stats.skew);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self, host: &Host) -> Result<Stats> {
        steered(host, &self.key, "read counters of").map(|status| Stats::new(&status))
    }

    /// Lets another policy decide, atomically, under traffic: each connection or datagram is picked
    /// for by the old one or by the new one. Returns why the new one cannot read queues, if it cannot:
    /// see [`Attached::degraded`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a policy that the protocol cannot have, and where the user's own
    /// program decides; [`ErrorKind::NotAttached`], [`ErrorKind::Foreign`].
    pub fn set_policy(&self, host: &Host, policy: Policy) -> Result<Option<Error>> {
        self.set_policy_with(host, policy, None)
    }

    /// The same, with CPUs for the policy `cpu`, as [`Attach::cpus`] has them. Other policies have
    /// no use for them.
    ///
    /// # Errors
    ///
    /// As [`set_policy`](Self::set_policy), and [`ErrorKind::Invalid`] for a CPU that this host
    /// cannot have.
    pub fn set_policy_with(
        &self,
        host: &Host,
        policy: Policy,
        cpus: Option<&CpuList>,
    ) -> Result<Option<Error>> {
        Transaction::begin(host.observer(), &Stop::default())?.set_policy(&self.key, policy, cpus)
    }

    /// Gives members other shares, in one step for the traffic.
    ///
    /// # Errors
    ///
    /// As [`change_members`](Self::change_members).
    pub fn set_weights(&self, host: &Host, weights: &[(Slot, Weight)]) -> Result<()> {
        let change = |&(slot, weight)| MemberChange {
            slot,
            member: None,
            weight: Some(weight),
            state: None,
        };
        let changes: Vec<MemberChange> = weights.iter().map(change).collect();
        self.change_members(host, &changes).map(|_| ())
    }

    /// Gives members other weights and states: all of them, in one step for the traffic, or none.
    /// When this returns, no new connection or datagram chooses a member that is not active any more,
    /// unless no active one can be selected.
    ///
    /// Returns the members' parts as they are then, by slot. If none of them is active with a weight,
    /// draining ones are picked, and without these the kernel's hash decides.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for a slot without a member, [`ErrorKind::Vanished`] for one with
    /// another member than was meant, [`ErrorKind::NotAttached`],
    /// [`ErrorKind::Foreign`], [`ErrorKind::Invalid`] where the user's own program decides.
    pub fn change_members(&self, host: &Host, changes: &[MemberChange]) -> Result<Vec<Share>> {
        Transaction::begin(host.observer(), &Stop::default())?.change_members(&self.key, changes)
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

/// A group that is steered, as it is now.
fn steered(host: &Host, key: &GroupKey, what: &str) -> Result<GroupStatus> {
    let status = host.status(key)?;
    match (&status.steering, &status.group.program) {
        (Steering::Ours(_), _) => Ok(status),
        (Steering::Foreign, Some(program)) => Err(foreign_program(key, program, what)),
        _ => Err(not_attached(key)),
    }
}

/// Detaches whatever of ours is attached to a group and removes its state.
///
/// # Errors
///
/// [`ErrorKind::NotAttached`] if nothing is, [`ErrorKind::Foreign`] if somebody else's program
/// decides, [`ErrorKind::NotFound`] if the group is gone.
pub fn detach(host: &Host, key: &GroupKey) -> Result<()> {
    Transaction::begin(host.observer(), &Stop::default())?.detach(key)
}
