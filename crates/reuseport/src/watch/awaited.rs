//! Groups that a watcher waits for: which of those that are there it may attach to.

use std::collections::{HashMap, HashSet};

use crate::change::request::Attach;
use crate::error::{Error, ErrorKind};
use crate::host::Host;
use crate::model::group::{Group, GroupKey, Protocol};
use crate::model::spec::GroupSpec;

/// How to attach to what is waited for.
pub(super) enum Find {
    One(FindOne),
    Each(AttachEach),
}

/// Returns a group, once it is there, and how to attach to it.
type FindOne = Box<dyn FnMut(&Host) -> Option<(GroupKey, Attach)> + Send>;

/// How to attach to a group; `None` leaves it alone.
type AttachEach = Box<dyn FnMut(&Host, &Group) -> Option<Attach> + Send>;

/// What is waited for, and what became of the groups that were found.
#[derive(Default)]
pub(super) struct Awaited {
    expected: HashMap<u32, Expected>,
    /// The groups to which the watcher could not attach, with the error that was reported last.
    refused: HashMap<GroupKey, (ErrorKind, String)>,
    /// The groups that another process detached.
    detached: HashSet<GroupKey>,
}

struct Expected {
    spec: GroupSpec,
    find: Find,
    /// The groups of the last look.
    groups: Vec<Group>,
}

impl Awaited {
    /// Waits for the groups that `spec` names, from now on. Returns their number.
    pub(super) fn add(&mut self, spec: GroupSpec, find: Find) -> u32 {
        let id = (0..).find(|id| !self.expected.contains_key(id)).unwrap_or_default();
        self.expected.insert(id, Expected { spec, find, groups: Vec::new() });
        id
    }

    pub(super) fn remove(&mut self, id: u32) {
        self.expected.remove(&id);
    }

    /// Whether there is a group with this number. `groups`: a listing, perhaps of the kernel's tables alone.
    /// `is_followed`: whether a group is followed already.
    pub(super) fn is_there(
        &mut self,
        id: u32,
        groups: &[Group],
        is_followed: impl Fn(&GroupKey) -> bool,
    ) -> bool {
        let Some(expected) = self.expected.get_mut(&id) else { return false };
        if matches!(expected.find, Find::One(_)) {
            return groups.iter().any(|group| expected.spec.matches_name(&group.key));
        }
        let was_foreign = |name: &GroupKey| {
            self.refused.get(name).is_some_and(|(kind, _)| *kind == ErrorKind::Foreign)
        };
        let may_attach = |group: &&Group| {
            let name = group.key.name_only();
            // Another owner's program: nothing changes until it is gone.
            let is_foreign = group.program.is_some() && was_foreign(&name);
            let is_known = is_followed(&name) || self.detached.contains(&name);
            expected.spec.matches(group) && !is_known && !is_foreign
        };
        expected.groups = groups.iter().filter(may_attach).cloned().collect();
        !expected.groups.is_empty()
    }

    /// The groups with this number, and how to attach to them. Returns also whether there is only one, ever.
    pub(super) fn find(&mut self, id: u32, host: &Host) -> (Vec<(GroupKey, Attach)>, bool) {
        let Some(expected) = self.expected.get_mut(&id) else { return (Vec::new(), false) };
        match &mut expected.find {
            Find::One(find) => (find(host).into_iter().collect(), true),
            Find::Each(find) => {
                let groups = std::mem::take(&mut expected.groups).into_iter();
                let attach = |group: Group| Some((group.key.clone(), find(host, &group)?));
                (groups.filter_map(attach).collect(), false)
            }
        }
    }

    /// Attaching to the group failed. Returns whether that is to be reported: once for each error.
    pub(super) fn refuse(&mut self, key: &GroupKey, error: &Error) -> bool {
        // It is going again.
        if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Vanished) {
            return false;
        }
        let refused = (error.kind(), error.report().to_string());
        self.refused.insert(key.name_only(), refused.clone()) != Some(refused)
    }

    /// The group is followed.
    pub(super) fn follow(&mut self, key: &GroupKey) {
        let name = key.name_only();
        self.refused.remove(&name);
        self.detached.remove(&name);
    }

    /// Another process detached the group: the watcher does not undo that.
    pub(super) fn detach(&mut self, key: GroupKey) {
        self.detached.insert(key);
    }

    /// Forgets what became of groups that are not there any more. `whole`: whether `groups` are those of the whole
    /// host, and not of the kernel's tables, which may lack UDP groups.
    pub(super) fn forget_gone(&mut self, groups: &[Group], whole: bool) {
        let is_there = |key: &GroupKey| {
            (!whole && key.protocol == Protocol::Udp)
                || groups.iter().any(|group| group.key.name_only() == *key)
        };
        self.refused.retain(|key, _| is_there(key));
        self.detached.retain(is_there);
    }
}
