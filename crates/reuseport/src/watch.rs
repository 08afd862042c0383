//! Follows groups: enrols new members, frees the slots of closed ones, and attaches again after a server
//! restarts.

mod add;
mod awaited;
mod control;
mod run;
mod update;

use std::collections::HashMap;
use std::fs::File;
use std::time::Instant;

#[cfg(doc)]
use crate::balancer::Balancer;
use crate::change::request::{Attach, Attached};
use crate::change::transaction::watch_over;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::follow::follower::Follower;
use crate::follow::seen::{Observation, Port, Seen};
use crate::follow::source::Source;
use crate::host::Host;
use crate::kernel::cpus::time_of_thread;
use crate::kernel::observe::Extent;
use crate::look::counted::{self, Counting};
use crate::look::view;
use crate::model::group::{Group, GroupKey, Protocol};
use crate::model::held::HeldSocket;
use crate::model::spec::GroupSpec;
use crate::stop::Stop;
use awaited::{Awaited, Find};

pub use self::control::Sole;
pub use self::run::Ended;
pub use crate::follow::change::Change;
pub use crate::model::retake::Retake;

/// Follows groups, in the calling thread: any number of them with one set of descriptors.
///
/// A TCP listener that starts to listen, listens again, or comes back with a restarted server should be
/// enrolled within 50 ms; a UDP socket within 250 ms, if it is not connected by then: servers such as those of DTLS
/// bind a socket and connect it to one client. The watcher holds no socket of a server. When it ends, the programs
/// stay attached.
///
/// Events of UDP sockets take CAP_NET_ADMIN, and the root of the cgroup2 hierarchy in the caller's mount namespace or
/// that of process 1. Otherwise UDP sockets are listed, less often where that would take more than 1 % of a core.
///
/// A full restart of the server ends the group and its attachment. The program, its counters and its
/// secret are kept while the group is watched. New members take the slots of those that left, with their
/// weights and drains ([`Changes::inherited`](crate::Changes::inherited)).
///
/// [Detaching](crate::detach) a group, in any process, ends its watch.
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
    stop: Stop,
    retakes: bool,
    source: Source,
    follower: Follower,
    watched: HashMap<GroupKey, Watched>,
    awaited: Awaited,
}

/// A group that is watched.
struct Watched {
    /// How to update it.
    attach: Attach,
    /// A lock that keeps other processes from removing the state.
    keep: Option<File>,
    counting: Option<Counting>,
}

impl Watch {
    /// Attaches to the group and starts to collect its changes. [`Attach::stop`] ends the watch.
    ///
    /// # Errors
    ///
    /// As [`Balancer::attach`].
    pub fn start(host: Host, key: &GroupKey, attach: Attach) -> Result<(Self, Attached)> {
        let mut watch = Self::new(host, attach.stop.clone())?;
        let attached = watch.add(key, attach)?;
        Ok((watch, attached))
    }

    /// A watcher of no group yet, which follows those that are [added](Self::add) until a stop is requested.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] if the caller lacks the rights.
    pub fn new(host: Host, stop: Stop) -> Result<Self> {
        Ok(Self {
            source: Source::open(host.own_netns()?)?,
            host,
            stop,
            retakes: false,
            follower: Follower::new(Instant::now()),
            watched: HashMap::new(),
            awaited: Awaited::default(),
        })
    }

