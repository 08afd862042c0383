//! Follows the groups of a file until a signal, and reads the file again at another one.

use std::collections::HashSet;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use reuseport::group::{Group, GroupKey};
use reuseport::id::Cookie;
use reuseport::status::GroupStatus;
use reuseport::watch::{Change, Ended, Watch};
use reuseport::{Attach, Attached, Balancer, Host, MemberChange, Program, Stop};

use super::exporter::{Counts, Served};
use crate::backend::NamedNetns;
use crate::config::{Config, Server};
use crate::notify;
use crate::output;
use crate::tell::words::report;
use crate::tell::{Errors, Form, Teller, lock};

/// How often to look whether groups came back of which the file says something else.
const PENDING: Duration = Duration::from_millis(500);

pub(super) struct Service {
    host: Host,
    watch: Watch,
    servers: Arc<Vec<Server>>,
    told: Told,
    served: Option<Served>,
}

/// What it says.
struct Told {
    host: Host,
    form: Form,
    teller: Teller,
    errors: Arc<Mutex<Errors>>,
    /// The groups that are steered.
    steered: HashSet<GroupKey>,
    /// The groups of which the file says something else that is not done yet: they were gone, or it failed.
    changed: HashSet<GroupKey>,
    /// Those of them that are back.
    due: HashSet<GroupKey>,
    counts: Counts,
}

impl Service {
    pub(super) fn new(host: Host, stop: Stop) -> Result<Self> {
        let form = Form::of_service();
        let told = Told {
            host: host.clone(),
            form,
            teller: Teller::new(form),
            errors: Arc::new(Mutex::new(Errors::new(form))),
            steered: HashSet::new(),
            changed: HashSet::new(),
            due: HashSet::new(),
            counts: Counts::new(),
        };
        let watch = Watch::new(host.clone(), stop)?;
        Ok(Self { watch, host, servers: Arc::default(), told, served: None })
    }

    /// Does from now on what this file says.
    ///
    /// # Errors
    ///
    /// As [`prepare`](Self::prepare) and [`apply`](Self::apply).
    pub(super) fn follow(&mut self, config: &Config) -> Result<()> {
        let prepared = self.prepare(config)?;
        self.apply(config, prepared)
    }

    /// # Errors
    ///
    /// If a port cannot be watched. The rest is done then.
    fn apply(&mut self, config: &Config, prepared: Prepared) -> Result<()> {
        let Prepared { servers, groups } = prepared;
        let before = std::mem::replace(&mut self.servers, Arc::new(servers));
        self.watch.set_retaking(config.retake);
        self.told.teller.defer();
        self.watch.wait_for_none();
        for key in self.watch.followed().cloned().collect::<Vec<_>>() {
            let now = of(&self.servers, &key).cloned();
            match (of(&before, &key), now) {
                (_, None) => {
                    self.watch.unfollow(&key);
                    self.told.steered.remove(&key);
                    self.told.changed.remove(&key);
                    let text =
                        format!("{key}: no longer in the file; its program stays attached\n");
                    self.told.teller.print(&text);
                }
                (Some(before), Some(now))
                    if before.is_as(&now) && !self.told.changed.contains(&key) => {}
                (_, Some(now)) => self.change(&key, &now, &groups),
            }
        }
        let mut outcome = Ok(());
        for spec in self.servers.iter().flat_map(|server| &server.groups) {
            let (servers, errors) = (Arc::clone(&self.servers), Arc::clone(&self.told.errors));
            let waits = self.watch.wait_for_all(spec, move |host, group| {
                let server = servers.iter().find(|server| server.has(group))?;
                lock(&errors).note(&group.key.to_string(), request(host, group, server))
            });
            outcome = outcome.and(waits.map_err(Into::into));
        }
        self.told.count_groups();
        outcome
    }

    /// What comes before anything changes for groups.
    ///
    /// # Errors
    ///
    /// If the file names a network namespace that is not there, or metrics cannot be served. Nothing has changed then.
    fn prepare(&mut self, config: &Config) -> Result<Prepared> {
        let servers = config.servers.iter().cloned().map(resolved).collect::<Result<_>>()?;
        let groups = self.host.groups()?;
        let served = Served::change(&mut self.served, &self.host, config, &self.told.counts)?;
        if let Some(text) = served {
            self.told.teller.print(&text);
        }
        Ok(Prepared { servers, groups })
    }

