//! The groups of a supervisor's sockets: which generation serves, who gets nothing, who waits.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context as _, Result};
use reuseport::group::GroupKey;
use reuseport::id::{Cookie, Percent};
use reuseport::status::{GroupStatus, MemberStatus, State};
use reuseport::{Attach, Balancer, HoldNew, Host, MemberChange, Policy, Program};

use super::sockets::Sockets;
use super::spec::Spec;
use crate::drained::is_drained;
use crate::policy::PolicyOptions;

/// Room for two generations of this size, and for what is to come.
const ROOM: u32 = 4;
const LEAST_SLOTS: u32 = 64;

/// The groups, one for each address.
#[derive(Debug)]
pub(super) struct Steer {
    host: Host,
    policy: Option<Policy>,
    options: PolicyOptions,
    slots: u32,
    groups: Vec<GroupKey>,
}

/// What one look at the groups shows.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Sockets at which a thread waits.
    pub(super) waited: BTreeSet<Cookie>,
    /// Sockets at which nothing is left to be taken.
    pub(super) drained: BTreeSet<Cookie>,
}

impl Steer {
    pub(super) fn new(host: Host, spec: &Spec) -> Self {
        let slots = u32::from(spec.workers).saturating_mul(ROOM).max(LEAST_SLOTS);
        let (policy, options) = (spec.policy, spec.options.clone());
        Self { host, policy, options, slots, groups: Vec::new() }
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// Gives each socket a slot, in its generation: a newer one than the one that serves waits on standby.
    pub(super) fn enrol(&mut self, sockets: &Sockets, addresses: usize) -> Result<()> {
        if self.groups.is_empty() {
            self.groups = (0..addresses).map(|at| self.find(sockets, at)).collect::<Result<_>>()?;
        }
        for (at, key) in self.groups.iter().enumerate() {
            let now = self.host.status(key)?.steering;
            let is_ours = now.is_ours();
            let policy = self.options.decide(self.policy, key, || Ok(now))?;
            let mut attach = Attach::default();
            attach.program = policy.map(Program::from);
            let attach = attach.slots(Some(self.slots).filter(|_| !is_ours));
            let attach = attach.cpus(self.options.cpus.clone()).hold_new(HoldNew::On);
            let attach = attach.generations(sockets.generations(at));
            Balancer::attach(&self.host, key, &attach)?;
        }
        Ok(())
    }

    fn find(&self, sockets: &Sockets, at: usize) -> Result<GroupKey> {
        let socket = sockets.any(at).context("there is no socket to find the group of")?;
        Ok(self.host.group_of(&socket.fd)?.key)
    }

    /// Lets this generation serve alone, in every group or in none.
    pub(super) fn promote(&self, generation: u32) -> Result<()> {
        self.switch(|balancer| balancer.promote_generation(generation).map(drop))
    }

    /// Gives this generation a part of all picks.
    pub(super) fn try_out(&self, generation: u32, share: Percent) -> Result<()> {
        self.switch(|balancer| balancer.try_out_generation(generation, share).map(drop))
    }

    /// Does this to every group; if it fails for one, it is taken back for those before.
    fn switch(&self, to: impl Fn(&Balancer) -> reuseport::Result<()>) -> Result<()> {
        let mut done = Vec::new();
        for key in &self.groups {
            let switched = Balancer::open(&self.host, key).and_then(|balancer| {
                to(&balancer)?;
                Ok(balancer)
            });
            match switched {
                Ok(balancer) => done.push(balancer),
                Err(error) => {
                    for balancer in done {
                        balancer.rollback().context("and the way back failed")?;
                    }
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Lets this generation serve alone again, in every group in which it does not.
    pub(super) fn rollback(&self, to: u32) -> Result<()> {
        let back = |key| -> Result<()> {
            let status = self.host.status(key)?;
            if status.serving_generation != Some(to) || status.trial.is_some() {
                Balancer::open(&self.host, key)?.rollback()?;
            }
            Ok(())
        };
        let backs: Vec<_> = self.groups.iter().map(back).collect();
        backs.into_iter().collect()
    }

    /// Takes sockets out of the table, or puts them back. Those of a generation that does not serve get nothing anyway.
    pub(super) fn hold(&self, held: &BTreeMap<Cookie, bool>) -> Result<()> {
        for key in &self.groups {
            let status = self.host.status(key)?;
            let changes: Vec<MemberChange> =
                status.members.iter().filter_map(|member| change(&status, member, held)).collect();
            if !changes.is_empty() {
                Balancer::open(&self.host, key)?.change_members(&changes)?;
            }
        }
        Ok(())
    }

    /// Looks at all groups.
    pub(super) fn look(&self) -> Result<Seen> {
        let mut seen = Seen::default();
        for key in &self.groups {
            for member in self.host.status(key)?.members {
                let Some(cookie) = member.member.cookie else { continue };
                if member.threads_waiting > 0 {
                    seen.waited.insert(cookie);
                }
                if is_drained(&member) {
                    seen.drained.insert(cookie);
                }
            }
        }
        Ok(seen)
    }

    /// The members of the groups at these addresses, by cookie.
    pub(super) fn members(host: &Host) -> Result<HashMap<Cookie, reuseport::Member>> {
        let members = host.groups()?.into_iter().flat_map(|group| group.members);
        Ok(members.filter_map(|member| Some((member.cookie?, member))).collect())
    }
}

/// What makes a member as it is to be.
fn change(
    status: &GroupStatus,
    member: &MemberStatus,
    held: &BTreeMap<Cookie, bool>,
) -> Option<MemberChange> {
    let cookie = member.member.cookie?;
    let enrolment = member.enrolment.as_ref()?;
    let tried = status.trial.and_then(|trial| trial.generation);
    let serves = [status.serving_generation, tried].contains(&Some(enrolment.generation));
    let state = if *held.get(&cookie)? { State::Draining } else { State::Active };
    let is_meant = serves && enrolment.state != state;
    is_meant.then(|| MemberChange::new(enrolment.slot).member(cookie).state(state))
}
