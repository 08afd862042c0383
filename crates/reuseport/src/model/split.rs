//! Groups of one name: which of them a name means, and when to say that there are several.
//!
//! The kernel makes such groups: see [`GroupKey`].

use std::collections::HashMap;
use std::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::model::group::{Group, GroupKey, Reach};
use crate::model::membership::SETTLE;
use crate::model::refusal::{name_one, no_group};

/// What connects a group with the state that is pinned under its name. The greatest claim counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Claim {
    /// Nothing.
    None,
    /// This many of its members have slots, and another program decides, or none.
    Members(usize),
    /// The program of the state decides.
    Program,
}

/// Tells the groups apart that have a name in common. Each comes with the place of its first socket in the
/// kernel's tables, if these can be read.
pub(crate) fn tell_apart(listed: Vec<(Group, Option<usize>)>) -> Vec<Group> {
    let mut by_name: HashMap<GroupKey, Vec<usize>> = HashMap::new();
    for (at, (group, _)) in listed.iter().enumerate() {
        by_name.entry(group.key.name_only()).or_default().push(at);
    }
    let (mut groups, places): (Vec<Group>, Vec<Option<usize>>) = listed.into_iter().unzip();
    for several in by_name.into_values().filter(|several| several.len() > 1) {
        let there: Option<Vec<usize>> = several.iter().map(|at| places[*at]).collect();
        let first = there.and_then(|places| places.into_iter().min());
        for at in several {
            let group = &mut groups[at];
            group.key.of = group.members.first().and_then(|member| member.cookie);
            group.reach = match first {
                None => Reach::Unknown,
                Some(_) if places[at] == first => Reach::First,
                Some(_) => Reach::Behind,
            };
        }
    }
    groups
}

/// The group that a key means. Of several with its name, it is the one with the key's member, or else the one
/// with the pinned state.
///
/// # Errors
///
/// [`ErrorKind::NotFound`], and [`ErrorKind::Ambiguous`] if several have the name and the key has no member.
pub(crate) fn named<'a>(
    key: &GroupKey,
    groups: &'a [Group],
    claim: impl Fn(&Group) -> Claim,
) -> Result<&'a Group> {
    let named: Vec<&Group> = groups.iter().filter(|group| group.key.has_name_of(key)).collect();
    let found = match (key.of, &named[..]) {
        (Some(cookie), _) => named.iter().copied().find(|group| group.member(cookie).is_some()),
        (None, [] | [_]) => named.first().copied(),
        (None, _) => Some(claimant(&named, claim).ok_or_else(|| {
            let text = format!("there are {} groups {key}", named.len());
            Error::new(ErrorKind::Ambiguous, text).with_hint(name_one(&named))
        })?),
    };
    found.ok_or_else(|| no_group(key))
}

/// The one of several groups of one name that the pinned state belongs to; `None` if none of them has a claim
/// to it, or several have the same.
pub(crate) fn claimant<'a>(
    groups: &[&'a Group],
    claim: impl Fn(&Group) -> Claim,
) -> Option<&'a Group> {
    let claims: Vec<Claim> = groups.iter().map(|group| claim(group)).collect();
    let best = *claims.iter().max().filter(|claim| **claim > Claim::None)?;
    let mut with_it = groups.iter().zip(&claims).filter(|(_, claim)| **claim == best);
    let (group, _) = with_it.next()?;
    with_it.next().is_none().then_some(*group)
}

/// The same group in a later listing: of several with its name, the one that has a member in common with it.
pub(crate) fn again<'a>(group: &Group, listed: &'a [Group]) -> Option<&'a Group> {
    let named: Vec<&Group> = listed.iter().filter(|l| l.key.has_name_of(&group.key)).collect();
    if let ([only], Reach::Alone) = (&named[..], group.reach) {
        return Some(only);
    }
    let in_common = |other: &&Group| {
        let mut cookies = other.members.iter().filter_map(|member| member.cookie);
        cookies.any(|cookie| group.member(cookie).is_some())
    };
    named.into_iter().find(in_common)
}

/// Finds out when to report that a group is split.
///
/// A server that binds a socket and connects it to a client may split the group for that moment, so it is news
/// only if it lasts. It is reported once: such servers split the group again and again.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    since: Option<Instant>,
    reported: bool,
}

/// What a look at the group's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// Nothing to report.
    None,
    /// Too early to tell: look again.
    Wait,
    /// The group is split.
    Split,
}

