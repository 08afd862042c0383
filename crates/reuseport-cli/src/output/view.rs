//! The command's output about a group, as plain values. These structs are the JSON contract
//! (`docs/json.md`), and the tables for people are drawn from them too, so the two cannot disagree.
//!
//! Field names are stable: add fields, never rename one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use reuseport::Stats;
use reuseport::group::{Device, GroupKey, Holder, Member, NotAsked, Protocol, Queue, Reach};
use reuseport::id::Cookie;
use reuseport::policy::Policy;
use reuseport::status::{GroupStatus, MemberStatus, OwnerCpu, State, Steering, Trial, Uncounted};
use serde::Serialize;

use super::finding::{FindingView, findings};
use super::following::{HoldNewView, WatcherView};
pub(crate) use super::options::PolicyOptionsView;
use crate::process::Names;

/// One element of `ls --json`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct GroupLine {
    #[serde(flatten)]
    pub(crate) identity: Identity,
    /// Which of several groups of one name gets the traffic.
    #[serde(rename = "split", serialize_with = "as_split")]
    pub(crate) reach: Reach,
    pub(crate) program: Option<Program>,
    pub(crate) members: usize,
    pub(crate) unsteered: usize,
    /// Members that have no slot and cannot be given one.
    pub(crate) unborrowable: usize,
    pub(crate) pids: Vec<u32>,
    #[serde(flatten)]
    pub(crate) queue: QueueView,
    /// How many members' queues are full.
    pub(crate) queue_full: usize,
    pub(crate) skew: Option<f64>,
    pub(crate) findings: Vec<FindingView>,
    /// Process names for people; in JSON `show` has them per holder.
    #[serde(skip)]
    pub(crate) processes: Vec<HolderView>,
}

/// What `show --json` prints.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct GroupView {
    #[serde(flatten)]
    pub(crate) identity: Identity,
    /// Which of several groups of one name gets the traffic.
    #[serde(rename = "split", serialize_with = "as_split")]
    pub(crate) reach: Reach,
    pub(crate) policy: Option<&'static str>,
    pub(crate) policy_options: Option<PolicyOptionsView>,
    pub(crate) sticky: Option<&'static str>,
    pub(crate) program: Option<Program>,
    pub(crate) unsteered: usize,
    /// Members that have no slot and cannot be given one.
    pub(crate) unborrowable: usize,
    /// Why open connections are not counted.
    #[serde(serialize_with = "as_text")]
    pub(crate) uncounted: Option<Uncounted>,
    /// The newest generation that serves.
    pub(crate) serving_generation: Option<u32>,
    /// A newer generation on trial.
    pub(crate) trial: Option<TrialView>,
    #[serde(flatten)]
    pub(crate) hold_new: HoldNewView,
    /// The process that follows the group.
    pub(crate) watcher: Option<WatcherView>,
    pub(crate) skew: Option<f64>,
    pub(crate) members: Vec<MemberView>,
    /// UDP sockets on the address that are in no group and not connected.
    pub(crate) outside: Vec<OutsideView>,
    /// What may reach members without any program being asked: `multicast`, `broadcast`, `transparent`.
    #[serde(serialize_with = "as_names")]
    pub(crate) not_asked: Vec<NotAsked>,
    /// With policy `cpu`: running CPUs that no active member has.
    pub(crate) cpus_without_member: Vec<u16>,
    pub(crate) counters: BTreeMap<&'static str, u64>,
    pub(crate) findings: Vec<FindingView>,
}

/// A generation that gets a part of all picks. Without a number: no member of it is left.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TrialView {
    pub(crate) generation: Option<u32>,
    pub(crate) percent: u8,
}

/// Identifies a group.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Identity {
    /// As the command accepts it.
    pub(crate) group: String,
    /// The same with its network namespace.
    #[serde(skip)]
    pub(crate) with_netns: String,
    pub(crate) protocol: &'static str,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// The namespace's inode number, as `lsns` shows it.
    pub(crate) netns: u32,
    pub(crate) netns_cookie: u64,
    /// As `ip netns` names it.
    pub(crate) netns_name: Option<String>,
    pub(crate) uid: u32,
    pub(crate) device: Option<DeviceView>,
    pub(crate) v6only: bool,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct DeviceView {
    pub(crate) index: u32,
    pub(crate) name: Option<String>,
}

