//! The command's interface to the library: finding the group that the user names, and operations on
//! it. Prints nothing.

use std::net::TcpListener;

use anyhow::{Context, Result};
use reuseport::Share;
use reuseport::group::{Group, GroupKey};
use reuseport::id::{Cookie, Percent, Weight};
use reuseport::status::{GroupStatus, MemberStatus, State};
use reuseport::{
    Balancer, Error, ErrorKind, GroupSpec, Host, MemberChange, Policy, Promoted, Report,
};

use crate::error::{self, Failure, Failures};
use crate::netns;

/// The group that the user names.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) group: GroupSpec,
}

/// A network namespace as the user names it.
#[derive(Debug, Clone)]
pub(crate) struct NamedNetns {
    pub(crate) name: String,
    pub(crate) inode: u32,
}

impl NamedNetns {
    /// The namespace that a name in `ip netns` or an inode number means. Whether there is one with this number is
    /// not asked yet.
    ///
    /// # Errors
    ///
    /// If it is neither.
    pub(crate) fn find(name: &str) -> Result<Self> {
        let inode = netns::resolve(name).ok_or_else(|| {
            Failure::new(
                format!("no network namespace is named `{}`", name.escape_debug()),
                NETNS_HINT,
            )
        })?;
        Ok(Self { name: name.to_owned(), inode })
    }

    /// Fails if there is no such namespace. For one in which no group was found.
    pub(crate) fn check(&self) -> Result<()> {
        match netns::exists(self.inode) {
            true => Ok(()),
            false => Err(Failure::new(
                format!("there is no network namespace {}: no process is in it", self.name),
                NETNS_HINT,
            )
            .into()),
        }
    }
}

const NETNS_HINT: &str = "`ip netns` and `lsns -t net` list them";

/// The groups that the user names.
#[derive(Debug)]
pub(crate) struct Targets {
    pub(crate) targets: Vec<Target>,
    /// Every group that matches one.
    pub(crate) all: bool,
}

/// Which of several groups that share their name is meant, if none is named by a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// The one that we steer.
    Steered,
    /// None: they have to be told apart.
    Told,
}

impl Targets {
    /// The groups, as the kernel has them now, each once.
    ///
    /// # Errors
    ///
    /// If there is none for one of the targets; without `all`, also if there are several and none of them alone is
    /// in our own network namespace.
    pub(crate) fn find(&self, host: &Host, of: Of) -> Result<Vec<Group>> {
        let listed = host.groups()?;
        let mut found: Vec<Group> = Vec::new();
        for target in &self.targets {
            for group in target.find_in(host, &listed, of, self.all)? {
                if found.iter().all(|known| known.key != group.key) {
                    found.push(group);
                }
            }
        }
        Ok(found)
    }

    /// Whether the user may have named more than one group.
    pub(crate) fn are_several(&self) -> bool {
        self.all || self.targets.len() > 1
    }
}

impl Target {
    /// The groups to attach to: with `all`, every one that matches.
    ///
    /// # Errors
    ///
    /// As [`Targets::find`].
    pub(crate) fn find(&self, host: &Host, all: bool) -> Result<Vec<Group>> {
        self.find_in(host, &host.groups()?, Of::Told, all)
    }

    fn find_in(&self, host: &Host, listed: &[Group], of: Of, all: bool) -> Result<Vec<Group>> {
        let matching = listed.iter().filter(|group| all && self.group.matches(group));
        let matching: Vec<Group> = matching.cloned().collect();
        if !matching.is_empty() {
            return Ok(matching);
        }
        let chosen = match of {
            Of::Steered => host.choose_steered(&self.group, listed),
            Of::Told => self.group.choose(listed, Some(host.own_netns()?.cookie)),
        };
        chosen.map(|group| vec![group.clone()]).or_else(|error| Err(self.explain(host, error)?))
    }

    /// Says which sockets are there, if no group is, and whether there is such a network namespace.
    fn explain(&self, host: &Host, error: Error) -> Result<anyhow::Error> {
        let is_missing = error.kind() == ErrorKind::NotFound;
        if let Some(netns) = self.group.netns().filter(|_| is_missing) {
            NamedNetns::find(netns)?.check()?;
        }
        Ok(host.explain(error, &self.group).into())
    }

    /// Whether it names this group.
    pub(crate) fn has(&self, group: &Group) -> bool {
        self.group.matches(group)
    }
}

/// Some of the groups of the host: those that match one of the targets, or all; in one network namespace, or in all.
#[derive(Debug)]
pub(crate) struct Which {
    pub(crate) targets: Vec<Target>,
    pub(crate) netns: Option<NamedNetns>,
}

