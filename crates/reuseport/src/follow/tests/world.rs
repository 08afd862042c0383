//! A host that exists only here: groups, processes and failures.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use crate::change::request::{Attached, Changes};
use crate::change::transaction::SlotOwners;
use crate::error::{Error, ErrorKind, Result};
use crate::follow::change::Change;
use crate::follow::followed::Options;
use crate::follow::follower::{Action, Event, Follower};
use crate::follow::pace::REGULARLY;
use crate::follow::seen::{Done, Found, Observation, Port, Seen, Step};
use crate::kernel::observe::Extent;
use crate::model::group::{AttachedProgram, Group, GroupKey, Holder, Member, Protocol, examples};
use crate::model::held::HeldSocket;
use crate::model::id::Cookie;
use crate::model::refusal::{no_group, not_attached};
use crate::model::selection::Steering;

const OPTIONS: Options = Options { interval: REGULARLY, retakes: false, rests: false };

pub(super) fn near(process: u32) -> Extent {
    Extent::Near { pids: vec![process], udp: false }
}

pub(super) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(super) fn cookie(n: u64) -> Cookie {
    Cookie::new(n).unwrap()
}

pub(super) fn key(n: usize) -> GroupKey {
    key_of(Protocol::Tcp, n)
}

pub(super) fn key_of(protocol: Protocol, n: usize) -> GroupKey {
    examples::key(protocol, &format!("127.0.0.1:{}", 8000 + n))
}

/// A group of the host.
#[derive(Default)]
pub(super) struct Server {
    /// The sockets: when each joins, and the process that holds it.
    pub(super) sockets: BTreeMap<u64, (Option<Instant>, u32)>,
    pub(super) slots: BTreeSet<u64>,
    /// Whether newcomers are held until a thread waits for them, and those that are.
    pub(super) holds_new: bool,
    pub(super) held: BTreeSet<u64>,
    pub(super) fails_with: Option<String>,
    /// Whether updates that fail release members before.
    pub(super) fails_late: bool,
    /// The members that have slots, by the reports.
    pub(super) reported: BTreeSet<u64>,
    pub(super) detached: bool,
    pub(super) program: Option<AttachedProgram>,
    /// Since when the slots, or what was reported of them, are wrong although nothing fails.
    pub(super) wrong: Option<Instant>,
}

impl Server {
    pub(super) fn members(&self, now: Instant) -> BTreeSet<u64> {
        let joined = self.sockets.iter().filter(|(_, (at, _))| at.is_some_and(|at| at <= now));
        joined.map(|(cookie, _)| *cookie).collect()
    }

    fn notes(&mut self, changes: &Changes) {
        for cookie in &changes.released {
            assert!(self.reported.remove(&cookie.get()), "{cookie} is said to be released twice");
        }
        self.reported.extend(changes.enrolled.iter().map(|cookie| cookie.get()));
    }
}

pub(super) struct World {
    /// That of all groups.
    protocol: Protocol,
    /// Whether the groups rest: then it is told that events were lost.
    rests: bool,
    pub(super) now: Instant,
    pub(super) follower: Follower,
    pub(super) servers: Vec<Server>,
    pub(super) next: u64,
    pub(super) looks: usize,
    pub(super) looks_for_waiters: usize,
    /// The members for which a thread waits.
    pub(super) awaited: BTreeSet<u64>,
    /// Whether looks for them fail.
    pub(super) is_blind: bool,
    /// What each look costs.
    pub(super) cost: Duration,
    /// The groups that were updated, and what each update looked at.
    pub(super) updates: Vec<(GroupKey, Extent)>,
    /// What was reported, with "ok" after each successful update.
    pub(super) log: Vec<(usize, String)>,
}

impl World {
    fn of(protocol: Protocol, groups: usize, options: Options) -> Self {
        let now = Instant::now();
        let mut follower = Follower::new(now);
        (0..groups).for_each(|n| follower.add(now, key_of(protocol, n), options, Vec::new()));
        let servers = (0..groups).map(|_| Server::default()).collect();
        let (updates, log) = (Vec::new(), Vec::new());
        let (rests, next, looks, cost) = (options.rests, 0, 0, ms(0));
        let (looks_for_waiters, awaited) = (0, BTreeSet::new());
        let mut world = Self {
            protocol,
            rests,
            now,
            follower,
            servers,
            next,
            looks,
            looks_for_waiters,
            awaited,
            is_blind: false,
            cost,
            updates,
            log,
        };
        for n in 0..groups {
            world.joins(n, Some(ms(0)), true);
        }
        world
    }

    /// Groups to which nothing has happened for long.
    pub(super) fn settled(groups: usize) -> Self {
        Self::settled_of(Protocol::Tcp, groups)
    }