/// The program that decides for a group.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Program {
    /// None for a classic BPF program, which has no id.
    pub(crate) id: Option<u32>,
    pub(crate) name: String,
    pub(crate) kind: ProgramKind,
    /// Only where `kind` is `policy`.
    pub(crate) policy: Option<&'static str>,
    /// False for a policy that has no member to select: the kernel's hash decides.
    pub(crate) decides: bool,
    /// Members on standby; in JSON `show` has the state of each.
    #[serde(skip)]
    pub(crate) standby: usize,
}

/// Whose program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProgramKind {
    /// Ours.
    Policy,
    /// The user's own, attached with `--object`.
    Object,
    /// Ours or the user's own, with its state pinned elsewhere or not at all.
    Elsewhere,
    /// Another tool's.
    Foreign,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct OutsideView {
    pub(crate) cookie: Option<u64>,
    pub(crate) holders: Vec<HolderView>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct MemberView {
    pub(crate) slot: Option<u16>,
    pub(crate) state: Option<&'static str>,
    /// Whether it is on standby until a thread waits for connections on it.
    pub(crate) held: bool,
    pub(crate) generation: Option<u32>,
    pub(crate) weight: Option<u16>,
    /// None if no process has ever asked for it.
    pub(crate) cookie: Option<u64>,
    pub(crate) holders: Vec<HolderView>,
    /// Whether it belongs to an MPTCP listener.
    pub(crate) mptcp: bool,
    /// Why it has no slot although our program decides: `no-holder`, `mptcp`, `joined-later`.
    pub(crate) unsteered_because: Option<&'static str>,
    pub(crate) owner: Option<u32>,
    /// The thread that waits for it.
    pub(crate) owner_tid: Option<u32>,
    /// The only CPU on which it is served.
    pub(crate) owner_cpu: Option<u16>,
    /// Why that is not known, if it depends on a thread.
    pub(crate) owner_cpu_unknown: Option<String>,
    #[serde(flatten)]
    pub(crate) queue: QueueView,
    /// Full queues stand out: the kernel drops what comes next.
    #[serde(skip)]
    pub(crate) full: bool,
    pub(crate) open: Option<u64>,
    pub(crate) picks: Option<u64>,
    /// Those since the last change of members, weights, states or policy.
    pub(crate) recent_picks: Option<u64>,
    /// Its part of all members' recent picks.
    pub(crate) share: Option<f64>,
    /// Its part of the active members' weight.
    pub(crate) weight_share: Option<f64>,
    /// Its CPU, with policy `cpu`.
    pub(crate) cpu: Option<u16>,
    /// Whether that is a guess.
    pub(crate) cpu_guessed: bool,
    /// Packets that the kernel dropped there since it was made.
    pub(crate) drops: u32,
    /// Epoll instances and threads that wait for it, where seen.
    pub(crate) waiters: Option<u32>,
    /// TCP_DEFER_ACCEPT.
    pub(crate) defers_accept: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct HolderView {
    pub(crate) pid: u32,
    pub(crate) fd: u32,
    /// The thread whose descriptor it is, if the pid does not lead to it.
    pub(crate) tid: Option<u32>,
    pub(crate) comm: String,
    /// The first process of its server, and when that one began, in seconds since the host's boot.
    pub(crate) server_pid: Option<u32>,
    pub(crate) server_started: Option<u64>,
    /// What the process runs: as `comm`, or the script of an interpreter.
    pub(crate) name: String,
}

/// What waits: TCP connections, or UDP bytes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct QueueView {
    #[serde(rename = "queue")]
    pub(crate) waiting: u64,
    #[serde(rename = "queue_half_open")]
    pub(crate) half_open: u64,
    #[serde(rename = "queue_limit")]
    pub(crate) limit: u64,
}

impl GroupLine {
    /// The line of `status`, whose namespace has the name `netns_name`.
    pub(crate) fn new(status: &GroupStatus, netns_name: Option<String>, names: &Names) -> Self {
        let mut queue = QueueView::default();
        for member in &status.members {
            queue.add(member.member.queue);
        }
        let is_full = |member: &&MemberStatus| member.member.is_full();
        Self {
            identity: Identity::new(&status.group.key, netns_name),
            reach: status.group.reach,
            program: Program::new(status),
            members: status.members.len(),
            unsteered: status.unsteered(),
            unborrowable: unborrowable(status),
            pids: status.group.pids(),
            queue,
            queue_full: status.members.iter().filter(is_full).count(),
            skew: Stats::new(status).skew.map(rounded),
            findings: findings(status),
            processes: status
                .group
                .members
                .iter()
                .flat_map(|m| m.holders.iter().map(|holder| HolderView::new(holder, names)))
                .collect(),
        }
    }
}

impl GroupView {
    /// The view of `status`, whose namespace has the name `netns_name`.
    pub(crate) fn new(status: &GroupStatus, netns_name: Option<String>, names: &Names) -> Self {
        let selection = status.steering.selection();
        let (policy, sticky) = (selection.map(|s| s.policy), selection.map(|s| s.sticky.name()));
        let stats = Stats::new(status);
        let steered = status.steering.is_ours();
        let members = status.members.iter().zip(&stats.members).map(|(member, stats)| MemberView {
            unsteered_because: why_unsteered(member).filter(|_| steered),
            share: stats.share.map(rounded),
            weight_share: policy.and(stats.weight_share).map(rounded),
            ..MemberView::from_status(member, names)
        });
        Self {
            identity: Identity::new(&status.group.key, netns_name),
            reach: status.group.reach,
            policy: policy.map(Policy::name),
            policy_options: policy.and_then(PolicyOptionsView::new),
            sticky,
            program: Program::new(status),
            unsteered: status.unsteered(),
            unborrowable: unborrowable(status),
            outside: status.group.outside.iter().map(|one| OutsideView::new(one, names)).collect(),
            not_asked: status.group.not_asked(),
            uncounted: status.uncounted,
            serving_generation: status.serving_generation,
            trial: status.trial.map(|Trial { generation, share, .. }| TrialView {
                generation,
                percent: share.get(),
            }),
            hold_new: HoldNewView::new(status.hold_new),
            watcher: status.watcher.as_ref().map(WatcherView::new),
            skew: stats.skew.map(rounded),
            members: members.collect(),
            cpus_without_member: status.cpus_without_member.clone(),
            counters: status.counters.iter().map(|c| (c.reason, c.count)).collect(),
            findings: findings(status),
        }
    }
}

impl Identity {
    pub(crate) fn new(key: &GroupKey, netns_name: Option<String>) -> Self {
        Self {
            group: key.to_string(),
            with_netns: key.with_netns(),
            protocol: match key.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
            },
            address: key.address.ip(),
            port: key.address.port(),
            netns: key.netns.inode,
            netns_cookie: key.netns.cookie,
            netns_name,
            uid: key.uid,
            device: key.device.clone().map(|Device { index, name }| DeviceView { index, name }),
            v6only: key.v6only,
        }
    }

    /// The sort key of groups.
    pub(crate) fn order(&self) -> impl Ord + '_ {
        (self.netns, self.protocol, self.port, self.address, &self.group, self.uid)
    }

    /// Whether queues hold bytes, not connections.
    pub(crate) fn is_udp(&self) -> bool {
        self.protocol == "udp"
    }
}

