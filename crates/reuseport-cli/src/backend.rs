//! The command's interface to the library: finding the group that the user names, and operations on
//! it. Prints nothing.

use std::net::TcpListener;

use anyhow::{Context, Result};
use reuseport::Share;
use reuseport::group::{Group, GroupKey};
use reuseport::id::{Cookie, Weight};
use reuseport::status::{GroupStatus, MemberStatus, State};
use reuseport::{Balancer, Detached, Error, GroupSpec, Host, MemberChange, Policy, Report};

use crate::error::Failure;

/// The group that the user names.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) group: GroupSpec,
    /// The inode number of the only network namespace to look at; None: all of them.
    pub(crate) netns: Option<u32>,
}

impl Target {
    /// The group, as the kernel has it now. Of several that share their name, the one that we steer.
    ///
    /// # Errors
    ///
    /// If there is none, or more than one and none of them in our own network namespace.
    pub(crate) fn find(&self, host: &Host) -> Result<Group> {
        let groups = self.groups(host)?;
        let found = host.choose_steered(&self.group, &groups).cloned();
        found.map_err(|error| self.explain(host, error))
    }

    /// The same, to attach to it: groups that share their name have to be told apart. With `all`, every group
    /// that matches.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find).
    pub(crate) fn find_to_attach(&self, host: &Host, all: bool) -> Result<Vec<Group>> {
        let groups = self.groups(host)?;
        let matching = groups.iter().filter(|group| all && self.has(group));
        let matching: Vec<Group> = matching.cloned().collect();
        if !matching.is_empty() {
            return Ok(matching);
        }
        let own = host.own_netns()?;
        let found = self.group.choose(&groups, Some(own.cookie)).cloned();
        Ok(vec![found.map_err(|error| self.explain(host, error))?])
    }

    /// Says which sockets are there, if no group is.
    fn explain(&self, host: &Host, error: Error) -> anyhow::Error {
        host.explain(error, &self.group, self.netns).into()
    }

    /// Whether it names this group.
    pub(crate) fn has(&self, group: &Group) -> bool {
        self.is_in_netns(group) && self.group.matches(group)
    }

    /// The groups among which it is.
    fn groups(&self, host: &Host) -> Result<Vec<Group>> {
        let mut groups = host.groups()?;
        groups.retain(|group| self.is_in_netns(group));
        Ok(groups)
    }

    fn is_in_netns(&self, group: &Group) -> bool {
        self.netns.is_none_or(|inode| group.key.netns.inode == inode)
    }
}

/// Everything about every group, in one namespace or in all.
///
/// # Errors
///
/// If the caller lacks the rights.
pub(crate) fn statuses(netns: Option<u32>) -> Result<Vec<GroupStatus>> {
    let mut statuses = Host::open()?.statuses()?;
    if let Some(inode) = netns {
        statuses.retain(|status| status.group.key.netns.inode == inode);
    }
    Ok(statuses)
}

/// Everything about one group.
///
/// # Errors
///
/// If there is none, or more than one.
pub(crate) fn status(target: &Target) -> Result<GroupStatus> {
    let host = Host::open()?;
    let group = target.find(&host)?;
    Ok(host.status(&group.key)?)
}

/// Detaches our program, or removes what is left of it. Returns the group, and whether a program stays.
///
/// # Errors
///
/// If none of our programs is attached there.
pub(crate) fn detach(target: &Target) -> Result<(GroupKey, Detached)> {
    let host = Host::open()?;
    let group = target.find(&host)?;
    let detached = reuseport::detach(&host, &group.key)?;
    Ok((group.key, detached))
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
    /// Finds the group and reads its state.
    ///
    /// # Errors
    ///
    /// If there is none, or none of our programs is attached to it.
    pub(crate) fn open(target: &Target) -> Result<Self> {
        let host = Host::open()?;
        let key = target.find(&host)?.key;
        let balancer = Balancer::open(&host, &key)?;
        let status = host.status(&key)?;
        Ok(Self { host, balancer, status })
    }

    /// The group as it is now.
    ///
    /// # Errors
    ///
    /// If it is gone.
    pub(crate) fn now(&self) -> reuseport::Result<GroupStatus> {
        self.host.status(self.balancer.key())
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
