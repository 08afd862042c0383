//! Every metric about groups: its name, what it means, and where its values come from. `docs/metrics.md` is checked
//! against this list.

use std::time::Duration;

use reuseport::finding::Finding;
use reuseport::group::{Device, Protocol};
use reuseport::status::{State, Steering};

use super::namespaces::Counters;
use super::sample::{GroupSample, MemberSample, Scrape};
use crate::output::safe;
use crate::output::view::{Identity, Program, ProgramKind, state_name};

/// A metric with all its labels.
pub(super) struct Family {
    /// Without the prefix, the unit and `_total` or `_info`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) unit: Option<&'static str>,
    pub(super) help: &'static str,
    /// Where there is more to have than `ls` needs: the kernel that it takes, or another condition.
    pub(super) needs: Option<&'static str>,
    pub(super) of: Of,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Info,
}

/// Labels, each with its value.
pub(super) type Labels = Vec<(&'static str, String)>;

/// What a metric is of, and its value. `None`: not known, or not for this one.
pub(super) enum Of {
    Member(fn(MemberSample<'_>) -> Option<u64>),
    /// Always 1. With the names of the labels.
    MemberLabels(&'static [&'static str], fn(MemberSample<'_>) -> Option<Labels>),
    Group(fn(&GroupSample) -> Option<u64>),
    /// With one more label.
    GroupBy(&'static str, fn(&GroupSample) -> Vec<(&'static str, u64)>),
    GroupLabels(&'static [&'static str], fn(&GroupSample) -> Labels),
    Namespace(fn(&Counters) -> Option<u64>),
    Scrape(fn(&Scrape) -> f64),
    Build,
}

use Kind::{Counter, Gauge, Info};

const OURS: Option<&str> = Some("a policy of this tool decides");

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "picks",
        kind: Counter,
        unit: None,
        help: "Connections (tcp) or datagrams (udp) that the program gave to the member in this slot.",
        needs: OURS,
        of: Of::Member(|member| member.enrolment()?.picks),
    },
    Family {
        name: "accept_queue",
        kind: Gauge,
        unit: Some("connections"),
        help: "tcp: connections that wait to be accepted.",
        needs: None,
        of: Of::Member(|member| queue(member, Protocol::Tcp, |queue| queue.waiting)),
    },
    Family {
        name: "accept_queue_limit",
        kind: Gauge,
        unit: Some("connections"),
        help: "tcp: the accept queue's limit, the backlog of listen(). The queue is full above it.",
        needs: None,
        of: Of::Member(|member| queue(member, Protocol::Tcp, |queue| queue.limit)),
    },
    Family {
        name: "half_open",
        kind: Gauge,
        unit: Some("connections"),
        help: "tcp: connections whose handshake is not finished.",
        needs: None,
        of: Of::Member(|member| queue(member, Protocol::Tcp, |queue| queue.half_open)),
    },
    Family {
        name: "receive_queue",
        kind: Gauge,
        unit: Some("bytes"),
        help: "udp: memory that datagrams take which wait to be read.",
        needs: None,
        of: Of::Member(|member| queue(member, Protocol::Udp, |queue| queue.waiting)),
    },
    Family {
        name: "receive_queue_limit",
        kind: Gauge,
        unit: Some("bytes"),
        help: "udp: the receive buffer, SO_RCVBUF. The queue is full when it reaches this.",
        needs: None,
        of: Of::Member(|member| queue(member, Protocol::Udp, |queue| queue.limit)),
    },
    Family {
        name: "drops",
        kind: Counter,
        unit: None,
        help: "Packets that the kernel dropped at the socket (sk_drops), modulo 2^32: mostly because its queue was full.",
        needs: None,
        of: Of::Member(|member| Some(member.status.member.drops.into())),
    },
    Family {
        name: "open",
        kind: Gauge,
        unit: Some("connections"),
        help: "tcp: connections of the member that are open, with those that wait to be accepted.",
        needs: Some("least-loaded with the load term open; CAP_PERFMON at attach"),
        of: Of::Member(|member| member.enrolment()?.open),
    },
    Family {
        name: "member_waiters",
        kind: Gauge,
        unit: None,
        help: "Epoll instances and threads that wait for the socket at this moment, 16 at most. 0: its worker is busy, or nothing serves it.",
        needs: Some("Linux 5.19"),
        of: Of::Member(|member| member.status.member.waiters.map(u64::from)),
    },
    Family {
        name: "member_weight",
        kind: Gauge,
        unit: None,
        help: "The member's relative share of the picks.",
        needs: Some("a program of this tool"),
        of: Of::Member(|member| Some(member.enrolment()?.weight.get().into())),
    },
    Family {
        name: "member_state",
        kind: Gauge,
        unit: None,
        help: "1 for the state in which the member is: active, draining or standby.",
        needs: Some("a program of this tool"),
        of: Of::MemberLabels(&["state"], |member| {
            Some(vec![("state", state_name(member.enrolment()?.state).to_owned())])
        }),
    },
    Family {
        name: "member",
        kind: Info,
        unit: None,
        help: "The socket and the process in this slot. Joined to the other metrics, whose labels stay when a worker is replaced.",
        needs: None,
        of: Of::MemberLabels(&["cookie", "pid", "comm", "generation"], |member| {
            Some(member_labels(member))
        }),
    },
    Family {
        name: "fallbacks",
        kind: Counter,
        unit: None,
        help: "Choices that did not go to the member which the policy picked, by where they went: active (another active member), draining (there was no active one), kernel (the kernel's hash decided).",
        needs: OURS,
        of: Of::GroupBy("reason", |group| {
            counters(
                group,
                &[
                    ("fallback_active", "active"),
                    ("fallback_draining", "draining"),
                    ("fallback_kernel", "kernel"),
                ],
            )
        }),
    },
    Family {
        name: "migrations",
        kind: Counter,
        unit: None,
        help: "Connections and half-open requests of a listener that closed, by who chose the listener that got them: program or kernel.",
        needs: Some("a policy of this tool decides; Linux 5.14"),
        of: Of::GroupBy("by", |group| {
            counters(group, &[("migrations", "program"), ("migrations_kernel", "kernel")])
        }),
    },
    Family {
        name: "program_events",
        kind: Counter,
        unit: None,
        help: "What else the program counts, by the word that `show --json` has for it.",
        needs: OURS,
        of: Of::GroupBy("event", other_counters),
    },
    Family {
        name: "group_members",
        kind: Gauge,
        unit: None,
        help: "Sockets of the group by state: active, draining, standby, or none (no slot).",
        needs: None,
        of: Of::GroupBy("state", members_by_state),
    },
    Family {
        name: "group_unsteered_members",
        kind: Gauge,
        unit: None,
        help: "Sockets that get nothing because they have no slot, while a program of this tool decides.",
        needs: Some("a program of this tool"),
        of: Of::Group(|group| {
            group.status.steering.is_ours().then(|| len(group.status.unsteered()))
        }),
    },
    Family {
        name: "group_full_queues",
        kind: Gauge,
        unit: None,
        help: "Sockets of the group whose queue is full: the kernel drops what comes next.",
        needs: None,
        of: Of::Group(|group| {
            let members = group.status.members.iter();
            Some(len(members.filter(|member| member.member.is_full()).count()))
        }),
    },
    Family {
        name: "group_decided",
        kind: Gauge,
        unit: None,
        help: "1 if a program decides, 0 if the kernel's hash does.",
        needs: None,
        of: Of::Group(|group| Some(group.status.decides().into())),
    },
    Family {
        name: "group_watched",
        kind: Gauge,
        unit: None,
        help: "1 if a process follows the group and adds new members (attach --watch), 0 if none does.",
        needs: Some("a program of this tool"),
        of: Of::Group(|group| {
            group.status.steering.is_ours().then(|| group.status.watcher.is_some().into())
        }),
    },
    Family {
        name: "finding",
        kind: Gauge,
        unit: None,
        help: "What `show` points out about the group, by its word: how many members it is about, 1 if it is about the group. No series without a finding.",
        needs: None,
        of: Of::GroupBy("finding", |group| {
            let of = |finding: &Finding| (finding.name(), len(finding.members().len().max(1)));
            group.status.findings.iter().map(of).collect()
        }),
    },
    Family {
        name: "group",
        kind: Info,
        unit: None,
        help: "The group: where it is, and what decides.",
        needs: None,
        of: Of::GroupLabels(
            &[
                "protocol",
                "address",
                "port",
                "device",
                "netns",
                "uid",
                "program",
                "policy",
                "sticky",
                "program_id",
                "program_name",
            ],
            group_labels,
        ),
    },
    Family {
        name: "listen_overflows",
        kind: Counter,
        unit: None,
        help: "tcp: accept queues that were full when a connection came, in the whole network namespace (TcpExt ListenOverflows).",
        needs: Some("our own namespace, or a process of a group in it"),
        of: Of::Namespace(|counters| counters.listen_overflows),
    },
    Family {
        name: "listen_drops",
        kind: Counter,
        unit: None,
        help: "tcp: packets that listeners dropped, for that or another reason, in the whole network namespace (TcpExt ListenDrops).",
        needs: Some("our own namespace, or a process of a group in it"),
        of: Of::Namespace(|counters| counters.listen_drops),
    },
    Family {
        name: "udp_receive_buffer_errors",
        kind: Counter,
        unit: None,
        help: "udp: datagrams dropped because a receive buffer was full, in the whole network namespace, IPv4 and IPv6 (Udp RcvbufErrors).",
        needs: Some("our own namespace, or a process of a group in it"),
        of: Of::Namespace(|counters| counters.receive_buffer_errors),
    },
    Family {
        name: "groups",
        kind: Gauge,
        unit: None,
        help: "Groups in this scrape.",
        needs: None,
        of: Of::Scrape(|scrape| f64::from(u32::try_from(scrape.groups.len()).unwrap_or(u32::MAX))),
    },
    Family {
        name: "scrape_success",
        kind: Gauge,
        unit: None,
        help: "1 if the host could be looked at, 0 if not: then there are no groups in this scrape.",
        needs: None,
        of: Of::Scrape(|scrape| f64::from(u8::from(scrape.took.is_some()))),
    },
    Family {
        name: "scrape_duration",
        kind: Gauge,
        unit: Some("seconds"),
        help: "How long the look at the host took.",
        needs: None,
        of: Of::Scrape(|scrape| scrape.took.as_ref().map_or(0.0, Duration::as_secs_f64)),
    },
    Family {
        name: "build",
        kind: Info,
        unit: None,
        help: "The version of this command.",
        needs: None,
        of: Of::Build,
    },
];