impl Watched {
    /// Looks at the group.
    pub(crate) fn look(&mut self, now: Instant, reach: Reach) -> News {
        if !reach.is_split() {
            self.since = None;
            return News::None;
        }
        let since = *self.since.get_or_insert(now);
        if self.reported {
            return News::None;
        }
        if now.saturating_duration_since(since) < SETTLE {
            return News::Wait;
        }
        self.reported = true;
        News::Split
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::group::{AttachedProgram, Protocol, examples};
    use crate::model::id::Cookie;

    fn group(address: &str, cookies: &[u64]) -> Group {
        let members = cookies.iter().map(|n| examples::member(Protocol::Udp, *n)).collect();
        examples::group(examples::key(Protocol::Udp, address), members)
    }

    /// Two groups of one name, the second of which gets the traffic, and a third one.
    fn split() -> Vec<Group> {
        tell_apart(vec![
            (group("127.0.0.1:53", &[5, 6]), Some(7)),
            (group("127.0.0.1:53", &[9]), Some(3)),
            (group("127.0.0.2:53", &[8]), Some(0)),
        ])
    }

    fn program(id: u32) -> Option<AttachedProgram> {
        Some(AttachedProgram { id: Some(id), name: "select".into() })
    }

    fn by_program(group: &Group) -> Claim {
        if group.program.is_some() { Claim::Program } else { Claim::None }
    }

    #[test]
    fn groups_of_one_name_are_told_apart_by_a_member_and_by_who_is_found_first() {
        let seen: Vec<_> = split().iter().map(|g| (g.key.to_string(), g.reach)).collect();
        let expected = [
            ("udp:127.0.0.1:53,of=cookie:5", Reach::Behind),
            ("udp:127.0.0.1:53,of=cookie:9", Reach::First),
            ("udp:127.0.0.2:53", Reach::Alone),
        ];
        assert_eq!(seen, expected.map(|(name, reach)| (name.to_owned(), reach)));
    }

    #[test]
    fn without_the_kernels_tables_none_is_known_to_be_first() {
        let groups = tell_apart(vec![
            (group("127.0.0.1:53", &[5]), None),
            (group("127.0.0.1:53", &[0]), Some(3)),
        ]);
        assert!(groups.iter().all(|group| group.reach == Reach::Unknown));
        // No cookie that would tell it apart.
        assert_eq!(groups[1].key.of, None);
    }

    #[test]
    fn a_key_means_the_group_with_its_member() {
        let groups = split();
        let of = |n: u64| GroupKey { of: Cookie::new(n), ..groups[0].key.clone() };
        for (n, expected) in [(5, 0), (6, 0), (9, 1)] {
            assert_eq!(named(&of(n), &groups, by_program).unwrap(), &groups[expected]);
        }
        let error = named(&of(8), &groups, by_program).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), "there is no group udp:127.0.0.1:53,of=cookie:8");
    }

    #[test]
    fn a_name_alone_means_the_group_with_the_state_and_otherwise_the_error_lists_all() {
        let mut groups = split();
        let key = groups[0].key.name_only();
        let error = named(&key, &groups, by_program).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Ambiguous);
        assert_eq!(
            error.report().to_string(),
            "there are 2 groups udp:127.0.0.1:53; name one of them:\n  \
             udp:127.0.0.1:53,of=cookie:5  2 members, gets nothing new\n  \
             udp:127.0.0.1:53,of=cookie:9  1 member, gets the traffic"
        );
        groups[0].program = program(1);
        assert_eq!(named(&key, &groups, by_program).unwrap(), &groups[0]);
        groups[1].program = program(2);
        assert_eq!(named(&key, &groups, by_program).unwrap_err().kind(), ErrorKind::Ambiguous);
        // A program counts for more than members, and more members for more than fewer.
        for claims in [[Claim::Members(2), Claim::Program], [Claim::Members(1), Claim::Members(2)]]
        {
            let claim = |group: &Group| claims[usize::from(*group == groups[1])];
            assert_eq!(named(&key, &groups, claim).unwrap(), &groups[1]);
        }
    }

    #[test]
    fn a_group_is_found_again_by_its_members() {
        let groups = split();
        assert_eq!(again(&groups[1], &groups), Some(&groups[1]));
        let mut alone = groups[0].clone();
        (alone.key.of, alone.reach) = (None, Reach::Alone);
        assert_eq!(again(&alone, &groups), Some(&groups[0]));
        // The other one is gone.
        assert_eq!(again(&groups[1], &[alone.clone()]), None);
        assert_eq!(again(&groups[0], &[alone.clone()]), Some(&alone));
        // All members have changed: the server restarted.
        let restarted = [group("127.0.0.1:53", &[20])];
        assert_eq!(again(&alone, &restarted), Some(&restarted[0]));
    }

    #[test]
    fn a_split_is_reported_once_and_only_if_it_lasts() {
        let start = Instant::now();
        let mut watched = Watched::default();
        let mut look = |after, reach| watched.look(start + Duration::from_millis(after), reach);
        assert_eq!(look(0, Reach::Alone), News::None);
        assert_eq!(look(10, Reach::First), News::Wait);
        assert_eq!(look(60, Reach::Alone), News::None);
        assert_eq!(look(150, Reach::Behind), News::Wait);
        assert_eq!(look(250, Reach::Behind), News::Split);
        assert_eq!(look(300, Reach::Behind), News::None);
        assert_eq!(look(400, Reach::Alone), News::None);
        assert_eq!(look(900, Reach::Unknown), News::None);
    }
}