    /// Waits for a group that is not there yet, and then attaches to it and follows it, too, which is reported as
    /// [`Change::Members`]. Looks for a group that `spec` names whenever TCP sockets come to the port, or UDP sockets
    /// in the caller's network namespace, and for UDP every two seconds, and then calls `find`, until that returns a
    /// group to which attaching succeeds. A UDP group in a network namespace that has a UDP table of its own is found within 30
    /// seconds.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] if the caller lacks the rights.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use reuseport::{Attach, GroupSpec, Host, Stop, watch::Watch};
    ///
    /// let spec: GroupSpec = "tcp:127.0.0.1:8080".parse()?;
    /// let mut watch = Watch::new(Host::open()?, Stop::default())?;
    /// watch.wait_for(&spec.clone(), move |host| {
    ///     let group = host.find(&spec).ok()?;
    ///     Some((group.key, Attach::default()))
    /// })?;
    /// watch.run_each(|group, change| println!("{group}: {change:?}"))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_for(
        &mut self,
        spec: &GroupSpec,
        find: impl FnMut(&Host) -> Option<(GroupKey, Attach)> + Send + 'static,
    ) -> Result<()> {
        self.expect(spec, Find::One(Box::new(find)))
    }

    /// As [`wait_for`](Self::wait_for), for every group that `spec` names, now or later: those that are followed
    /// stay so. `attach` says how to attach to a group; `None` leaves it alone.
    ///
    /// A group to which attaching fails is reported, and tried again after two seconds, later each minute, and at
    /// once if its sockets change; where another owner's program decides, once that is gone. One that another
    /// process detached is left alone while it is there. Its members are those in the kernel's tables, perhaps without the processes that hold them: a `spec` that names
    /// one by its process matches none.
    ///
    /// # Errors
    ///
    /// As [`wait_for`](Self::wait_for).
    ///
    /// # Example
    ///
    /// ```no_run
    /// use reuseport::{Attach, Host, Stop, watch::Watch};
    ///
    /// let mut watch = Watch::new(Host::open()?, Stop::default())?;
    /// watch.wait_for_all(&"tcp::8080".parse()?, |_, _| Some(Attach::default()))?;
    /// watch.run_each(|group, change| println!("{group}: {change:?}"))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_for_all(
        &mut self,
        spec: &GroupSpec,
        attach: impl FnMut(&Host, &Group) -> Option<Attach> + Send + 'static,
    ) -> Result<()> {
        self.expect(spec, Find::Each(Box::new(attach)))
    }

    fn expect(&mut self, spec: &GroupSpec, find: Find) -> Result<()> {
        let both = [Protocol::Tcp, Protocol::Udp].into_iter();
        let wanted = both.filter(|p| spec.protocol().is_none_or(|wanted| wanted == *p));
        let ports: Vec<Port> = wanted.map(|p| self.source.expected_port(p, spec.port())).collect();
        ports.iter().try_for_each(|port| self.source.add(*port))?;
        let id = self.awaited.add(spec.clone(), find);
        let rests = ports.iter().all(|port| port.protocol == Protocol::Tcp);
        self.follower.expect(Instant::now(), id, ports, rests);
        Ok(())
    }

    /// Takes the groups back if another owner, such as the server, attaches a program of its own: at most
    /// once a minute, and five times for each group.
    ///
    /// The watcher notices such a program when sockets of the group come or go, and otherwise within two seconds
    /// after the next connection.
    #[must_use]
    pub fn retaking(mut self) -> Self {
        self.set_retaking(true);
        self
    }

    /// Ends what is done for a group. The program stays attached.
    fn forget(&mut self, key: &GroupKey) {
        self.watched.remove(key);
        self.source.remove_pins(key);
        self.stop_events(Port::of(key));
    }

    /// Stops the events of a port, unless another group on it is followed.
    fn stop_events(&mut self, port: Port) {
        if self.follower.ports().all(|other| other != port) {
            self.source.remove(port);
        }
    }

    fn expect_no_more(&mut self, id: u32) {
        self.awaited.remove(id);
        let ports: Vec<Port> = self.follower.ports().collect();
        self.follower.found(id);
        ports.into_iter().for_each(|port| self.stop_events(port));
    }

    /// Lists the host's groups for all groups that are due.
    fn observe(&mut self, extent: &Extent) {
        let began = time_of_thread();
        let looked_at: Vec<GroupKey> = self.follower.looked_at().cloned().collect();
        let listed = self.host.groups_near(extent);
        let observation = listed.as_ref().ok().map(|(groups, whole)| {
            let layer = counted::layer(self.host.place());
            let see = |key: &GroupKey| {
                let group = view::named_at(self.host.place(), key, groups).ok()?;
                let counted = self.counting(key, group).is_in(layer);
                Some((key.clone(), Seen::new(group, counted, *whole)))
            };
            let seen = looked_at.iter().filter_map(see).collect();
            let held = self.held_among(groups);
            let is_followed = |key: &GroupKey| self.watched.contains_key(key);
            let awaited = &mut self.awaited;
            awaited.forget_gone(groups, *whole);
            let is_there = |id: &u32| awaited.is_there(*id, groups, is_followed);
            let found = self.follower.looked_for().filter(is_there).collect();
            let cost = time_of_thread().saturating_sub(began);
            let refused = awaited.has_refused();
            Observation { cost, refused, held, ..Observation::new(groups, seen, found) }
        });
        looked_at.iter().for_each(|key| self.watch_over_present(key));
        self.follower.observed(Instant::now(), observation.as_ref());
    }

    /// The members that are held, of the groups of which the follower asks that.
    fn held_among(&self, groups: &[Group]) -> Vec<(GroupKey, Vec<HeldSocket>)> {
        let place = self.host.place();
        let held = |key: &GroupKey| {
            let group = view::named_at(place, key, groups).ok()?;
            Some((key.clone(), counted::held(place, group)?))
        };
        self.follower.asks_who_is_held().filter_map(held).collect()
    }

    /// Looks for which of these sockets a thread waits.
    fn look_for_waiters(&mut self, sockets: &[HeldSocket]) {
        let began = time_of_thread();
        // The update that follows an error says what it is about.
        let awaited = self.host.awaited(sockets).ok();
        let cost = time_of_thread().saturating_sub(began);
        self.follower.awaited(Instant::now(), awaited.as_deref(), cost);
    }

    /// Where the connections of this group have to be counted. That is read once for each program.
    fn counting(&mut self, key: &GroupKey, group: &Group) -> Counting {
        let watched = self.watched.get_mut(key).map(|watched| &mut watched.counting);
        match watched {
            Some(Some(known)) if known.is_of(group) => *known,
            watched => {
                let found = Counting::of(self.host.place(), group);
                watched.map(|known| known.insert(found));
                found
            }
        }
    }

    /// Locks the state that is pinned now. An attachment that failed, of any process, may have pinned the same
    /// state in another directory, which leaves the group as it was.
    fn watch_over_present(&mut self, key: &GroupKey) {
        let Some(watched) = self.watched.get_mut(key) else { return };
        match watch_over(self.host.place(), key) {
            Ok(keep) => watched.keep = keep,
            // The update that follows says what it is about.
            Err(error) => tracing::debug!("{}", error.report()),
        }
    }

    /// Whether state of the group was pinned at the last look.
    fn is_kept(&self, key: &GroupKey) -> bool {
        self.watched.get(key).is_some_and(|watched| watched.keep.is_some())
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys = self.follower.keys();
        f.debug_struct("Watch").field("groups", &keys.collect::<Vec<_>>()).finish_non_exhaustive()
    }
}
