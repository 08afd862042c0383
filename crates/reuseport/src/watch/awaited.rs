//! Groups that a watcher waits for: which of those that are there it may attach to.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::change::request::Attach;
use crate::error::{Error, ErrorKind};
use crate::host::Host;
use crate::model::group::{AttachedProgram, Group, GroupKey, Protocol};
use crate::model::id::Cookie;
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
    /// The groups to which the watcher could not attach.
    refused: HashMap<GroupKey, Refused>,
    /// The groups that another process detached, and whether the last look did not show them: a listing may miss one.
    detached: HashMap<GroupKey, bool>,
}

/// A group to attach to.
pub(super) struct Candidate {
    pub(super) key: GroupKey,
    pub(super) attach: Attach,
    /// The group as it is; `None` for one that the caller found.
    pub(super) tried: Option<Tried>,
    /// The number of what is waited for, if that is one group: then there is none to wait for any more.
    pub(super) only: Option<u32>,
}

/// A group as it was when the watcher tried to attach to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tried {
    program: Option<AttachedProgram>,
    members: Vec<Option<Cookie>>,
    /// Whether another owner's program was to go.
    force: bool,
}

impl Tried {
    fn new(group: &Group, force: bool) -> Self {
        let members = group.members.iter().map(|member| member.cookie).collect();
        Self { program: group.program.clone(), members, force }
    }
}

/// A group to which the watcher could not attach.
struct Refused {
    tried: Option<Tried>,
    kind: ErrorKind,
    /// The error that was reported last.
    said: String,
    /// When to try again, if it stays as it is.
    next: Instant,
    pause: Duration,
}

/// How long to wait before the next attempt with a group that stays as it is: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

impl Refused {
    /// Whether to leave this group alone now.
    fn rests(&self, group: &Group, now: Instant) -> bool {
        let Some(tried) = &self.tried else { return false };
        // Another owner's program: nothing changes until it is gone.
        let foreign = self.kind == ErrorKind::Foreign
            && !tried.force
            && group.program.is_some()
            && group.program == tried.program;
        foreign || (*tried == Tried::new(group, tried.force) && now < self.next)
    }
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

    /// The numbers of all that is waited for.
    pub(super) fn ids(&self) -> Vec<u32> {
        self.expected.keys().copied().collect()
    }

    /// Forgets the groups to which attaching failed: it may succeed in another way.
    pub(super) fn forget_refused(&mut self) {
        self.refused.clear();
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
        let now = Instant::now();
        let may_attach = |group: &&Group| {
            let name = group.key.name_only();
            let rests = self.refused.get(&name).is_some_and(|refused| refused.rests(group, now));
            let is_known = is_followed(&name) || self.detached.contains_key(&name);
            expected.spec.matches(group) && !is_known && !rests
        };
        expected.groups = groups.iter().filter(may_attach).cloned().collect();
        !expected.groups.is_empty()
    }

    /// The groups with this number, and how to attach to them.
    pub(super) fn find(&mut self, id: u32, host: &Host) -> Vec<Candidate> {
        let Some(expected) = self.expected.get_mut(&id) else { return Vec::new() };
        match &mut expected.find {
            Find::One(find) => {
                let of = |(key, attach): (_, Attach)| {
                    let attach = Attach { follows: true, ..attach };
                    Candidate { key, attach, tried: None, only: Some(id) }
                };
                find(host).map(of).into_iter().collect()
            }
            Find::Each(find) => {
                let groups = std::mem::take(&mut expected.groups).into_iter();
                let of = |group: Group| {
                    let attach = Attach { follows: true, ..find(host, &group)? };
                    let tried = Some(Tried::new(&group, attach.force));
                    Some(Candidate { key: group.key, attach, tried, only: None })
                };
                groups.filter_map(of).collect()
            }
        }
    }

    /// Attaching to the group failed. Returns whether that is to be reported: once for each error.
    pub(super) fn refuse(&mut self, key: &GroupKey, tried: Option<Tried>, error: &Error) -> bool {
        // It is going again.
        if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Vanished) {
            return false;
        }
        let (name, said) = (key.name_only(), error.report().to_string());
        let before = self.refused.remove(&name);
        let is_news = before.as_ref().is_none_or(|before| before.said != said);
        let pause = match before {
            Some(before) if before.tried == tried => (before.pause * 2).min(PAUSES.1),
            _ => PAUSES.0,
        };
        let next = Instant::now() + pause;
        self.refused.insert(name, Refused { tried, kind: error.kind(), said, next, pause });
        is_news
    }

    /// Whether there are groups to which attaching failed. No event tells when it may succeed.
    pub(super) fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// The group is followed.
    pub(super) fn follow(&mut self, key: &GroupKey) {
        let name = key.name_only();
        self.refused.remove(&name);
        self.detached.remove(&name);
    }

    /// Another process detached the group: the watcher does not undo that.
    pub(super) fn detach(&mut self, key: GroupKey) {
        self.detached.insert(key, false);
    }

    /// Forgets what became of groups that are not there any more. `whole`: whether `groups` are those of the whole
    /// host, and not of the kernel's tables, which may lack UDP groups.
    pub(super) fn forget_gone(&mut self, groups: &[Group], whole: bool) {
        let is_there = |key: &GroupKey| {
            (!whole && key.protocol == Protocol::Udp)
                || groups.iter().any(|group| group.key.name_only() == *key)
        };
        self.refused.retain(|key, _| is_there(key));
        self.detached.retain(|key, missing| {
            let was_missing = std::mem::replace(missing, !is_there(key));
            !(*missing && was_missing)
        });
    }
}
