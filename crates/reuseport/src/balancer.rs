//! Attaching to a group, changing what decides, detaching.
//!
//! Every operation takes the lock, looks at the group afresh, and leaves it as it was if it fails;
//! how is in [`session`](crate::session).

use crate::Result;
use crate::enrol::Changes;
use crate::group::{AttachedProgram, GroupKey};
use crate::host::Host;
use crate::id::{Slot, Weight};
use crate::object::ObjectSpec;
use crate::policy::Policy;
use crate::session::{Session, not_attached};
use crate::status::Steering;
use crate::stop::Stop;

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
        Session::begin(host, &Stop::default())?.set_weights(&self.key, weights)
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
