//! What is worth knowing about a group, in words.

mod circumstance;

use std::time::Duration;

use reuseport::Policy;
use reuseport::finding::{Finding, Party};
use reuseport::group::{Protocol, listed};
use reuseport::server::Server;
use reuseport::status::GroupStatus;
use serde::Serialize;

use circumstance::{NAMED, names};

use crate::output::foreign::safe;
use crate::output::number::{by_number, count};

/// A finding, for programs and for people.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FindingView {
    pub(crate) finding: &'static str,
    /// `problem` or `advice`.
    pub(crate) severity: &'static str,
    /// The members that it is about, by name.
    pub(crate) members: Vec<String>,
    pub(crate) text: String,
    /// What a list of groups says about it, if anything.
    #[serde(skip)]
    pub(crate) short: Option<String>,
}

/// The findings about a group.
pub(crate) fn findings(status: &GroupStatus) -> Vec<FindingView> {
    let about = About::new(status);
    status.findings.iter().map(|finding| view(&about, finding)).collect()
}

pub(super) fn view(about: &About, finding: &Finding) -> FindingView {
    FindingView {
        finding: finding.name(),
        severity: finding.severity().name(),
        members: finding.members().into_iter().map(str::to_owned).collect(),
        text: about.text(finding),
        short: about.short(finding),
    }
}

/// The findings that matter when a program is attached, each as a sentence.
pub(crate) fn findings_at_attach(status: &GroupStatus) -> Vec<String> {
    let about = About::new(status);
    let matters = |finding: &&Finding| {
        about.short(finding).is_some()
            || matches!(finding, Finding::OneSocket { .. } | Finding::SeveralServers { .. })
    };
    status.findings.iter().filter(matters).map(|finding| about.text(finding)).collect()
}

/// The group that a finding is about.
pub(super) struct About {
    protocol: Protocol,
    /// Whether the kernel's hash decides among several members.
    hashed: bool,
}

impl About {
    pub(super) fn new(status: &GroupStatus) -> Self {
        let hashed = !status.decides() && status.members.len() > 1;
        Self { protocol: status.group.key.protocol, hashed }
    }

    fn text(&self, finding: &Finding) -> String {
        match finding {
            Finding::OneSocket { processes, waiters, server, .. } => {
                one_socket(*processes, *waiters, *server)
            }
            Finding::SeveralServers { parties, different, .. } => several(parties, *different),
            Finding::Unwaited { members, waiting, .. } => self.unwaited(members, *waiting),
            Finding::SeveralWait { members, .. } => format!(
                "several epoll instances or threads wait for {}: what chooses a socket does not choose among them",
                names(members),
            ),
            Finding::NotAccepting { members, .. } => format!(
                "{} {} on standby, and {} nothing: no thread was seen waiting for connections there yet \
                 (--hold-new=accepting)",
                names(members),
                by_number(members.len(), "is", "are"),
                by_number(members.len(), "gets", "get"),
            ),
            Finding::QueueFull { members, .. } => {
                let n = members.len();
                let (queue, is) = (by_number(n, "queue", "queues"), by_number(n, "is", "are"));
                let text = format!(
                    "the {queue} of {} {is} full: the kernel drops what comes there",
                    names(members)
                );
                self.with_flow(text, members.len())
            }
            Finding::Drops { members, .. } => {
                let each = members.iter().map(|(name, n)| format!("{n} at {name}"));
                let text = format!(
                    "the kernel has dropped packets since the sockets were made: {}",
                    listed(each, NAMED)
                );
                self.with_flow(text, members.len())
            }
            Finding::OneSided { member, percent, policy, .. } => {
                one_sided(member, *percent, *policy, self.protocol)
            }
            other => circumstance::text(other),
        }
    }

    /// What was seen, without what mends it.
    pub(super) fn seen(&self, finding: &Finding) -> String {
        match finding {
            Finding::OneSocket { processes, waiters, .. } => one_socket_seen(*processes, *waiters),
            _ => self.text(finding),
        }
    }

    fn unwaited(&self, members: &[String], waiting: u64) -> String {
        let queued = match waiting {
            0 => String::new(),
            _ => format!(", and {} there", self.queued(waiting)),
        };
        let why = by_number(
            members.len(),
            "its process is busy, or does not serve it",
            "their processes are busy, or do not serve them",
        );
        let names = names(members);
        format!("no epoll instance and no thread waits for {names} at this moment{queued}; {why}")
    }

    /// What is queued: "2 connections are queued".
    fn queued(&self, n: u64) -> String {
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        let thing = match self.protocol {
            Protocol::Tcp => "connection",
            Protocol::Udp => "byte",
        };
        format!("{} {} queued", count(n, thing), by_number(n, "is", "are"))
    }

    /// The same in few words, for a list of groups; None if a list does not say it.
    fn short(&self, finding: &Finding) -> Option<String> {
        match finding {
            Finding::OneSocket { processes: 2.., .. }
            | Finding::OneSocket { waiters: Some(2..), .. }
            | Finding::SeveralServers { different: true, .. } => Some(self.text(finding)),
            Finding::Unwaited { waiting: 0, .. } => None,
            Finding::Unwaited { waiting, .. } => {
                Some(format!("{} where nothing waits at this moment", self.queued(*waiting)))
            }
            Finding::QueueFull { members, .. } => {
                let n = members.len();
                Some(format!("{} {} full", count(n, "queue"), by_number(n, "is", "are")))
            }
            _ => None,
        }
    }

