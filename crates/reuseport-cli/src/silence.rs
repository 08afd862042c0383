//! Findings that the user does not want to be told, by name: for all groups, or for one.

use std::str::FromStr;

use anyhow::Result;
use reuseport::finding::{CHECKS, NAMES, nearest};
use reuseport::group::Group;
use reuseport::spec::GroupSpec;

use crate::backend::NamedNetns;
use crate::error::Failure;

/// One finding that is not to be told: `NAME`, or `NAME@GROUP`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Silenced {
    name: &'static str,
    /// None: for every group.
    group: Option<GroupSpec>,
}

impl FromStr for Silenced {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, group) = match text.split_once('@') {
            Some((name, group)) => (name, Some(group.parse().map_err(|e| format!("{e}"))?)),
            None => (text, None),
        };
        let known = NAMES.iter().chain(CHECKS).find(|known| **known == name);
        let name = known.ok_or_else(|| {
            let meant = nearest(name).map(|name| format!(": did you mean `{name}`?"));
            format!("no finding is named `{}`{}", name.escape_debug(), meant.unwrap_or_default())
        })?;
        Ok(Self { name, group })
    }
}

/// Those that are not to be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Silence(Vec<Silenced>);

impl Silence {
    /// From `NAME` and `NAME@GROUP`, in any number of lists with commas, as an option has them.
    ///
    /// # Errors
    ///
    /// If one is no finding's name; the error has the nearest one. If a group is in a namespace that has no such name.
    pub(crate) fn of_names(lists: &[String]) -> Result<Self> {
        let parse = |text: String| -> Result<Silenced> {
            let why = |why: String| Failure::new(why, "docs/findings.md lists the findings");
            Ok(text.parse().map_err(why)?)
        };
        let names = lists.iter().flat_map(|list| split(list));
        Self::of(names.map(parse).collect::<Result<_>>()?)
    }

    /// With the network namespaces that the groups' names mean now.
    ///
    /// # Errors
    ///
    /// If a group is in a namespace that has no such name.
    pub(crate) fn of(silenced: Vec<Silenced>) -> Result<Self> {
        let resolve = |one: Silenced| -> Result<Silenced> {
            let group = one.group.map(|group| match group.netns().map(NamedNetns::find) {
                Some(found) => found.map(|netns| group.in_netns(&netns.name, netns.inode)),
                None => Ok(group),
            });
            Ok(Silenced { name: one.name, group: group.transpose()? })
        };
        Ok(Self(silenced.into_iter().map(resolve).collect::<Result<_>>()?))
    }

    /// These and others.
    pub(crate) fn and(self, others: Self) -> Self {
        Self([self.0, others.0].concat())
    }

    /// Whether this finding of this group is not to be told.
    pub(crate) fn covers(&self, name: &str, group: &Group) -> bool {
        let covers = |one: &Silenced| {
            one.name == name && one.group.as_ref().is_none_or(|spec| spec.matches(group))
        };
        self.0.iter().any(covers)
    }

    /// Whether this check of the host is not to be told.
    pub(crate) fn covers_host(&self, name: &str) -> bool {
        self.0.iter().any(|one| one.name == name && one.group.is_none())
    }
}

/// The parts of a list. What follows the port of a GROUP (`,uid=33`, `,v6only`) belongs to it.
fn split(list: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for part in list.split(',') {
        let of_group = part.contains('=') || part == "v6only";
        match parts.last_mut().filter(|last| of_group && last.contains('@')) {
            Some(last) => {
                last.push(',');
                last.push_str(part);
            }
            None => parts.push(part.to_owned()),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_of_a_finding_perhaps_with_a_group() {
        for name in NAMES.iter().chain(CHECKS) {
            assert!(name.parse::<Silenced>().is_ok_and(|one| one.name == *name));
            assert!(format!("{name}@:80").parse::<Silenced>().is_ok());
        }
        let problem = |text: &str| text.parse::<Silenced>().unwrap_err();
        assert!(problem("drop").ends_with("did you mean `drops`?"));
        assert!(problem("full-queue").contains("did you mean `queue-full`?"));
        assert_eq!(problem("xyzzy"), "no finding is named `xyzzy`");
        assert!(problem("drops@here").contains("does not name a group"));
        assert!(problem("").contains("no finding is named"));
    }

    #[test]
    fn names_of_a_file_are_checked() {
        let names = |names: &[&str]| {
            Silence::of_names(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        let silence = names(&["drops,mptcp@:80,uid=3,v6only", "split"]).unwrap();
        assert_eq!(silence.0.len(), 3);
        let error = names(&["drops", "unwatched-member"]).unwrap_err();
        assert!(error.to_string().contains("did you mean `unwaited`?"), "{error}");
    }
}
