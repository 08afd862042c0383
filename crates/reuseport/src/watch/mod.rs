//! Following a group: members that come are taken in, members that go free their slots, and a
//! server that restarts is steered again.

mod events;

use std::fs::File;
use std::time::Duration;

use crate::balancer::{Attach, Attached, Balancer};
use crate::group::{AttachedProgram, GroupKey};
use crate::host::Host;
use crate::id::Cookie;
use crate::{Error, ErrorKind, Result};
use events::{Events, Wake};

/// What a watcher did or saw.
#[derive(Debug)]
pub enum Change {
    /// Members came or went, and the slots agree with the group again.
    Members(Attached),
    /// The group is gone: every socket of it was closed. It is waited for.
    Gone,
    /// The group, or one of its members, could not be dealt with. It is tried again at the next
    /// change.
    Failed(Error),
}

/// Follows a group, in the calling thread.
///
/// A TCP listener that begins to listen, listens again, or comes back after the whole server
/// restarted is steered within 50 ms; a UDP socket within 250 ms. Nothing is held of the server's:
/// its sockets close when it closes them. When the watcher ends, what is attached stays attached.
///
/// A restart of the whole server ends the group and its attachment with it. The slots, counters
/// and weights are kept for as long as somebody watches.
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
    /// The members that were there, and the program, when the slots agreed with the group last.
    last: (Vec<Cookie>, Option<AttachedProgram>),
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
        let attach = Attach { decide: None, force: false, ..attach };
        let keep = crate::session::watch_over(key)?;
        let last = (Vec::new(), None);
        Ok((Self { host, key: key.clone(), attach, events, last, keep }, attached))
    }

    /// Follows the group until [`Attach::stop`] is set, and tells what changes.
    ///
    /// # Errors
    ///
    /// If the source of events fails. Everything else is told and tried again.
    pub fn run(mut self, mut tell: impl FnMut(Change)) -> Result<()> {
        let mut gone = false;
        loop {
            let wake = self.events.wait(&self.attach.stop).map_err(|error| {
                Error::new(ErrorKind::System, format!("cannot watch {}", self.key)).because(error)
            })?;
            let result = match wake {
                Wake::Stop => return Ok(()),
                Wake::Look => self.look(),
                Wake::Came(cookie) => self.take_in(cookie).map(Some),
            };
            match result {
                Ok(None) => {}
                Ok(Some(attached)) => {
                    gone = false;
                    if !attached.changes.is_empty() {
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
                // It is going; that it is gone, or came back, is the next event.
                Err(error) if error.kind() == ErrorKind::Vanished => tracing::debug!("{error}"),
                Err(error) => tell(Change::Failed(error)),
            }
        }
    }

    /// Waits until the socket that was announced is in its group, which takes the kernel a moment,
    /// and brings the group up to date. It may also be one of another group on the same port, or
    /// one that stopped listening and listens again: the members are then who they were.
    ///
    /// A server that becomes a daemon hands its sockets to a child and ends: whoever held them a
    /// moment ago has vanished, and the next try finds the child.
    fn take_in(&mut self, cookie: Cookie) -> Result<Attached> {
        const TRIES: u32 = 6;

        let mut pause = Duration::from_millis(1);
        for _ in 0..TRIES {
            let groups = self.host.groups()?;
            if groups.iter().any(|group| group.member(cookie).is_some()) {
                match self.update() {
                    Err(error) if error.kind() == ErrorKind::Vanished => {}
                    result => return result,
                }
            }
            std::thread::sleep(pause);
            pause *= 2;
        }
        self.update()
    }

    /// Brings the group up to date if anything is not as it was.
    fn look(&mut self) -> Result<Option<Attached>> {
        if self.now()? == self.last { Ok(None) } else { self.update().map(Some) }
    }

    fn update(&mut self) -> Result<Attached> {
        // As it is before: whatever changes while this runs is a difference at the next look.
        let seen = self.now().unwrap_or_default();
        let (_, attached) = Balancer::attach(&self.host, &self.key, &self.attach)?;
        self.keep = crate::session::watch_over(&self.key)?;
        self.last = seen;
        Ok(attached)
    }

    fn now(&self) -> Result<(Vec<Cookie>, Option<AttachedProgram>)> {
        let group = self.host.refresh(&self.key)?;
        Ok((group.members.iter().map(|member| member.cookie).collect(), group.program))
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("key", &self.key).finish_non_exhaustive()
    }
}