    /// The file says something else of a group that is followed. Of one that is gone, it counts when it comes back.
    fn change(&mut self, key: &GroupKey, server: &Server, groups: &[Group]) {
        let Some(group) = groups.iter().find(|group| group.key.name_only() == *key) else {
            self.told.changed.insert(key.clone());
            return;
        };
        let request = request(&self.host, group, server);
        match request.and_then(|request| Ok(self.watch.change(key, request)?)) {
            Ok(attached) => {
                self.told.changed.remove(key);
                self.told.teller.note_steering(key, attached.steering);
                self.told.teller.print(&report(key, &attached));
                self.told.weigh(key, server, None);
            }
            Err(error) => {
                self.told.changed.insert(key.clone());
                self.told.form.complain(&error);
            }
        }
    }

    /// Does what the file says of groups that came back since it changed.
    fn change_due(&mut self) -> Result<()> {
        let due = std::mem::take(&mut self.told.due);
        if due.is_empty() {
            return Ok(());
        }
        let (groups, servers) = (self.host.groups()?, Arc::clone(&self.servers));
        for key in due {
            if let Some(server) = of(&servers, &key) {
                self.change(&key, server, &groups);
            }
        }
        Ok(())
    }

    /// Follows the groups until a signal ends it. `reload`: readable when the file is to be read again.
    ///
    /// # Errors
    ///
    /// If the source of events fails.
    pub(super) fn run(mut self, mut reload: &UnixStream, file: &Path) -> Result<()> {
        // It is ready when it has attached to what is there.
        let (mut deadline, mut is_ready) = (Some(Instant::now()), false);
        loop {
            let (servers, told) = (&self.servers, &mut self.told);
            let ended = self.watch.run_until(reload, deadline, |key, change| {
                told.tell(key, change, servers);
            })?;
            match ended {
                Ended::Stopped => {
                    notify::stopping();
                    return Ok(());
                }
                Ended::Interrupted => {
                    let mut signals = [0; 64];
                    while reload.read(&mut signals).is_ok_and(|read| read > 0) {}
                    notify::reloading();
                    self.reload(file);
                    (deadline, is_ready) = (Some(Instant::now()), false);
                    continue;
                }
                _ if is_ready => {}
                _ => {
                    self.told.teller.tell_deferred(&self.host);
                    notify::ready(&self.told.status());
                    is_ready = true;
                    let text =
                        format!("{}; SIGHUP reads {} again\n", self.told.status(), file.display());
                    self.told.teller.print(&text);
                }
            }
            if let Err(error) = self.change_due() {
                self.told.form.complain(&error);
            }
            let interval = notify::interval();
            if interval.is_some() {
                notify::alive();
            }
            // Groups that come back are attended to from here.
            let pending = (!self.told.changed.is_empty()).then_some(PENDING);
            deadline =
                interval.into_iter().chain(pending).min().map(|pause| Instant::now() + pause);
        }
    }

    /// Reads the file again. One that is wrong changes nothing.
    fn reload(&mut self, file: &Path) {
        self.told.counts.reloads.inc();
        let read = Config::read(file).and_then(|config| {
            let prepared = self.prepare(&config)?;
            Ok((config, prepared))
        });
        let read = read.context("the file is not read again");
        if read.is_err() {
            self.told.counts.refused_reloads.inc();
        }
        if let Err(error) = read.and_then(|(config, prepared)| self.apply(&config, prepared)) {
            self.told.form.complain(&error);
        }
    }
}

/// What a file needs to be applied.
struct Prepared {
    /// With the network namespaces that their names mean now.
    servers: Vec<Server>,
    /// Those that are there.
    groups: Vec<Group>,
}

