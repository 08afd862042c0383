//! Following a group: members that come are taken in, members that go free their slots, and a
//! server that restarts is steered again.

use std::fs::File;
use std::time::Duration;

use crate::balancer::Balancer;
use crate::change::request::{Attach, Attached};
use crate::change::transaction::{Transaction, watch_over};
use crate::error::{Error, ErrorKind, Result};
use crate::follow::source::{Events, Wake};
use crate::host::Host;
use crate::model::group::{AttachedProgram, Group, GroupKey};
use crate::model::id::Cookie;
use crate::model::refusal::not_attached;

/// What a watcher did or saw.
#[derive(Debug)]
pub enum Change {
    /// Members came or went, and the slots agree with the group again.
    Members(Attached),
    /// The group is gone: every socket of it was closed. It is waited for.
    Gone,
    /// Somebody detached the group. The watcher ends: it does not undo what others decided.
    Detached,
    /// The group, or one of its members, could not be dealt with. It is tried again at the next
    /// change, and now and then, and told again only if something else is wrong.
    Failed(Error),
}

/// Follows a group, in the calling thread.
///
/// A TCP listener that begins to listen, listens again, or comes back after the whole server
/// restarted is meant to be steered within 50 ms; a UDP socket within 250 ms. On a host with some
/// 100,000 sockets neither holds: each look is a walk over all of them. Nothing is held of the server's:
/// its sockets close when it closes them. When the watcher ends, what is attached stays attached.
///
/// A restart of the whole server ends the group and its attachment with it. What decides, its
/// counters and its secret are kept for as long as somebody watches; the new sockets are new members,
/// with the default weight.
///
/// Whoever [detaches](crate::detach) the group ends the watch with it.
///
/// # Minimum kernel version
///
/// Linux 5.14. Needs what [`Balancer::attach`] needs.
///
/// # Example
///
/// ```no_run
/// use reuseport::{Attach, Host, watch::Watch};
///
/// let host = Host::open()?;
/// let group = host.find(&"tcp:127.0.0.1:8080".parse()?)?;
/// let (watch, attached) = Watch::start(host, &group.key, Attach::default())?;
/// println!("{} members", attached.changes.enrolled.len());
/// watch.run(|change| println!("{change:?}"))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Watch {
    host: Host,
    key: GroupKey,
    attach: Attach,
    events: Events,
    /// The group with which the slots agreed last; `None` if they may not.
    last: Option<Seen>,
    /// Says to others that the state is to be kept.
    keep: Option<File>,
}

impl Watch {
    /// Attaches to the group, and notices from then on what changes.
    ///
    /// # Errors
    ///
    /// As [`Balancer::attach`].
    pub fn start(host: Host, key: &GroupKey, attach: Attach) -> Result<(Self, Attached)> {
        // First the events, so that nothing is missed between the two.
        let events = Events::start(key, host.own_netns()?)?;
        let (_, attached) = Balancer::attach(&host, key, &attach)?;
        // What decides is decided: from here on members are followed.
        let attach =
            Attach { program: None, force: false, slots: None, weights: Vec::new(), ..attach };
        let keep = watch_over(key)?;
        Ok((Self { host, key: key.clone(), attach, events, last: None, keep }, attached))
    }

    /// Follows the group until [`Attach::stop`] is set, and tells what changes.
    ///
    /// # Errors
    ///
    /// If the source of events fails. Everything else is told and tried again.
    pub fn run(mut self, mut tell: impl FnMut(Change)) -> Result<()> {
        let (mut gone, mut again) = (false, true);
        let mut complaint = String::new();
        loop {
            let wake = self.events.wait(&self.attach.stop, again).map_err(|error| {
                Error::new(ErrorKind::System, format!("cannot watch {}", self.key)).because(error)
            })?;
            let result = match wake {
                Wake::Stop => return Ok(()),
                Wake::Look => self.look(),
                Wake::Came(cookies) => self.take_in(&cookies),
            };
            again = false;
            match result {
                Ok(None) => gone = false,
                Ok(Some(attached)) => {
                    gone = false;
                    complaint.clear();
                    if !attached.changes.is_empty() {
                        // What changed while we were at it may have gone unnoticed, and whom we
                        // left out may have another holder.
                        again = true;
                        tell(Change::Members(attached));
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if !gone {
                        tell(Change::Gone);
                    }
                    gone = true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
                Err(error) if error.kind() == ErrorKind::NotAttached => {
                    tell(Change::Detached);
                    return Ok(());
                }
                // It is going, or has passed to another process.
                Err(error) if error.kind() == ErrorKind::Vanished => {
                    again = true;
                    tracing::debug!("{}", error.report());
                }
                Err(error) => {
                    let said = error.report().to_string();
                    if said != complaint {
                        tell(Change::Failed(error));
                        complaint = said;
                    }
                }
            }
        }
    }

    /// Waits until the sockets that were announced are in their groups, which takes the kernel a
    /// moment, and brings the group up to date. They may also be of another group on the same port,
    /// or have stopped listening and listen again: the members are then who they were.
    ///
    /// A server that becomes a daemon hands its sockets to a child and ends: whoever held them a
    /// moment ago has vanished, and the next try finds the child.
    fn take_in(&mut self, came: &[Cookie]) -> Result<Option<Attached>> {
        const TRIES: u32 = 6;

        let mut pause = Duration::from_millis(1);
        for _ in 0..TRIES {
            let transaction = Transaction::begin(self.host.observer(), &self.attach.stop)?;
            if came.iter().all(|cookie| transaction.knows(*cookie)) {
                match self.update(transaction) {
                    Err(error) if error.kind() == ErrorKind::Vanished => {}
                    result => return result.map(Some),
                }
            }
            std::thread::sleep(pause);
            pause *= 2;
        }
        // Some of them closed again, or are nobody's we can see.
        self.update(Transaction::begin(self.host.observer(), &self.attach.stop)?).map(Some)
    }

    /// Brings the group up to date if anything is not as it was; if not, nobody is kept waiting.
    fn look(&mut self) -> Result<Option<Attached>> {
        if self.last.is_some() && self.last == Some(Seen::of(&self.host.refresh(&self.key)?)) {
            return Ok(None);
        }
        self.update(Transaction::begin(self.host.observer(), &self.attach.stop)?).map(Some)
    }

    /// Brings the group up to date, as the transaction found it: where there are many sockets, it is
    /// the walk over the host that takes long.
    fn update(&mut self, transaction: Transaction) -> Result<Attached> {
        self.last = None;
        let group = transaction.group(&self.key)?.clone();
        // While the server restarts, the state is kept for us.
        if !transaction.has_state(&self.key) {
            return Err(not_attached(&self.key));
        }
        let attached = transaction.attach(&group, &self.attach)?;
        self.keep = watch_over(&self.key)?;
        if attached.changes.left_out.is_empty() {
            self.last = Some(Seen::of(&group));
        }
        Ok(attached)
    }
}

/// What of a group tells whether anything is to be done.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    members: Vec<Cookie>,
    program: Option<AttachedProgram>,
}

impl Seen {
    fn of(group: &Group) -> Self {
        let members = group.members.iter().map(|member| member.cookie).collect();
        Self { members, program: group.program.clone() }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("key", &self.key).finish_non_exhaustive()
    }
}
