//! What a watcher remembers of a group, and what it is told when it is to decide.

use std::collections::HashSet;
use std::time::Duration;

use crate::change::request::Attached;
use crate::change::transaction::SlotOwners;
use crate::model::group::{AttachedProgram, Group, GroupKey, Protocol, Reach, Unborrowable};
use crate::model::held::HeldSocket;
use crate::model::id::Cookie;

/// A port in a network namespace: what events are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Port {
    pub(crate) protocol: Protocol,
    /// The namespace's cookie; [`ANYWHERE`](Self::ANYWHERE): all of them.
    pub(crate) netns: u64,
    pub(crate) port: u16,
}

impl Port {
    pub(crate) fn of(key: &GroupKey) -> Self {
        Self { protocol: key.protocol, netns: key.netns.cookie, port: key.address.port() }
    }

    /// No namespace has this cookie.
    pub(crate) const ANYWHERE: u64 = 0;

    /// Whether what happens on `other` happens on this one.
    pub(crate) fn covers(self, other: Self) -> bool {
        let netns = if self.netns == Self::ANYWHERE { other.netns } else { self.netns };
        Self { netns, ..self } == other
    }
}

/// What makes an update due if it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    members: Vec<Option<Cookie>>,
    /// Members that cannot be given a slot.
    unborrowable: Vec<(Option<Cookie>, Unborrowable)>,
    program: Option<AttachedProgram>,
    /// Whether open connections are counted.
    counted: bool,
    /// Whether other groups have the name.
    reach: Reach,
    complete: bool,
    /// Whether the descriptors of all processes were looked at: otherwise, members seem to have no holder.
    whole: bool,
}

impl Seen {
    pub(crate) fn new(group: &Group, counted: bool, whole: bool) -> Self {
        let members = group.members.iter();
        Self {
            members: members.clone().map(|member| member.cookie).collect(),
            unborrowable: members.filter_map(|m| Some((m.cookie, m.unborrowable()?))).collect(),
            program: group.program.clone(),
            counted,
            reach: group.reach,
            complete: group.complete,
            whole,
        }
    }

    /// Whether the group is as it was. Holders count if all were looked at, both times.
    pub(crate) fn is_as(&self, before: &Self) -> bool {
        let both = self.whole && before.whole;
        let holders = !both || self.unborrowable == before.unborrowable;
        let of = |seen: &Self| (seen.program.clone(), seen.counted, seen.reach, seen.complete);
        holders && self.members == before.members && of(self) == of(before)
    }

    pub(crate) fn has(&self, cookie: Cookie) -> bool {
        self.members.contains(&Some(cookie))
    }

    /// Whether this tells enough for an update: a holder of every member that came since. Open connections that
    /// are not counted have to be, which takes a holder of every member.
    pub(crate) fn suffices_after(&self, before: Option<&Self>) -> bool {
        let came = |cookie: &_| before.is_none_or(|before| !before.members.contains(cookie));
        let unheld = |(cookie, why): &(_, _)| *why == Unborrowable::NoHolder && came(cookie);
        self.whole || (self.counted && !self.unborrowable.iter().any(unheld))
    }

    /// Whether no holder of one of these members is known.
    pub(crate) fn lacks_holder(&self, of: &[Option<Cookie>]) -> bool {
        let unheld = |(cookie, why): &(_, _)| *why == Unborrowable::NoHolder && of.contains(cookie);
        self.unborrowable.iter().any(unheld)
    }

    /// Whether open connections are counted, or need not be.
    pub(crate) fn is_counted(&self) -> bool {
        self.counted
    }

    /// Whether the kernel's tables tell the members. Otherwise only all descriptors do.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }
}

/// A listing of the host's groups.
#[derive(Debug, Default)]
pub(crate) struct Observation {
    /// The cookies of all members.
    pub(crate) cookies: HashSet<Cookie>,
    /// The groups that are followed and that were found.
    pub(crate) seen: Vec<(GroupKey, Seen)>,
    /// Those of them of which it was asked, and their members that are held.
    pub(crate) held: Vec<(GroupKey, Vec<HeldSocket>)>,
    /// The numbers of the expected groups that were found.
    pub(crate) found: Vec<u32>,
    /// Whether there are groups to which attaching failed, and which may be tried again later.
    pub(crate) refused: bool,
    /// How much of a core's time it took.
    pub(crate) cost: Duration,
}

impl Observation {
    pub(crate) fn new(groups: &[Group], seen: Vec<(GroupKey, Seen)>, found: Vec<u32>) -> Self {
        let members = groups.iter().flat_map(|group| &group.members);
        let cookies = members.filter_map(|member| member.cookie).collect();
        Self { cookies, seen, found, ..Self::default() }
    }
}

/// A group as a transaction found it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) slots: SlotOwners,
    pub(crate) group: Group,
    pub(crate) seen: Seen,
    /// The program of another owner that displaced this tool's.
    pub(crate) displaced_by: Option<AttachedProgram>,
}

impl Found {
    /// Whether a holder of every member without a slot was looked for.
    pub(crate) fn tells_enough(&self) -> bool {
        let in_slot =
            |cookie: &Option<Cookie>| cookie.is_some_and(|c| self.slots.in_slots.contains(&c));
        let mut unheld = self
            .seen
            .unborrowable
            .iter()
            .filter(|(cookie, why)| *why == Unborrowable::NoHolder && !in_slot(cookie));
        self.seen.whole || (self.seen.counted && unheld.next().is_none())
    }
}

/// What to do with a group that was found.
#[derive(Debug)]
pub(crate) enum Step {
    /// Attach to it, in place of another owner's program if `force` is set.
    Attach {
        group: Box<Group>,
        force: bool,
        /// Members that are held and for which a thread was seen to wait.
        awaited: Vec<Cookie>,
    },
    /// Take its sockets out of the array of the displaced state, and ask again.
    GiveWay,
    /// Nothing.
    Rest,
    /// Begin again, and look at the descriptors of all processes.
    LookAtAll,
}

/// What an update did.
#[derive(Debug)]
pub(crate) enum Done {
    /// It attached; `Seen` is of the group to which it did.
    Attached(Box<Attached>, Seen),
    Rested,
    /// The listing did not tell enough.
    SawTooLittle,
}
