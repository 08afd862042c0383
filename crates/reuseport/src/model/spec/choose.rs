//! Chooses the one group that a name means, or reports why there is none.

use std::collections::BTreeSet;

use super::{GroupSpec, Host};
use crate::error::{Error, ErrorKind, Result};
use crate::model::group::{Group, GroupKey};
use crate::model::refusal::{CANDIDATES, enumerate, name_one};
use crate::model::split::{Claim, claimant};

/// The most groups on the same port that an error lists when none matches.
const NEAR_MISSES: usize = 3;

impl GroupSpec {
    /// The one of the `groups` that it names.
    ///
    /// If it names several, it prefers one in the network namespace with the cookie `prefer_netns` (the
    /// caller's, for example), and then, if the name has an address and no device, one that is bound to
    /// no device. Groups that share their name are told apart by `,of=` alone.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if it names none, [`ErrorKind::Ambiguous`] if it names several and
    /// no preference leaves exactly one. Both list groups that match nearly or equally well.
    pub fn choose<'a>(&self, groups: &'a [Group], prefer_netns: Option<u64>) -> Result<&'a Group> {
        self.choose_with(groups, prefer_netns, |_| Claim::None)
    }

    /// The same. Of several groups that share their name, it prefers the one with the pinned state.
    pub(crate) fn choose_with<'a>(
        &self,
        groups: &'a [Group],
        prefer_netns: Option<u64>,
        claim: impl Fn(&Group) -> Claim,
    ) -> Result<&'a Group> {
        let all: Vec<&Group> = groups.iter().filter(|group| self.matches(group)).collect();
        let near: Vec<&Group> = all
            .iter()
            .copied()
            .filter(|group| Some(group.key.netns.cookie) == prefer_netns)
            .collect();
        let candidates = if near.is_empty() { &all } else { &near };
        let literal: Vec<&Group> =
            candidates.iter().copied().filter(|group| self.is_literally(&group.key)).collect();
        match if literal.is_empty() { &candidates[..] } else { &literal[..] } {
            [] => Err(self.not_found(groups)),
            [only] => Ok(only),
            several => {
                let split = several.iter().all(|group| group.key.has_name_of(&several[0].key));
                let claimant = if split { claimant(several, claim) } else { None };
                claimant.ok_or_else(|| self.ambiguous(several, &all, prefer_netns))
            }
        }
    }

    /// Whether the name describes this matching group completely: an address and no device. Without this
    /// rule, no name would mean a group on no device next to one on a device.
    fn is_literally(&self, key: &GroupKey) -> bool {
        matches!(self.host, Host::Ip(_)) && self.device.is_none() && key.device.is_none()
    }

    fn not_found(&self, groups: &[Group]) -> Error {
        let on_port: BTreeSet<String> = groups
            .iter()
            .filter(|group| group.key.address.port() == self.port)
            .map(|group| group.key.to_string())
            .collect();
        let mut text = format!("no group matches `{self}`");
        if !on_port.is_empty() {
            let there = enumerate(on_port.into_iter().collect(), NEAR_MISSES, "and");
            text += &format!(", but on port {} there is {there}", self.port);
        }
        Error::new(ErrorKind::NotFound, text).with_hint("`reuseport ls` shows every group")
    }

    /// `several` are left of `all` that match when the preferences are applied.
    fn ambiguous(&self, several: &[&Group], all: &[&Group], prefer_netns: Option<u64>) -> Error {
        if several.iter().all(|group| looks_like(&group.key, &several[0].key)) {
            let name = with_netns(&several[0].key.name_only());
            let text = format!("`{self}` matches {} groups {name}", several.len());
            return Error::new(ErrorKind::Ambiguous, text).with_hint(name_one(several));
        }
        let mut candidates = all.to_vec();
        candidates.sort_by_key(|group| Some(group.key.netns.cookie) != prefer_netns);
        let addresses: BTreeSet<String> =
            candidates.iter().map(|g| g.key.name_only().to_string()).collect();
        let namespaces: BTreeSet<u64> = candidates.iter().map(|g| g.key.netns.cookie).collect();
        let hint = match (addresses.len(), namespaces.len()) {
            (_, 1) => "write the full address",
            (1, _) => "choose a network namespace with `--netns`",
            _ => "write the full address, or choose a network namespace with `--netns`",
        };
        let count = candidates.len();
        let named: Vec<String> = candidates.iter().map(|g| with_netns(&g.key)).collect();
        let named = enumerate(named, CANDIDATES, "and");
        let text = format!("`{self}` matches {count} groups: {named}");
        Error::new(ErrorKind::Ambiguous, text).with_hint(hint)
    }
}

/// A group's name with the network namespace's inode number, as `lsns` shows it.
fn with_netns(key: &GroupKey) -> String {
    let v6only = if key.v6only { ", IPv6 only" } else { "" };
    format!("{key} (netns {}{v6only})", key.netns.inode)
}

/// Whether both are written alike: no name without `,of=` tells them apart.
fn looks_like(key: &GroupKey, other: &GroupKey) -> bool {
    let written = |key: &GroupKey| (key.name_only().to_string(), key.netns);
    written(key) == written(other)
}
