//! Chooses the one group that a name means, or reports why there is none.

use std::collections::BTreeSet;

use super::{GroupSpec, Host};
use crate::error::{Error, ErrorKind, Result};
use crate::model::group::{Group, GroupKey};
use crate::model::refusal::{enumerate, name_one};
use crate::model::split::{Claim, claimant};

/// The most groups on the same port that an error lists when none matches.
const NEAR_MISSES: usize = 3;

impl GroupSpec {
    /// The one of the `groups` that it names.
    ///
    /// If it names several, it prefers one in the network namespace with the cookie `prefer_netns` (the
    /// caller's, for example), and then, if it has an address, one on that address as it is written, one that is
    /// bound to no device, and one that accepts IPv4 traffic, too: what the name does not say.
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
        let groups: Vec<&Group> = groups.iter().collect();
        match &self.left(&groups, prefer_netns)[..] {
            [] => Err(self.not_found(&groups)),
            [only] => Ok(only),
            several => {
                let split = several.iter().all(|group| group.key.has_name_of(&several[0].key));
                let claimant = if split { claimant(several, claim) } else { None };
                claimant.ok_or_else(|| self.ambiguous(&groups, prefer_netns))
            }
        }
    }

    /// The matching groups that the preferences leave.
    pub(super) fn left<'a>(
        &self,
        groups: &[&'a Group],
        prefer_netns: Option<u64>,
    ) -> Vec<&'a Group> {
        let matching = groups.iter().copied().filter(|group| self.matches(group));
        let mut left: Vec<&Group> = matching.collect();
        let mut prefer = |is_preferred: &dyn Fn(&GroupKey) -> bool| {
            if left.iter().any(|group| is_preferred(&group.key)) {
                left.retain(|group| is_preferred(&group.key));
            }
        };
        prefer(&|key| Some(key.netns.cookie) == prefer_netns);
        // Without these, no name would mean the group without the part next to one that has it.
        if let Host::Ip(ip) = self.host {
            prefer(&|key| key.address.ip() == ip);
            prefer(&|key| self.device.is_some() || key.device.is_none());
            prefer(&|key| self.v6only || !key.v6only);
        }
        left
    }

    fn not_found(&self, groups: &[&Group]) -> Error {
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

    fn ambiguous(&self, groups: &[&Group], prefer_netns: Option<u64>) -> Error {
        let mut all: Vec<&Group> =
            groups.iter().copied().filter(|group| self.matches(group)).collect();
        all.sort_by_key(|group| Some(group.key.netns.cookie) != prefer_netns);
        let text = format!("`{self}` matches {} groups", all.len());
        Error::new(ErrorKind::Ambiguous, text).with_hint(name_one(&all))
    }
}
