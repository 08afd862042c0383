//! A group's statistics: queues, open connections, picks, and how far the picks are from the weights.
//! Computed from a [`GroupStatus`]; reads nothing.

use std::os::fd::AsFd;

use crate::kernel::borrow::cookie_of;
use crate::model::group::Queue;
use crate::model::id::{Cookie, Slot, State, Weight};
use crate::model::policy::Policy;
use crate::model::status::{Counter, GroupStatus, MemberStatus};

/// A group's statistics at one moment: what `reuseport show` prints.
///
/// Picks and counters start at 0 when this tool attaches to the group; changes of policy, weights and
/// states do not reset them. Rates are differences of two `Stats`. Shares and skew are of the picks since
/// the last change of members, weights, states or policy.
///
/// [`Balancer::stats`](crate::Balancer::stats) has an example.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// The members: first those with a slot, by slot, then the unsteered ones.
    pub members: Vec<MemberStats>,
    /// How far the picks are from the weights: the largest difference, over the active members, between
    /// a member's part of their recent picks and its part of their weights. 0 is exact, 1 the worst. `None`
    /// if there are no picks yet, no active member has a weight, no policy of this tool decides, or it is `cpu`,
    /// which asks for no shares.
    ///
    /// Only `round-robin` and `random` aim at 0. For `least-loaded` it shows how unequally fast the
    /// members are.
    pub skew: Option<f64>,
    /// The program's runs by reason; empty unless a policy of this tool decides.
    pub counters: Vec<Counter>,
}

/// One member's statistics.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MemberStats {
    /// The socket; `None` if no process has ever asked for its cookie and none that is visible holds it.
    pub cookie: Option<Cookie>,
    /// The slot that it occupies; `None`: unsteered, it gets nothing while this tool's program decides.
    pub slot: Option<Slot>,
    /// Its part in the balancing; `None` without a slot.
    pub state: Option<State>,
    /// Its weight; `None` without a slot.
    pub weight: Option<Weight>,
    /// Its queue: connections (TCP) or bytes (UDP).
    pub queue: Queue,
    /// Open connections, including those that wait to be accepted; `None` for UDP, under a policy that does not
    /// compare them, and where they cannot be counted (no CAP_PERFMON). Connections from before the policy was
    /// attached are not counted.
    pub open: Option<u64>,
    /// How often the program picked it: connections (TCP) or datagrams (UDP). `None` without a slot,
    /// and where the user's own program decides.
    pub picks: Option<u64>,
    /// Those of them since the last change of members, weights, states or policy.
    pub recent_picks: Option<u64>,
    /// Its part of all members' recent picks, 0 to 1; `None` if there are none.
    pub share: Option<f64>,
    /// Its part of the active members' weight, 0 to 1. `round-robin` and `random` bring `share` to this
    /// value while all members are active; `share` also includes picks of draining members. `None`
    /// without a slot, if no active member has a weight, and under the policy `cpu`.
    pub weight_share: Option<f64>,
}

impl Stats {
    /// The statistics of a group.
    pub fn new(status: &GroupStatus) -> Self {
        let all = |number: fn(&MemberStatus) -> u64| status.members.iter().map(number).sum::<u64>();
        let (picks, weight) = (all(recent_picks), all(active_weight));
        let policy = status.steering.policy();
        // Where the CPUs decide, no share is asked for.
        let by_cpu = policy.is_some_and(Policy::places_on_cpus);
        let member = |m| {
            let stats = MemberStats::new(m, picks, weight);
            MemberStats { weight_share: stats.weight_share.filter(|_| !by_cpu), ..stats }
        };
        Self {
            members: status.members.iter().map(member).collect(),
            skew: skew(&status.members).filter(|_| policy.is_some() && !by_cpu),
            counters: status.counters.clone(),
        }
    }

    /// The statistics of one of the caller's sockets; `None` if it is not a member.
    pub fn of(&self, socket: impl AsFd) -> Option<&MemberStats> {
        let cookie = cookie_of(socket).ok()?;
        self.members.iter().find(|member| member.cookie == Some(cookie))
    }

    /// How often the program ran for a reason: `picks`, `fallback_kernel` and so on, as `docs/json.md`
    /// lists them. `None` if there is no such reason, or no policy of this tool decides.
    pub fn count(&self, reason: &str) -> Option<u64> {
        self.counters.iter().find(|counter| counter.reason == reason).map(|counter| counter.count)
    }

    /// The picks of all members.
    pub fn picks(&self) -> u64 {
        self.members.iter().filter_map(|member| member.picks).sum()
    }
}

impl MemberStats {
    fn new(status: &MemberStatus, all_picks: u64, all_weight: u64) -> Self {
        let enrolment = status.enrolment.as_ref();
        let recent = enrolment.and_then(|e| e.recent_picks);
        Self {
            cookie: status.member.cookie,
            slot: enrolment.map(|e| e.slot),
            state: enrolment.map(|e| e.state),
            weight: enrolment.map(|e| e.weight),
            queue: status.member.queue,
            open: enrolment.and_then(|e| e.open),
            picks: enrolment.and_then(|e| e.picks),
            recent_picks: recent,
            share: recent.and_then(|picks| part(picks, all_picks)),
            weight_share: enrolment.and_then(|_| part(active_weight(status), all_weight)),
        }
    }
}