    pub(super) fn settled_of(protocol: Protocol, groups: usize) -> Self {
        Self::of(protocol, groups, OPTIONS).settle()
    }

    /// One that is looked at this often.
    pub(super) fn settled_every(interval: Duration) -> Self {
        Self::of(Protocol::Udp, 1, Options { interval, ..OPTIONS }).settle()
    }

    /// Those that rest if `rests`.
    pub(super) fn that_may_rest(groups: usize, rests: bool) -> Self {
        Self::of(Protocol::Tcp, groups, Options { rests, ..OPTIONS })
    }

    /// Those that rest.
    pub(super) fn resting(groups: usize) -> Self {
        let mut world = Self::that_may_rest(groups, true).settle();
        world.passes(10 * REGULARLY);
        world.looks = 0;
        world
    }

    fn settle(self) -> Self {
        let mut world = self;
        world.passes(ms(500));
        world.updates.clear();
        world.log.clear();
        world.looks = 0;
        world
    }

    pub(super) fn port(n: usize) -> Port {
        Port::of(&key(n))
    }

    /// A socket listens, and is in its group after this time, or never.
    pub(super) fn joins(&mut self, n: usize, after: Option<Duration>, silently: bool) -> u64 {
        self.next += 1;
        let process = (self.next % 5) as u32;
        let joins = after.map(|after| self.now + after);
        self.servers[n].sockets.insert(self.next, (joins, process));
        let (port, cookie) = (Port::of(&key_of(self.protocol, n)), cookie(self.next));
        self.tells(Event::Came { port, cookie, process }, silently);
        self.next
    }

    pub(super) fn leaves(&mut self, n: usize, silently: bool) {
        if let Some((gone, _)) = self.servers[n].sockets.pop_first() {
            let (port, cookie) = (Self::port(n), cookie(gone));
            self.tells(Event::Went { port, cookie }, silently);
        }
    }

    fn tells(&mut self, event: Event, silently: bool) {
        match silently {
            false => self.follower.handle(self.now, event),
            true if self.rests => self.follower.handle(self.now, Event::Anything),
            true => {}
        }
    }

    pub(super) fn group(&self, n: usize, extent: &Extent) -> Group {
        let server = &self.servers[n];
        let member = |of: u64| {
            let pid = server.sockets[&of].1;
            let holder = Holder { pid, fd: 3, comm: "a".into(), thread: None, origin: None };
            let seen = match extent {
                Extent::Whole => true,
                Extent::Near { pids, .. } => pids.contains(&pid),
            };
            let holders = seen.then_some(holder).into_iter().collect();
            Member { holders, ..examples::member(self.protocol, of) }
        };
        let members = server.members(self.now).into_iter().map(member).collect();
        let key = key_of(self.protocol, n);
        Group { program: server.program.clone(), ..examples::group(key, members) }
    }

    pub(super) fn number(&self, key: &GroupKey) -> usize {
        assert!(self.follower.keys().any(|known| known == key), "{key} is followed no more");
        usize::from(key.address.port()) - 8000
    }

    pub(super) fn acts(&mut self) {
        for _ in 0..1000 {
            match self.follower.poll(self.now) {
                None => return self.checks(),
                Some(Action::Observe(extent)) => {
                    self.looks += 1;
                    let groups: Vec<Group> = (0..self.servers.len())
                        .map(|n| self.group(n, &extent))
                        .filter(|group| !group.members.is_empty())
                        .collect();
                    let whole = extent == Extent::Whole;
                    let see = |group: &Group| (group.key.clone(), Seen::new(group, true, whole));
                    let seen = groups.iter().map(see).collect();
                    let observation = Observation::new(&groups, seen, Vec::new());
                    let observation = Observation { cost: self.cost, ..observation };
                    self.follower.observed(self.now, Some(&observation));
                }
                Some(Action::LookForWaiters(sockets)) => {
                    self.looks_for_waiters += 1;
                    let waits = |(cookie, _): &HeldSocket| self.awaited.contains(&cookie.get());
                    let awaited: Vec<Cookie> =
                        sockets.iter().filter(|socket| waits(socket)).map(|(c, _)| *c).collect();
                    let awaited = (!self.is_blind).then_some(&awaited[..]);
                    self.follower.awaited(self.now, awaited, self.cost);
                }
                Some(Action::Update { key, extent }) => {
                    let outcome = self.updates(&key, &extent);
                    self.updates.push((key.clone(), extent));
                    self.follower.updated(self.now, &key, outcome);
                }
                Some(Action::Report { key, change }) => {
                    let n = usize::from(key.address.port()) - 8000;
                    let said = match *change {
                        Change::Failed(error) => error.report().to_string(),
                        Change::Members(attached) => {
                            self.servers[n].notes(&attached.changes);
                            continue;
                        }
                        other => format!("{other:?}"),
                    };
                    self.log.push((n, said));
                }
                Some(Action::Find { ids }) => panic!("nothing is expected: {ids:?}"),
                Some(Action::Forget { key }) => {
                    assert!(self.follower.keys().all(|known| *known != key));
                }
            }
        }
        panic!("it never rests");
    }