impl Program {
    pub(crate) fn new(status: &GroupStatus) -> Option<Self> {
        let attached = status.group.program.as_ref()?;
        let (kind, policy) = match status.steering {
            Steering::Ours(reuseport::Program::Selection(selection)) => {
                (ProgramKind::Policy, Some(selection.policy.name()))
            }
            Steering::Ours(reuseport::Program::Object(())) => (ProgramKind::Object, None),
            Steering::Elsewhere(program) | Steering::Emptied(program) => {
                let selection = program.and_then(|program| program.selection());
                (ProgramKind::Elsewhere, selection.map(|selection| selection.policy.name()))
            }
            // A kernel's hash has no program.
            _ => (ProgramKind::Foreign, None),
        };
        let on_standby =
            |m: &&MemberStatus| m.enrolment.as_ref().is_some_and(|e| e.state == State::Standby);
        Some(Self {
            id: attached.id,
            name: attached.name.clone(),
            kind,
            policy,
            decides: status.decides(),
            standby: status.members.iter().filter(on_standby).count(),
        })
    }
}

impl MemberView {
    fn from_status(status: &MemberStatus, names: &Names) -> Self {
        let (member, enrolment) = (&status.member, status.enrolment.as_ref());
        Self {
            slot: enrolment.map(|e| e.slot.get()),
            state: enrolment.map(|e| state_name(e.state)),
            held: enrolment.is_some_and(|e| e.is_held),
            generation: enrolment.map(|e| e.generation),
            weight: enrolment.map(|e| e.weight.get()),
            cookie: member.cookie.map(Cookie::get),
            holders: member.holders.iter().map(|holder| HolderView::new(holder, names)).collect(),
            mptcp: member.mptcp,
            unsteered_because: None,
            owner: status.owner,
            owner_tid: status.owner_thread,
            owner_cpu: status.owner_cpu.and_then(OwnerCpu::bound),
            owner_cpu_unknown: status.owner_cpu.and_then(why_unknown),
            queue: QueueView::of(member.queue),
            full: member.is_full(),
            open: enrolment.and_then(|e| e.open),
            picks: enrolment.and_then(|e| e.picks),
            recent_picks: enrolment.and_then(|e| e.recent_picks),
            share: None,
            weight_share: None,
            cpu: enrolment.and_then(|e| e.cpu),
            cpu_guessed: enrolment.is_some_and(|e| e.cpu_guessed),
            drops: member.drops,
            waiters: member.waiters,
            defers_accept: member.defers_accept,
        }
    }
}