fn recent_picks(member: &MemberStatus) -> u64 {
    member.enrolment.as_ref().and_then(|e| e.recent_picks).unwrap_or(0)
}

/// A member's weight; 0 unless it is active.
fn active_weight(member: &MemberStatus) -> u64 {
    let active = member.enrolment.as_ref().filter(|e| e.state == State::Active);
    active.map_or(0, |e| e.weight.get().into())
}

#[allow(clippy::cast_precision_loss, reason = "the error is below 2^-52")]
fn part(of: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| of as f64 / all as f64)
}

fn skew(members: &[MemberStatus]) -> Option<f64> {
    let is_active =
        |m: &&MemberStatus| m.enrolment.as_ref().is_some_and(|e| e.state == State::Active);
    let active = || members.iter().filter(is_active);
    let (all_picks, all_weight) =
        (active().map(recent_picks).sum(), active().map(active_weight).sum());
    let difference =
        |m| Some((part(recent_picks(m), all_picks)? - part(active_weight(m), all_weight)?).abs());
    active().map(difference).try_fold(None, |largest: Option<f64>, difference| {
        difference.map(|d| Some(largest.map_or(d, |largest| largest.max(d))))
    })?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::group::{Protocol, examples};
    use crate::model::policy::Policy;
    use crate::model::selection::Steering;
    use crate::model::status::{Enrolment, example};

    /// A member with (state, weight, picks); without them, unsteered.
    fn member(number: u16, enrolled: Option<(State, u16, u64)>) -> MemberStatus {
        let enrolment = enrolled.map(|(state, weight, picks)| Enrolment {
            slot: Slot::new(number),
            state,
            is_held: false,
            weight: Weight::new(weight).unwrap(),
            generation: 1,
            cpu: None,
            cpu_guessed: false,
            picks: Some(picks),
            recent_picks: Some(picks),
            open: Some(7),
        });
        let member = examples::member(Protocol::Tcp, u64::from(number) + 1);
        MemberStatus {
            member,
            owner: None,
            owner_thread: None,
            threads_waiting: 0,
            owner_cpu: None,
            enrolment,
        }
    }

    fn stats(members: Vec<MemberStatus>) -> Stats {
        let key = examples::key(Protocol::Tcp, "127.0.0.1:80");
        let group = examples::group(key, Vec::new());
        let steering = Steering::Ours(Policy::RoundRobin.into());
        let counters = vec![Counter { reason: "picks", count: 400 }];
        Stats::new(&GroupStatus { counters, ..example(group, steering, members) })
    }

    const ACTIVE: State = State::Active;

    #[test]
    fn shares_are_next_to_weight_shares() {
        let all = [Some((ACTIVE, 1, 100)), Some((ACTIVE, 3, 300)), None];
        let stats = stats((0..).zip(all).map(|(n, enrolled)| member(n, enrolled)).collect());
        let shares: Vec<_> = stats.members.iter().map(|m| (m.share, m.weight_share)).collect();
        assert_eq!(shares, [(Some(0.25), Some(0.25)), (Some(0.75), Some(0.75)), (None, None)]);
        assert_eq!(stats.skew, Some(0.0));
        assert_eq!(stats.picks(), 400);
        assert_eq!((stats.count("picks"), stats.count("nothing")), (Some(400), None));
    }

    #[test]
    fn skew_is_of_the_active_members() {
        let of = |all: &[(State, u16, u64)]| {
            stats((0..).zip(all).map(|(n, enrolled)| member(n, Some(*enrolled))).collect()).skew
        };
        assert_eq!(of(&[(ACTIVE, 1, 75), (ACTIVE, 1, 25)]), Some(0.25));
        let off = of(&[(ACTIVE, 1, 60), (ACTIVE, 1, 40)]).unwrap();
        assert!((off - 0.1).abs() < 1e-9, "{off}");
        assert_eq!(of(&[(ACTIVE, 1, 100), (ACTIVE, 3, 300)]), Some(0.0));
        let draining = (State::Draining, 1, 900);
        assert_eq!(of(&[(ACTIVE, 1, 50), (ACTIVE, 1, 50), draining]), Some(0.0));
        assert_eq!(of(&[(ACTIVE, 1, 0)]), None);
        assert_eq!(of(&[(ACTIVE, 0, 5)]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn picks_from_before_the_last_change_are_compared_with_nothing() {
        let with = |recent: [u64; 2]| {
            let mut members =
                vec![member(0, Some((ACTIVE, 1, 500))), member(1, Some((ACTIVE, 3, 500)))];
            for (member, recent) in members.iter_mut().zip(recent) {
                member.enrolment.as_mut().unwrap().recent_picks = Some(recent);
            }
            stats(members)
        };
        let unknown = with([0, 0]);
        assert_eq!((unknown.skew, unknown.members[0].share), (None, None));
        let known = with([5, 15]);
        assert_eq!((known.skew, known.members[0].share), (Some(0.0), Some(0.25)));
        assert_eq!(known.picks(), 1000, "all count");
    }
}
