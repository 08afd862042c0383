//! Who gets a slot, who loses one, and who would get nothing: the rules about membership, as functions of
//! what the kernel shows. No I/O.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use super::group::{Group, GroupKey, KernelAddress, Member, Protocol, Unborrowable};
use super::id::Cookie;
use super::name::listed;
use crate::error::{Error, ErrorKind};

/// The content of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occupant {
    None,
    Socket(Cookie),
    /// A user's own array, with values too short to read cookies.
    Unknown,
}

/// Whether the kernel empties a slot when its socket leaves the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Emptied {
    /// A socket array: at close, when a listener stops and, since Linux 6.13, at a UDP socket's connect.
    WhenItLeaves,
    /// A socket map: at close alone.
    WhenItCloses,
}

/// Whether a slot's member has left the group, and its slot is to be freed. Whether a process is seen that
/// holds it does not matter: a member that merely is not seen keeps its slot, drain and weight.
pub(crate) fn has_left(group: &Group, cookie: Cookie, occupant: Occupant, map: Emptied) -> bool {
    if group.member(cookie).is_some() {
        return false;
    }
    match occupant {
        // The kernel emptied it.
        Occupant::None => true,
        // The kernel's tables say that it is not in the group: a UDP socket that was connected, a listener that
        // stopped. The kernel has not emptied the slot, or not yet.
        Occupant::Socket(_) if group.complete => {
            group.key.protocol == Protocol::Udp || map == Emptied::WhenItCloses
        }
        Occupant::Socket(_) => false,
        Occupant::Unknown => true,
    }
}

/// Whether a member that was put into a slot may still be in it, where the map does not tell. If not, the
/// kernel has emptied the slot, and another group's socket may be in it.
pub(crate) fn may_occupy(group: &Group, cookie: Cookie, map: Emptied) -> bool {
    let emptied = group.key.protocol == Protocol::Tcp && map == Emptied::WhenItLeaves;
    !emptied || group.member(cookie).is_some()
}

/// The members that would get nothing from a program: they have no slot, and cannot be given one. `has_slot`
/// says whether a member is in a slot that the kernel has not emptied.
pub(crate) fn starving(
    group: &Group,
    has_slot: impl Fn(Cookie) -> bool,
) -> Vec<(&Member, Unborrowable)> {
    let slotless = |member: &&Member| !member.cookie.is_some_and(&has_slot);
    let members = group.members.iter().filter(slotless);
    members.filter_map(|member| Some((member, member.unborrowable()?))).collect()
}

/// Why an attachment that would starve members is refused.
pub(crate) fn refuse_to_starve(key: &GroupKey, starving: &[(&Member, Unborrowable)]) -> Error {
    let count = match starving.len() {
        1 => "a living member".to_owned(),
        n => format!("{n} living members"),
    };
    Error::new(
        ErrorKind::Starved,
        format!("will not attach to {key}: {count} would get nothing from then on"),
    )
    .because(by_reason(starving))
    .with_hint("`attach --partial` attaches all the same, among the other members")
}

/// Why an attachment is refused among whose members none can be given a slot, `--partial` or not.
pub(crate) fn refuse_without_members(
    key: &GroupKey,
    starving: &[(&Member, Unborrowable)],
) -> Error {
    let mptcp = starving.iter().any(|(_, why)| *why == Unborrowable::Mptcp);
    Error::new(ErrorKind::Starved, format!("no member of {key} can be given a slot"))
        .because(by_reason(starving))
        .with_hint(if mptcp {
            Unborrowable::Mptcp.advice()
        } else {
            Unborrowable::NoHolder.advice()
        })
}

/// The members' names, by the reason why they cannot be borrowed.
fn by_reason(starving: &[(&Member, Unborrowable)]) -> String {
    let reasons: BTreeSet<Unborrowable> = starving.iter().map(|(_, why)| *why).collect();
    let of = |reason: Unborrowable| {
        let names = starving.iter().filter(|(_, why)| *why == reason).map(|(m, _)| m.name());
        format!("{}: {reason}", listed(names, 4))
    };
    reasons.into_iter().map(of).collect::<Vec<_>>().join("; ")
}

/// How long a UDP socket is left alone before a watcher enrols it.
///
/// Servers such as those of DTLS bind a socket and then connect it to one client. Between the two calls it is
/// a member like any other.
pub(crate) const SETTLE: Duration = Duration::from_millis(100);