    /// Where the kernel's hash decides, what may be why only one member has much to do.
    fn with_flow(&self, text: String, members: usize) -> String {
        match (self.protocol, self.hashed, members) {
            (Protocol::Udp, true, 1) => format!(
                "{text}; the kernel's hash gives all datagrams from one client address and port to one socket"
            ),
            _ => text,
        }
    }
}

fn one_socket(processes: usize, waiters: Option<u32>, server: Option<&Server>) -> String {
    let seen = one_socket_seen(processes, waiters);
    let how = server.map(|Server { name, directive, .. }| format!(" ({name}: {directive})"));
    match is_shared(processes, waiters) {
        false => format!("{seen}{}", how.unwrap_or_default()),
        true => {
            let how = how.unwrap_or_else(|| ", each with SO_REUSEPORT set before bind".to_owned());
            format!("{seen}; the server must bind one per worker{how}")
        }
    }
}

fn is_shared(processes: usize, waiters: Option<u32>) -> bool {
    processes > 1 || waiters > Some(1)
}

/// The same without what the server has to do.
fn one_socket_seen(processes: usize, waiters: Option<u32>) -> String {
    let shared = match (processes, waiters) {
        (2.., _) => format!(", held by {processes} processes"),
        (_, Some(2..)) => ", which several epoll instances or threads wait for".to_owned(),
        _ => return "1 socket: nothing to choose among until there are more".to_owned(),
    };
    format!("1 socket{shared}: nothing to choose among")
}

fn several(parties: &[Party], different: bool) -> String {
    let first = parties.first().map_or(Duration::ZERO, |party| party.started);
    let one = |party: &Party| {
        let sockets = count(party.members, "socket");
        let later = party.started.saturating_sub(first);
        let began = match later.as_secs() {
            0 => String::new(),
            _ => format!(", began {} later", rough(later)),
        };
        format!("{} {} ({sockets}{began})", safe(&party.comm), party.pid)
    };
    let all = listed(parties.iter().map(one), NAMED);
    match different {
        true => format!("its sockets belong to processes that run different files: {all}"),
        false => format!(
            "its sockets belong to servers that did not begin together: {all}; a restart, or several \
             servers on one port"
        ),
    }
}

/// A length of time in one unit.
fn rough(time: Duration) -> String {
    const UNITS: [(u64, &str); 3] = [(86_400, "d"), (3600, "h"), (60, "min")];
    let seconds = time.as_secs();
    let unit = UNITS.iter().find(|(length, _)| seconds >= 2 * length);
    unit.map_or(format!("{seconds} s"), |(length, unit)| format!("{} {unit}", seconds / length))
}

fn one_sided(member: &str, percent: u8, policy: Policy, protocol: Protocol) -> String {
    let (what, one) = match protocol {
        Protocol::Tcp => ("connections", "each connection"),
        Protocol::Udp => ("datagrams", "each datagram"),
    };
    let (key, finer) = match policy {
        Policy::Source => ("from one client address", "`hash` also looks at the port; "),
        Policy::Payload(_) => ("with the same bytes there", ""),
        _ => ("from one client address and port", ""),
    };
    let caveat = match protocol {
        Protocol::Tcp => "",
        Protocol::Udp => {
            ", for protocols in which any member can answer any datagram (not QUIC or DTLS)"
        }
    };
    format!(
        "{member} got {percent}% of the recent picks: {} gives all {what} {key} to one member, and few \
         clients send most of them; {finer}`round-robin`, `random` and `least-loaded` deal {one} by \
         itself{caveat}",
        policy.name(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_one_unit() {
        for (seconds, expected) in
            [(2, "2 s"), (119, "119 s"), (150, "2 min"), (7300, "2 h"), (200_000, "2 d")]
        {
            assert_eq!(rough(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn one_socket_is_explained_by_who_holds_it() {
        let none = "1 socket: nothing to choose among until there are more";
        assert_eq!(one_socket(1, Some(1), None), none);
        assert_eq!(one_socket(0, None, None), none);
        assert!(
            one_socket(1, Some(2), None)
                .starts_with("1 socket, which several epoll instances or threads wait for: n")
        );
        assert_eq!(
            one_socket(5, None, None),
            "1 socket, held by 5 processes: nothing to choose among; the server must bind one per \
             worker, each with SO_REUSEPORT set before bind"
        );
    }

    #[test]
    fn a_policy_that_keeps_keys_together_says_which_and_what_would_not() {
        let udp = one_sided("cookie:5", 99, Policy::Hash, Protocol::Udp);
        assert!(udp.starts_with(
            "cookie:5 got 99% of the recent picks: hash gives all datagrams from one"
        ));
        assert!(udp.ends_with("deal each datagram by itself, for protocols in which any member can answer any datagram (not QUIC or DTLS)"), "{udp}");
        let tcp = one_sided("cookie:5", 99, Policy::Source, Protocol::Tcp);
        assert!(
            tcp.contains("`hash` also looks at the port") && tcp.ends_with("by itself"),
            "{tcp}"
        );
    }
}