impl Which {
    pub(crate) fn has(&self, group: &Group) -> bool {
        let in_netns = |netns: &NamedNetns| netns.inode == group.key.netns.inode;
        self.netns.as_ref().is_none_or(in_netns)
            && (self.targets.is_empty() || self.targets.iter().any(|target| target.has(group)))
    }

    /// The first target that matches none of these groups.
    pub(crate) fn missing<'a>(
        &self,
        groups: impl Iterator<Item = &'a Group> + Clone,
    ) -> Option<&Target> {
        self.targets.iter().find(|target| !groups.clone().any(|group| target.has(group)))
    }
}

/// Everything about every group, in one namespace or in all.
///
/// # Errors
///
/// If the caller lacks the rights, or there is no such namespace.
pub(crate) fn statuses(netns: Option<NamedNetns>) -> Result<Vec<GroupStatus>> {
    let mut statuses = Host::open()?.statuses()?;
    if let Some(netns) = netns {
        statuses.retain(|status| status.group.key.netns.inode == netns.inode);
        if statuses.is_empty() {
            netns.check()?;
        }
    }
    Ok(statuses)
}

/// Does something with each of the groups, each by itself. With `all`, groups with which there is nothing to do are
/// passed over, unless that is every one.
///
/// # Errors
///
/// The most serious one; the others are printed.
pub(crate) fn for_each(
    groups: &[Group],
    all: bool,
    mut each: impl FnMut(&Group) -> Result<()>,
) -> Result<()> {
    let (mut failures, mut nothing, mut done) = (Failures::default(), None, false);
    for group in groups {
        match each(group) {
            Err(error) if all && error::is_nothing(&error) => nothing = nothing.or(Some(error)),
            result => {
                done = true;
                failures.note(result);
            }
        }
    }
    match nothing {
        Some(error) if !done => Err(error),
        _ => failures.worst(),
    }
}

/// A generation that is to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generation {
    /// The newest one, if it is that one or none is given.
    Newest(Option<u32>),
    /// The same, with a part of all picks.
    OnTrial(Option<u32>, Percent),
    Before,
}

/// The members of a group under one of our policies, to be changed.
#[derive(Debug)]
pub(crate) struct Members {
    host: Host,
    balancer: Balancer,
    /// The group as it was found.
    pub(crate) status: GroupStatus,
}

impl Members {
    /// Finds the groups and reads their state. With several, all of them are there before one is changed.
    ///
    /// # Errors
    ///
    /// If there is none, or none of our programs is attached to one of them. With `--all`, groups to which none is
    /// attached are passed over.
    pub(crate) fn open(targets: &Targets) -> Result<Vec<Self>> {
        let host = Host::open()?;
        let (mut opened, mut nothing) = (Vec::new(), None);
        for Group { key, .. } in targets.find(&host, Of::Steered)? {
            let open = || -> Result<Self> {
                let balancer = Balancer::open(&host, &key)?;
                let status = host.status(&key)?;
                Ok(Self { host: host.clone(), balancer, status })
            };
            match open() {
                Ok(members) => opened.push(members),
                Err(error) if targets.all && error::is_nothing(&error) => nothing = Some(error),
                Err(error) => return Err(error),
            }
        }
        match nothing {
            Some(error) if opened.is_empty() => Err(error),
            _ => Ok(opened),
        }
    }

    /// The group as it is now.
    ///
    /// # Errors
    ///
    /// If it is gone.
    pub(crate) fn now(&self) -> reuseport::Result<GroupStatus> {
        self.host.status(self.balancer.key())
    }

    /// Lets the newest generation serve alone, or the one before.
    ///
    /// # Errors
    ///
    /// If there is none, or another one is the newest.
    pub(crate) fn switch(&self, to: Generation) -> reuseport::Result<Promoted> {
        match to {
            Generation::Newest(None) => self.balancer.promote(),
            Generation::Newest(Some(only)) => self.balancer.promote_generation(only),
            Generation::OnTrial(None, share) => self.balancer.try_out(share),
            Generation::OnTrial(Some(only), share) => self.balancer.try_out_generation(only, share),
            Generation::Before => self.balancer.rollback(),
        }
    }

