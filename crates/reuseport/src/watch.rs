//! Follows a group: enrols new members, frees the slots of closed ones, and attaches again after the
//! server restarts.

use std::fs::File;
use std::time::{Duration, Instant};

use crate::balancer::Balancer;
use crate::change::request::{Attach, Attached, Changes, LeftOut};
use crate::change::transaction::{Transaction, watch_over};
use crate::error::{Error, ErrorKind, Result};
use crate::follow::source::{Events, Wake};
use crate::host::Host;
use crate::look::view;
use crate::model::group::{AttachedProgram, Group, GroupKey, Member, Reach, Unborrowable};
use crate::model::id::Cookie;
use crate::model::membership::Newborn;
use crate::model::refusal::{not_attached, vanished};
use crate::model::retake::Attempts;
use crate::model::split::{News, Watched};

pub use crate::model::retake::Retake;

/// A change that a watcher made or saw.
#[derive(Debug)]
#[non_exhaustive]
pub enum Change {
    /// Members joined or left, and their slots were updated.
    Members(Attached),
    /// The group is gone: all its sockets closed. The watcher waits for it to come back.
    Gone,
    /// Another process detached the group. The watcher ends.
    Detached,
    /// Another owner attached a program in place of this tool's. The watcher takes the sockets out of this
    /// tool's array, so that the owner may use them, and waits until that program is gone, unless it
    /// [takes the group back](Watch::retaking). Reported once for each such program, and again when the
    /// watcher gives up.
    Replaced {
        /// The program that decides now.
        by: AttachedProgram,
        /// Whether the watcher takes the group back.
        retake: Retake,
    },
    /// There are other groups of the same name, which [the kernel made](GroupKey). The watcher goes on with the
    /// one that this tool steers: this one, as it was seen. If that one ends, the next one of this name is
    /// followed. Reported once.
    Split(Group),
    /// No member is left that can be given a slot, for this reason: a policy leaves every choice to the kernel's
    /// hash, until a socket joins that can. Reported once.
    Unsteerable(Error),
    /// An update failed. The watcher tries again at the next change and every two seconds, and reports
    /// only a different error again.
    Failed(Error),
}

/// Follows a group, in the calling thread.
///
/// A TCP listener that starts to listen, listens again, or comes back with a restarted server should be
/// enrolled within 50 ms; a UDP socket within 250 ms (400 ms in another network namespace), if it is not
/// connected by then: servers such as those of DTLS bind a socket and connect it to one client. With some
/// 100,000 sockets on the host it takes longer, because each update lists all of them. The watcher holds no
/// socket of the server. When it ends, the program stays attached.
///
/// A full restart of the server ends the group and its attachment. The program, its counters and its
/// secret are kept while the group is watched. New members take the slots of those that left, with their
/// weights and drains ([`Changes::inherited`](crate::Changes::inherited)).
///
/// [Detaching](crate::detach) the group, in any process, ends the watch.
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
    /// The group at the last complete update; `None` if an update is due.
    last: Option<Seen>,
    /// UDP sockets that were bound a moment ago.
    newborn: Newborn,
    /// Whether other groups have the name, and whether a report of that is due.
    split: Watched,
    news: Option<Group>,
    /// The members that were last reported as left out although they live.
    starving: Vec<Option<Cookie>>,
    /// A lock that keeps other processes from removing the state.
    keep: Option<File>,
    /// The attempts to take the group back; `None` if the watcher makes none.
    attempts: Option<Attempts>,
    /// The program that replaced this tool's, and what was reported with it.
    replaced: Option<(AttachedProgram, Retake)>,
    /// Whether this tool's array may hold sockets that the other program's owner wants to use.
    keeps: bool,
    start: Instant,
}

/// The result of one look at the group.
enum Look {
    Same,
    Updated(Box<Attached>),
    /// Another owner's program decides. `None`: and this is known.
    Replaced(Option<(AttachedProgram, Retake)>),
}

impl Watch {
    /// Attaches to the group and starts to collect its changes.
    ///
    /// # Errors
    ///
    /// As [`Balancer::attach`].
    pub fn start(host: Host, key: &GroupKey, attach: Attach) -> Result<(Self, Attached)> {
        // Events first, so that no change is missed.
        let events = Events::start(key, host.own_netns()?)?;
        let (_, attached) = Balancer::attach(&host, key, &attach)?;
        // Later updates enrol members and change nothing else. One that cannot be enrolled is reported, and must
        // not keep the others out.
        let attach = Attach {
            program: None,
            force: false,
            slots: None,
            weights: Vec::new(),
            partial: true,
            ..attach
        };
        let watch = Self {
            keep: watch_over(host.place(), key)?,
            host,
            // The member in the key may leave.
            key: key.name_only(),
            attach,
            events,
            last: None,
            newborn: Newborn::default(),
            split: Watched::default(),
            news: None,
            starving: starving(&attached),
            attempts: None,
            replaced: None,
            keeps: false,
            start: Instant::now(),
        };
        Ok((watch, attached))
    }