fn len(n: usize) -> u64 {
    n as u64
}

fn queue(
    member: MemberSample<'_>,
    protocol: Protocol,
    value: fn(reuseport::group::Queue) -> u32,
) -> Option<u64> {
    member.is(protocol).then(|| value(member.status.member.queue).into())
}

fn member_labels(member: MemberSample<'_>) -> Labels {
    let mut labels = Vec::new();
    // Without a slot, the cookie is among the labels already.
    if let (Some(enrolment), Some(cookie)) = (member.enrolment(), member.status.member.cookie) {
        labels.push(("cookie", cookie.to_string()));
        labels.push(("generation", enrolment.generation.to_string()));
    }
    let (pid, comm) = member.process();
    labels.extend(pid.map(|pid| ("pid", pid.to_string())));
    labels.extend(comm.map(|comm| ("comm", safe(comm))));
    labels
}

fn group_labels(group: &GroupSample) -> Labels {
    let key = &group.status.group.key;
    let identity = Identity::new(key, None);
    let mut labels = vec![
        ("protocol", identity.protocol.to_owned()),
        ("address", identity.address.to_string()),
        ("port", identity.port.to_string()),
        ("netns", group.netns.clone()),
        ("uid", identity.uid.to_string()),
    ];
    if let Some(Device { index, name, .. }) = &key.device {
        labels.push(("device", name.as_deref().map_or_else(|| index.to_string(), safe)));
    }
    let Some(program) = Program::new(&group.status) else {
        labels.push(("program", "none".to_owned()));
        return labels;
    };
    let kind = match program.kind {
        ProgramKind::Policy => "policy",
        ProgramKind::Object => "object",
        ProgramKind::Elsewhere => "elsewhere",
        ProgramKind::Foreign => "foreign",
    };
    labels.push(("program", kind.to_owned()));
    labels.extend(program.policy.map(|policy| ("policy", policy.to_owned())));
    if let Steering::Ours(reuseport::Program::Selection(selection)) = group.status.steering {
        labels.push(("sticky", selection.sticky.name().to_owned()));
    }
    labels.extend(program.id.map(|id| ("program_id", id.to_string())));
    labels.push(("program_name", safe(&program.name)));
    labels
}