/// A UDP group in a later listing, without the sockets that were not in the first one: they have come since, or
/// are held back ([`Newborn`]). A TCP group is as it is.
pub(crate) fn without_newborn(first: &Group, mut later: Group) -> Group {
    if later.key.protocol == Protocol::Udp {
        let known: HashMap<KernelAddress, &Member> =
            first.members.iter().map(|member| (member.sock_address, member)).collect();
        let was =
            |now: &Member| known.get(&now.sock_address).is_some_and(|m| m.is_still(now.cookie));
        later.members.retain(was);
    }
    later
}

/// Holds back UDP sockets that have just been bound.
#[derive(Debug, Default)]
pub(crate) struct Newborn {
    first_seen: HashMap<Cookie, Instant>,
}

impl Newborn {
    /// This socket was bound at that time.
    pub(crate) fn bound(&mut self, at: Instant, cookie: Cookie) {
        self.first_seen.insert(cookie, at);
    }

    /// Looks at a UDP group: returns those of its members that are to wait, because they were first seen less
    /// than [`SETTLE`] ago. `has_slot` tells the enrolled ones, which never wait; nor do those that cannot be
    /// enrolled.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        group: &Group,
        has_slot: impl Fn(Cookie) -> bool,
    ) -> HashSet<Cookie> {
        if group.key.protocol != Protocol::Udp {
            return HashSet::new();
        }
        let can_be_enrolled = group.members.iter().filter(|m| m.unborrowable().is_none());
        let new: HashSet<Cookie> =
            can_be_enrolled.filter_map(|m| m.cookie).filter(|c| !has_slot(*c)).collect();
        // A socket that was not there in between is new again.
        self.first_seen.retain(|cookie, _| new.contains(cookie));
        let mut young = HashSet::new();
        for cookie in new {
            let first = *self.first_seen.entry(cookie).or_insert(now);
            if now.saturating_duration_since(first) < SETTLE {
                young.insert(cookie);
            }
        }
        young
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::group::{Holder, examples};

    fn cookie(n: u64) -> Cookie {
        Cookie::new(n).unwrap()
    }

    /// A member that a process holds.
    fn held(n: u64) -> Member {
        let holder = Holder { pid: 1, fd: 3, comm: "a".into(), thread: None, origin: None };
        Member { holders: vec![holder], ..hidden(n) }
    }

    fn hidden(n: u64) -> Member {
        examples::member(Protocol::Tcp, n)
    }

    fn group(protocol: Protocol, members: Vec<Member>) -> Group {
        examples::group(examples::key(protocol, "127.0.0.1:80"), members)
    }

    const ARRAY: Emptied = Emptied::WhenItLeaves;
    const MAP: Emptied = Emptied::WhenItCloses;

    #[test]
    fn a_member_that_no_process_is_seen_to_hold_keeps_its_slot() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let group = group(protocol, vec![hidden(5)]);
            for map in [ARRAY, MAP] {
                assert!(!has_left(&group, cookie(5), Occupant::Socket(cookie(5)), map));
                // The kernel has emptied the slot, and it is a member again: it is refilled, not freed.
                assert!(!has_left(&group, cookie(5), Occupant::None, map));
            }
        }
    }

    #[test]
    fn a_slot_is_freed_when_the_kernel_emptied_it() {
        let mut group = group(Protocol::Tcp, vec![held(6)]);
        for complete in [true, false] {
            group.complete = complete;
            assert!(has_left(&group, cookie(5), Occupant::None, ARRAY));
            assert!(has_left(&group, cookie(5), Occupant::None, MAP));
        }
    }

    #[test]
    fn a_slot_is_freed_by_the_state_of_its_socket() {
        let there = Occupant::Socket(cookie(5));
        // A connected UDP socket keeps its slot before 6.13, and in a socket map.
        let mut udp = group(Protocol::Udp, vec![held(6)]);
        assert!(has_left(&udp, cookie(5), there, ARRAY));
        assert!(has_left(&udp, cookie(5), there, MAP));
        // A socket map keeps a listener that stopped.
        let tcp = group(Protocol::Tcp, vec![held(6)]);
        assert!(has_left(&tcp, cookie(5), there, MAP));
        assert!(!has_left(&tcp, cookie(5), there, ARRAY));
        // Without the kernel's tables, its state is not known.
        udp.complete = false;
        assert!(!has_left(&udp, cookie(5), there, ARRAY));
    }

    #[test]
    fn a_listener_that_left_a_socket_array_is_not_in_its_slot() {
        let tcp = group(Protocol::Tcp, vec![held(6)]);
        let udp = group(Protocol::Udp, vec![held(6)]);
        assert!(may_occupy(&tcp, cookie(6), ARRAY) && !may_occupy(&tcp, cookie(5), ARRAY));
        // A socket map keeps a listener that stopped, and kernels before 6.13 a connected UDP socket.
        assert!(may_occupy(&tcp, cookie(5), MAP) && may_occupy(&udp, cookie(5), ARRAY));
    }

    #[test]
    fn members_starve_that_have_no_slot_and_cannot_be_given_one() {
        let mptcp = Member { mptcp: true, ..held(7) };
        let named_by_holder = Member { cookie: None, ..mptcp.clone() };
        assert_eq!(named_by_holder.name(), "fd 3 of pid 1");
        let unnamed = Member { cookie: None, ..hidden(9) };
        let group = group(Protocol::Tcp, vec![held(5), hidden(6), mptcp, hidden(8), unnamed]);
        let starving = starving(&group, |of| of == cookie(8));
        let reasons: Vec<_> = starving.iter().map(|(m, why)| (m.name(), *why)).collect();
        assert_eq!(
            reasons,
            [
                ("cookie:6".to_owned(), Unborrowable::NoHolder),
                ("cookie:7".to_owned(), Unborrowable::Mptcp),
                ("a socket without cookie and holder".to_owned(), Unborrowable::NoHolder),
            ]
        );
        let error = refuse_to_starve(&group.key, &starving);
        let text = error.report().to_string();
        assert!(text.contains("3 living members would get nothing"), "{text}");
        assert!(text.contains("cookie:7: it belongs to an MPTCP"), "{text}");
        assert!(text.contains("--partial"), "{text}");
        let error = refuse_without_members(&group.key, &starving);
        assert_eq!(error.kind(), ErrorKind::Starved);
        assert!(error.report().to_string().contains("GODEBUG"), "{}", error.report());
    }

    #[test]
    fn a_udp_socket_waits_until_a_second_look() {
        let start = Instant::now();
        let group = |members| group(Protocol::Udp, members);
        let mut newborn = Newborn::default();
        let enrolled = |of| of == cookie(1);
        let mut look = |after: u64, members| {
            let now = start + Duration::from_millis(after);
            let mut young: Vec<u64> =
                newborn.look(now, &group(members), enrolled).into_iter().map(Cookie::get).collect();
            young.sort_unstable();
            young
        };
        assert_eq!(look(0, vec![held(1), held(2)]), [2]);
        assert_eq!(look(60, vec![held(1), held(2), held(3)]), [2, 3]);
        assert_eq!(look(100, vec![held(1), held(2), held(3)]), [3]);
        // It was connected meanwhile, and is back.
        assert_eq!(look(120, vec![held(1)]), []);
        assert_eq!(look(400, vec![held(1), held(3)]), [3]);
        assert_eq!(look(500, vec![held(1), held(3)]), []);
        // One that cannot be enrolled is reported at once.
        assert_eq!(look(600, vec![held(1), held(3), hidden(4)]), []);
    }

    #[test]
    fn a_second_look_adds_no_udp_sockets() {
        let unnamed = Member { cookie: None, ..hidden(3) };
        let cookies = |protocol, later| -> Vec<u64> {
            let first = group(protocol, vec![held(1), hidden(2), unnamed.clone(), held(4)]);
            let later = without_newborn(&first, group(protocol, later));
            later.members.iter().filter_map(|member| Some(member.cookie?.get())).collect()
        };
        let reused = Member { sock_address: KernelAddress(4), ..held(6) };
        let later = [held(1), held(2), held(3), held(5), reused];
        assert_eq!(cookies(Protocol::Udp, later.to_vec()), [1, 2, 3]);
        assert_eq!(cookies(Protocol::Tcp, later.to_vec()), [1, 2, 3, 5, 6]);
    }

    #[test]
    fn a_listener_does_not_wait() {
        let group = group(Protocol::Tcp, vec![held(1)]);
        assert_eq!(Newborn::default().look(Instant::now(), &group, |_| false), HashSet::new());
    }
}