    /// Takes the group back if another owner, such as the server, attaches a program of its own: at most
    /// once a minute, and five times.
    ///
    /// The watcher notices such a program at its next look, within two seconds.
    #[must_use]
    pub fn retaking(self) -> Self {
        Self { attempts: Some(Attempts::default()), ..self }
    }

    /// Follows the group until [`Attach::stop`] is set or the group is detached, and calls `on_change` for
    /// each change.
    ///
    /// # Errors
    ///
    /// If the source of events fails. All other failures are passed on as [`Change::Failed`].
    pub fn run(mut self, mut on_change: impl FnMut(Change)) -> Result<()> {
        let (mut gone, mut again) = (false, true);
        let mut reported = String::new();
        loop {
            let wake = self.events.wait(&self.attach.stop, again).map_err(|error| {
                Error::new(ErrorKind::System, format!("cannot watch {}", self.key)).because(error)
            })?;
            let result = match wake {
                Wake::Stop => return Ok(()),
                Wake::Check => self.check(),
                Wake::Came(cookies) => self.enrol(&cookies),
            };
            again = false;
            if let Some(group) = self.news.take() {
                on_change(Change::Split(group));
            }
            match result {
                Ok(Look::Same) => gone = false,
                Ok(Look::Replaced(news)) => {
                    gone = false;
                    if let Some((by, retake)) = news {
                        // The same error is reported again after this.
                        reported.clear();
                        again = retake == Retake::Now;
                        on_change(Change::Replaced { by, retake });
                    }
                }
                Ok(Look::Updated(attached)) => {
                    gone = false;
                    reported.clear();
                    // A change during the update may have been missed, and a member that was left
                    // out may have another holder now.
                    again = self.last.is_none() || self.has_news(&attached);
                    if self.has_news(&attached) {
                        self.starving = starving(&attached);
                        on_change(Change::Members(*attached));
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if !gone {
                        on_change(Change::Gone);
                    }
                    gone = true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
                Err(error) if error.kind() == ErrorKind::NotAttached => {
                    on_change(Change::Detached);
                    return Ok(());
                }
                // The member is closing, or has passed to another process.
                Err(error) if error.kind() == ErrorKind::Vanished => {
                    again = true;
                    tracing::debug!("{}", error.report());
                }
                Err(error) => {
                    let report = error.report().to_string();
                    if report != reported {
                        on_change(match error.kind() {
                            ErrorKind::Starved => Change::Unsteerable(error),
                            _ => Change::Failed(error),
                        });
                        reported = report;
                    }
                }
            }
        }
    }

    /// Waits until the sockets that started to listen are in their groups, and updates the group. The
    /// kernel reports the change of state a moment before a socket joins. The sockets may also belong to
    /// another group on the same port, or be members that listen again.
    ///
    /// A server that becomes a daemon passes its sockets to a child and exits: their holder has vanished,
    /// and the next try finds the child.
    fn enrol(&mut self, came: &[Cookie]) -> Result<Look> {
        const TRIES: u32 = 6;

        let mut pause = Duration::from_millis(1);
        for _ in 0..TRIES {
            let transaction = self.begin()?;
            if came.iter().all(|cookie| transaction.knows(*cookie)) {
                match self.update(transaction) {
                    Err(error) if error.kind() == ErrorKind::Vanished => {}
                    result => return result,
                }
            }
            std::thread::sleep(pause);
            pause *= 2;
        }
        // Some closed again, or only processes of another pid namespace hold them.
        let transaction = self.begin()?;
        self.update(transaction)
    }

    /// Updates the group if it has changed. Otherwise takes no lock.
    fn check(&mut self) -> Result<Look> {
        let same = |group: Group| self.last == Some(self.see(&group));
        if self.last.is_some() && self.host.refresh(&self.key).is_ok_and(same) {
            self.watch_over_present();
            return Ok(Look::Same);
        }
        // It also finds out why the group is not there.
        let transaction = self.begin()?;
        self.update(transaction)
    }

    /// Begins a transaction, which removes the state of a group that is not there unless it is watched.
    fn begin(&mut self) -> Result<Transaction> {
        self.watch_over_present();
        self.host.begin(&self.attach.stop)
    }

    /// Locks the state that is pinned now. An attachment that failed, of any process, may have pinned the same
    /// state in another directory, which leaves the group as it was.
    fn watch_over_present(&mut self) {
        match watch_over(self.host.place(), &self.key) {
            Ok(keep) => self.keep = keep,
            // The update that follows says what it is about.
            Err(error) => tracing::debug!("{}", error.report()),
        }
    }

    /// Updates the group as the transaction found it. With many sockets, listing them again would take
    /// long.
    fn update(&mut self, transaction: Transaction) -> Result<Look> {
        self.last = None;
        // While the server restarts, the watcher's lock keeps the state.
        let Some(slots) = transaction.in_slots(&self.key)? else {
            return Err(not_attached(&self.key));
        };
        let mut group = transaction.group(&self.key)?.clone();
        let split = self.split.look(Instant::now(), group.reach);
        if split == News::Split {
            self.news = Some(group.clone());
        }
        if let Some(by) = transaction.displaced_by(&group)? {
            return self.replaced(transaction, &group, by);
        }
        let young = self.newborn.look(Instant::now(), &group, |cookie| slots.contains(&cookie));
        group.members.retain(|member| member.cookie.is_none_or(|cookie| !young.contains(&cookie)));
        if group.members.is_empty() {
            return Err(vanished(&self.key));
        }
        self.replaced = None;
        let attached = self.attach(transaction, &group, &self.attach.clone())?;
        if young.is_empty() && split != News::Wait && self.is_complete(&attached) {
            self.last = Some(self.see(&group));
        }
        Ok(Look::Updated(Box::new(attached)))
    }

    fn attach(
        &mut self,
        transaction: Transaction,
        group: &Group,
        attach: &Attach,
    ) -> Result<Attached> {
        let attached = transaction.attach(group, attach)?;
        self.keep = watch_over(self.host.place(), &self.key)?;
        Ok(attached)
    }

    fn see(&self, group: &Group) -> Seen {
        let member = |member: &Member| (member.cookie, member.unborrowable());
        let members = group.members.iter().map(member).collect();
        let counted = view::is_counted(self.host.place(), &self.key);
        Seen { members, program: group.program.clone(), counted, reach: group.reach }
    }

    /// Whether the group has all that it should have, and its program is the one that was seen.
    fn is_complete(&self, attached: &Attached) -> bool {
        attached.replaced.is_none() && attached.changes.left_out.iter().all(LeftOut::is_starving)
    }

    /// Whether there is something to report. Members that cannot be enrolled are reported once.
    fn has_news(&self, attached: &Attached) -> bool {
        let Changes { enrolled, released, left_out, .. } = &attached.changes;
        attached.replaced.is_some()
            || !enrolled.is_empty()
            || !released.is_empty()
            || !left_out.iter().all(LeftOut::is_starving)
            || starving(attached) != self.starving
    }

    /// Another owner's program decides: reports it, or takes the group back once that is reported.
    fn replaced(
        &mut self,
        mut transaction: Transaction,
        group: &Group,
        by: AttachedProgram,
    ) -> Result<Look> {
        let now = self.start.elapsed();
        let retake = self.attempts.map_or(Retake::Off, |attempts| attempts.at(now));
        let reported = self.replaced.as_ref().filter(|(known, _)| *known == by).map(|(_, r)| *r);
        self.keeps |= reported.is_none();
        // Also after an attempt that failed.
        if self.keeps && retake != Retake::Now {
            // Another process may have attached anew since the last look.
            self.keep = watch_over(self.host.place(), &self.key)?;
            transaction.give_way(group)?;
            self.keeps = false;
        }
        if retake.is_news_after(reported) {
            self.replaced = Some((by.clone(), retake));
            return Ok(Look::Replaced(Some((by, retake))));
        }
        match (retake, &mut self.attempts) {
            (Retake::Now, Some(attempts)) => {
                attempts.note(now);
                self.keeps = true;
                let attach = Attach { force: true, ..self.attach.clone() };
                let attached = self.attach(transaction, group, &attach)?;
                self.replaced = None;
                Ok(Look::Updated(Box::new(attached)))
            }
            (Retake::After(_), _) => Ok(Look::Replaced(None)),
            _ => {
                self.last = Some(self.see(group));
                Ok(Look::Replaced(None))
            }
        }
    }
}

/// The members that live and get nothing.
fn starving(attached: &Attached) -> Vec<Option<Cookie>> {
    let left_out = attached.changes.left_out.iter();
    let mut starving: Vec<_> =
        left_out.filter(|out| out.is_starving()).map(|out| out.cookie).collect();
    starving.sort_unstable();
    starving
}

/// What makes an update due if it changes.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    members: Vec<(Option<Cookie>, Option<Unborrowable>)>,
    program: Option<AttachedProgram>,
    /// Whether open connections are counted.
    counted: bool,
    /// Whether other groups have the name.
    reach: Reach,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("key", &self.key).finish_non_exhaustive()
    }
}