    /// Changes weights and states of members: all in one step, or none. Returns the resulting
    /// shares of all members.
    ///
    /// # Errors
    ///
    /// If one of them has no slot, or its slot belongs to another member by now.
    pub(crate) fn change<'a>(
        &self,
        changes: impl Iterator<Item = (&'a MemberStatus, Option<Weight>, Option<State>)>,
    ) -> Result<Vec<Share>> {
        let change = |(status, weight, state): (&MemberStatus, _, _)| {
            let member = status.member.cookie;
            let slot = status.enrolment.as_ref().map(|enrolment| enrolment.slot);
            let slot = slot.ok_or_else(|| {
                let key = self.balancer.key();
                let failed = format!("cannot change {} of {key}", status.member.name());
                match status.member.unborrowable() {
                    Some(why) => Failure::nothing(
                        format!("{failed}: it has no slot, because {why}"),
                        format!("`reuseport show {key}` lists the members"),
                    ),
                    None => Failure::nothing(
                        format!("{failed}: it joined after `attach` and has no slot"),
                        format!("`reuseport attach {key}` adds it"),
                    ),
                }
            })?;
            Ok(MemberChange::new(slot).member(member).weight(weight).state(state))
        };
        let changes: Vec<MemberChange> = changes.map(change).collect::<Result<_>>()?;
        Ok(self.balancer.change_members(&changes)?)
    }
}

/// A member's state; None: it has no slot.
pub(crate) fn state(member: &MemberStatus) -> Option<State> {
    Some(member.enrolment.as_ref()?.state)
}

/// The weight by which a member gets new connections; None: it gets none.
pub(crate) fn active_weight(share: &Share) -> Option<u32> {
    let weight = u32::from(share.weight.get());
    (share.state == State::Active && weight > 0).then_some(weight)
}

/// The demo's group: this process's own listeners, steered from `attach` to `detach`. Dropping it
/// detaches.
#[derive(Debug)]
pub(crate) struct OwnGroup {
    host: Host,
    key: GroupKey,
    /// The listeners' cookies, in their order.
    cookies: Vec<Cookie>,
    balancer: Option<Balancer>,
}

/// How often the program picked each listener, and how often none.
#[derive(Debug)]
pub(crate) struct Picks {
    /// In the order of the listeners.
    pub(crate) members: Vec<u64>,
    /// Choices that were left to the kernel.
    pub(crate) left_to_kernel: u64,
}

impl OwnGroup {
    /// The group of these listeners.
    ///
    /// # Errors
    ///
    /// If the caller lacks the rights to find it.
    pub(crate) fn find<'a>(listeners: impl Iterator<Item = &'a TcpListener>) -> Result<Self> {
        let cookies: Vec<Cookie> = listeners.map(cookie).collect::<Result<_>>()?;
        let host = Host::open_temporary()?;
        let ours = |group: &Group| cookies.iter().any(|cookie| group.member(*cookie).is_some());
        let group = host.groups()?.into_iter().find(ours);
        let key = group.context("cannot find our own listeners among the host's groups")?.key;
        Ok(Self { host, key, cookies, balancer: None })
    }

    /// Lets a policy decide.
    ///
    /// # Errors
    ///
    /// As `attach`.
    pub(crate) fn attach(&mut self, policy: Policy) -> Result<()> {
        let (balancer, _) = Balancer::attach(&self.host, &self.key, &policy.into())?;
        self.balancer = Some(balancer);
        Ok(())
    }

    /// What the kernel program counted so far.
    ///
    /// # Errors
    ///
    /// If the counters cannot be read.
    pub(crate) fn picks(&self) -> Result<Picks> {
        let status = self.host.status(&self.key)?;
        let picks = |cookie: &Cookie| {
            let member = status.members.iter().find(|m| m.member.cookie == Some(*cookie))?;
            member.enrolment.as_ref()?.picks
        };
        let members: Option<Vec<u64>> = self.cookies.iter().map(picks).collect();
        let left = status.counters.iter().find(|c| c.reason == "fallback_kernel");
        Ok(Picks {
            members: members.context("cannot read the program's counters: nothing is attached")?,
            left_to_kernel: left.map_or(0, |counter| counter.count),
        })
    }

    /// Lets the kernel's hash decide again. Nothing to do if it does already.
    ///
    /// # Errors
    ///
    /// As `detach`.
    pub(crate) fn detach(&mut self) -> Result<()> {
        match self.balancer.take() {
            Some(balancer) => Ok(balancer.detach().map(|_| ())?),
            None => Ok(()),
        }
    }
}

impl Drop for OwnGroup {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            let report = Report::new(error.as_ref());
            tracing::warn!(hint = report.hint(), "{}", report.causes());
        }
    }
}

fn cookie(listener: &TcpListener) -> Result<Cookie> {
    let cookie = rustix::net::sockopt::socket_cookie(listener)
        .context("cannot read a listener's cookie (SO_COOKIE)")?;
    Cookie::new(cookie).context("the kernel gave a listener no cookie")
}