    pub(super) fn updates(&mut self, key: &GroupKey, extent: &Extent) -> Result<Done> {
        let n = self.number(key);
        let server = &self.servers[n];
        let failure = server.fails_with.clone();
        if let (Some(text), false) = (&failure, server.fails_late) {
            return Err(Error::new(ErrorKind::System, text.clone()));
        }
        if server.detached {
            return Err(not_attached(key));
        }
        let group = self.group(n, extent);
        if group.members.is_empty() {
            return Err(no_group(key));
        }
        let seen = Seen::new(&group, true, *extent == Extent::Whole);
        let enrolled = server.slots.iter().map(|n| cookie(*n)).collect();
        let slots = SlotOwners { in_slots: HashSet::clone(&enrolled), enrolled };
        let displaced_by = server.program.clone();
        let found = Found { slots, group, seen: seen.clone(), displaced_by };
        loop {
            match self.follower.plan(self.now, key, &found)? {
                Step::Rest => {
                    self.log.push((n, "ok".to_owned()));
                    return Ok(Done::Rested);
                }
                Step::LookAtAll => return Ok(Done::SawTooLittle),
                Step::GiveWay => self.follower.gave_way(key),
                Step::Attach { group, awaited, .. } => {
                    let server = &mut self.servers[n];
                    let held: BTreeSet<u64> = server.held.clone();
                    server.program = None;
                    let members: BTreeSet<u64> =
                        group.members.iter().map(|m| m.cookie.unwrap().get()).collect();
                    let new =
                        |member: &Member| !server.slots.contains(&member.cookie.unwrap().get());
                    assert!(
                        group.members.iter().filter(|m| new(m)).all(|m| !m.holders.is_empty()),
                        "a newcomer that was not seen in full"
                    );
                    if let Some(text) = &failure {
                        server.slots.retain(|slot| members.contains(slot));
                        return Err(Error::new(ErrorKind::System, text.clone()));
                    }
                    let differ = |a: &BTreeSet<u64>, b: &BTreeSet<u64>| {
                        a.difference(b).map(|n| cookie(*n)).collect()
                    };
                    let enrolled: Vec<Cookie> = differ(&members, &server.slots);
                    let released = differ(&server.slots, &members);
                    server.slots = members;
                    let came =
                        enrolled.iter().filter(|_| server.holds_new).map(|c: &Cookie| c.get());
                    server.held.extend(came);
                    server.held.retain(|n| {
                        server.slots.contains(n) && !awaited.iter().any(|c| c.get() == *n)
                    });
                    let taken_in = awaited.iter().filter(|c| held.contains(&c.get()));
                    let taken_in = taken_in.copied().collect();
                    let address = |n: &u64| group.member(cookie(*n)).unwrap().sock_address;
                    let still_held = server.held.iter().map(|n| (cookie(*n), address(n))).collect();
                    self.log.push((n, "ok".to_owned()));
                    let changes =
                        Changes { enrolled, released, taken_in, still_held, ..Changes::default() };
                    let attached = Attached {
                        steering: Steering::KernelHash,
                        changes,
                        replaced: None,
                        degraded: Vec::new(),
                        delay: None,
                    };
                    return Ok(Done::Attached(Box::new(attached), seen));
                }
            }
        }
    }

    /// What holds whenever there is nothing to do.
    pub(super) fn checks(&mut self) {
        if let Some(deadline) = self.follower.deadline() {
            assert!(deadline > self.now, "a deadline in the past");
        }
        for server in &mut self.servers {
            let members = server.members(self.now);
            let healthy = server.fails_with.is_none() && !server.detached && !members.is_empty();
            if !healthy || (server.slots == members && server.reported == members) {
                server.wrong = None;
                continue;
            }
            let since = *server.wrong.get_or_insert(self.now);
            assert!(self.now - since <= REGULARLY, "wrong for {:?}", self.now - since);
        }
    }

    /// Time passes; the follower is polled when it wants to be.
    pub(super) fn passes(&mut self, time: Duration) {
        let end = self.now + time;
        self.acts();
        while let Some(deadline) = self.follower.deadline().filter(|deadline| *deadline <= end) {
            self.now = deadline;
            self.acts();
        }
        self.now = end;
        self.acts();
    }

    pub(super) fn said(&self, n: usize) -> Vec<&str> {
        let of_it = self.log.iter().filter(|(of, said)| *of == n && said != "ok");
        of_it.map(|(_, said)| said.as_str()).collect()
    }
}