/// Why a member has no slot; None if it has one.
fn why_unsteered(status: &MemberStatus) -> Option<&'static str> {
    match (&status.enrolment, status.member.unborrowable()) {
        (Some(_), _) => None,
        (None, Some(why)) => Some(why.name()),
        (None, None) => Some("joined-later"),
    }
}

/// "2 threads with different CPUs".
fn why_unknown(cpu: OwnerCpu) -> Option<String> {
    match cpu {
        OwnerCpu::Unknown { threads } => Some(format!("{threads} threads with different CPUs")),
        _ => None,
    }
}

fn unborrowable(status: &GroupStatus) -> usize {
    let cannot = |m: &&MemberStatus| m.enrolment.is_none() && m.member.unborrowable().is_some();
    status.members.iter().filter(cannot).count()
}

impl OutsideView {
    fn new(socket: &Member, names: &Names) -> Self {
        Self {
            cookie: socket.cookie.map(Cookie::get),
            holders: socket.holders.iter().map(|holder| HolderView::new(holder, names)).collect(),
        }
    }
}

impl HolderView {
    fn new(holder: &Holder, names: &Names) -> Self {
        let Holder { pid, fd, comm, thread, origin, .. } = holder;
        Self {
            pid: *pid,
            fd: *fd,
            tid: *thread,
            comm: comm.clone(),
            name: names.of(*pid, comm),
            server_pid: origin.and_then(|origin| origin.first),
            server_started: origin.map(|origin| origin.started.as_secs()),
        }
    }
}

impl QueueView {
    fn of(queue: Queue) -> Self {
        let mut one = Self::default();
        one.add(queue);
        one
    }

    fn add(&mut self, queue: Queue) {
        self.waiting += u64::from(queue.waiting);
        self.half_open += u64::from(queue.half_open);
        self.limit += u64::from(queue.limit);
    }
}

/// Writes a reason as text.
fn as_text<S: serde::Serializer>(why: &Option<Uncounted>, to: S) -> Result<S::Ok, S::Error> {
    why.map(|why| why.to_string()).serialize(to)
}

/// Writes a word for programs, or null for the only group of its name.
fn as_split<S: serde::Serializer>(reach: &Reach, to: S) -> Result<S::Ok, S::Error> {
    reach.is_split().then(|| reach.name()).serialize(to)
}

/// Writes words for programs.
fn as_names<S: serde::Serializer>(what: &[NotAsked], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(what.iter().map(|what| what.name()))
}

/// Four digits are precise enough, and keep the JSON short.
fn rounded(share: f64) -> f64 {
    (share * 10_000.0).round() / 10_000.0
}

pub(crate) fn state_name(state: State) -> &'static str {
    match state {
        State::Standby => "standby",
        State::Active => "active",
        State::Draining => "draining",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_four_digits() {
        assert_eq!(rounded((0.6_f64 - 0.5).abs()), 0.1);
        assert_eq!(rounded(1.0 / 3.0), 0.3333);
    }
}