/// The counters that have a family of their own.
const OWN_FAMILY: [&str; 6] = [
    "picks",
    "fallback_active",
    "fallback_draining",
    "fallback_kernel",
    "migrations",
    "migrations_kernel",
];

/// Counters of the program, each under another name.
fn counters(group: &GroupSample, names: &[(&str, &'static str)]) -> Vec<(&'static str, u64)> {
    let count = |(reason, name): &(&str, &'static str)| {
        let counter = group.status.counters.iter().find(|counter| counter.reason == *reason)?;
        Some((*name, counter.count))
    };
    names.iter().filter_map(count).collect()
}

fn other_counters(group: &GroupSample) -> Vec<(&'static str, u64)> {
    let counters = group.status.counters.iter();
    let others = counters.filter(|counter| !OWN_FAMILY.contains(&counter.reason));
    others.map(|counter| (counter.reason, counter.count)).collect()
}

fn members_by_state(group: &GroupSample) -> Vec<(&'static str, u64)> {
    let count = |state: Option<State>| {
        let of = |member: &&reuseport::status::MemberStatus| {
            member.enrolment.as_ref().map(|enrolment| enrolment.state) == state
        };
        len(group.status.members.iter().filter(of).count())
    };
    let states = [State::Active, State::Draining, State::Standby].map(Some);
    let name = |state: Option<State>| state.map_or("none", state_name);
    states.into_iter().chain([None]).map(|state| (name(state), count(state))).collect()
}