impl Told {
    fn tell(&mut self, key: &GroupKey, change: Change, servers: &[Server]) {
        let steered = self.steered.len();
        let is_there = matches!(change, Change::Members(_));
        self.count(&change);
        match &change {
            Change::Members(_) => self.steered.insert(key.clone()),
            Change::Gone | Change::Detached => self.steered.remove(key),
            _ => false,
        };
        let fresh = match &change {
            Change::Members(Attached { changes, .. }) => {
                let inherited =
                    |cookie: &Cookie| changes.inherited.iter().any(|i| i.cookie == *cookie);
                changes.enrolled.iter().copied().filter(|cookie| !inherited(cookie)).collect()
            }
            _ => Vec::new(),
        };
        self.teller.tell(&self.host.clone(), key, change);
        if is_there && self.changed.contains(key) {
            self.due.insert(key.clone());
        } else if let Some(server) = of(servers, key).filter(|_| !fresh.is_empty()) {
            self.weigh(key, server, Some(&fresh));
        }
        self.count_groups();
        if self.steered.len() != steered {
            notify::status(&self.status());
        }
    }

    fn count(&self, change: &Change) {
        match change {
            Change::Members(attached) => {
                self.counts.updates.inc();
                if let Some(delay) = attached.delay {
                    self.counts.delay.observe(delay.as_secs_f64());
                }
            }
            Change::Failed(_) => drop(self.counts.failures.inc()),
            _ => {}
        }
    }

    fn count_groups(&self) {
        self.counts.groups.set(i64::try_from(self.steered.len()).unwrap_or(i64::MAX));
    }

    /// Gives members the weights of their slots in the file: `only` these, or all.
    fn weigh(&mut self, key: &GroupKey, server: &Server, only: Option<&[Cookie]>) {
        if server.weights.is_empty() {
            return;
        }
        let weigh = || -> Result<()> {
            let status = self.host.status(key)?;
            let changes = weights(&status, server, only);
            if !changes.is_empty() {
                Balancer::open(&self.host, key)?.change_members(&changes)?;
            }
            Ok(())
        };
        if let Err(error) = weigh() {
            self.form
                .complain(&error.context(format!("{key}: the weights of the file are not set")));
        }
    }

    fn status(&self) -> String {
        format!("following {}", output::count(self.steered.len(), "group"))
    }
}

/// The members whose weight is not that of their slot in the file.
fn weights(status: &GroupStatus, server: &Server, only: Option<&[Cookie]>) -> Vec<MemberChange> {
    let change = |member: &reuseport::status::MemberStatus| {
        let enrolment = member.enrolment.as_ref()?;
        let cookie = member.member.cookie?;
        let (_, weight) = server.weights.iter().find(|(slot, _)| *slot == enrolment.slot)?;
        let is_meant =
            only.is_none_or(|only| only.contains(&cookie)) && *weight != enrolment.weight;
        let change = MemberChange::new(enrolment.slot).member(Some(cookie));
        is_meant.then(|| change.weight(Some(*weight)))
    };
    status.members.iter().filter_map(change).collect()
}

/// The first server of the file that has a group with this key.
fn of<'a>(servers: &'a [Server], key: &GroupKey) -> Option<&'a Server> {
    servers.iter().find(|server| server.groups.iter().any(|spec| spec.matches_name(key)))
}

/// How to attach to a group.
fn request(host: &Host, group: &Group, server: &Server) -> Result<Attach> {
    let now = || Ok(host.status(&group.key)?.steering);
    let policy = server.options.decide(server.policy, &group.key, now)?;
    let mut attach = Attach::default();
    attach.program = policy.map(Program::from);
    // One member that cannot be enrolled must not keep the others out.
    let attach = attach.hold_new(server.hold_new);
    Ok(attach.slots(server.slots).cpus(server.options.cpus.clone()).partial(true))
}

/// With the network namespaces that its names mean now.
fn resolved(server: Server) -> Result<Server> {
    let resolve = |spec: reuseport::spec::GroupSpec| -> Result<_> {
        let Some(name) = spec.netns().map(str::to_owned) else { return Ok(spec) };
        let netns = NamedNetns::find(&name).with_context(|| format!("[server.{}]", server.name));
        let NamedNetns { name, inode } = netns?;
        Ok(spec.in_netns(&name, inode))
    };
    let groups = server.groups.clone().into_iter().map(resolve).collect::<Result<_>>()?;
    Ok(Server { groups, ..server })
}
