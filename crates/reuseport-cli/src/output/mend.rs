//! What mends a finding: the command, or what the server has to do.

use reuseport::finding::{Finding, Party};
use reuseport::group::{Group, NotAsked, Protocol, Unborrowable};
use reuseport::id::State;
use reuseport::server::Server;
use reuseport::status::{Enrolment, GroupStatus, Uncounted};
use reuseport::{NetSettings, Program};

use super::by_number;
use super::finding::{About, FindingView, view};

/// A group whose findings are told with what mends them.
pub(crate) struct Case<'a> {
    pub(crate) status: &'a GroupStatus,
    pub(crate) settings: &'a NetSettings,
    /// The group as an argument.
    pub(crate) argument: &'a str,
}

impl Case<'_> {
    /// The finding without what mends it, and that.
    pub(crate) fn view(&self, finding: &Finding) -> (FindingView, String) {
        let about = About::new(self.status);
        let seen = about.seen(finding);
        (FindingView { text: seen, ..view(&about, finding) }, self.mend(finding))
    }

    fn mend(&self, finding: &Finding) -> String {
        let group = self.argument;
        let attach = format!("`reuseport attach {group}`");
        match finding {
            Finding::ProgramLost => {
                format!("{attach} goes on as before; with `--watch` also after the next restart")
            }
            Finding::ProgramReplaced => format!(
                "`reuseport attach {group} --force` takes the group back, `reuseport detach {group}` forgets our state; \
                 `attach --watch --retake` takes it back each time"
            ),
            Finding::StateElsewhere => format!(
                "set REUSEPORT_BPFFS as it was when the program was attached; or `reuseport attach {group} --force` \
                 begins anew, and `reuseport detach {group}` removes the program"
            ),
            Finding::Undecided { standby: 0, joinable: 0 } => {
                format!("none while no socket can be given a slot; then {attach}")
            }
            Finding::Undecided { standby: 0, .. } => format!("{attach} gives the sockets a slot"),
            Finding::Undecided { .. } => format!("`reuseport promote {group}`; `reuseport show {group}` lists the members"),
            Finding::NoneActive => self.none_active(),
            Finding::JoinedLater { .. } => format!(
                "{attach} adds what is there now; `reuseport attach {group} --watch` also what joins later"
            ),
            Finding::HiddenMember { .. } => Unborrowable::NoHolder.advice().to_owned(),
            Finding::Mptcp { .. } => format!(
                "{}; until then `reuseport attach {group} --partial` steers the others",
                Unborrowable::Mptcp.advice()
            ),
            Finding::ConnectedUdp { sockets, .. } if sockets.is_empty() => {
                "none if the server binds its listeners before it connects any socket".to_owned()
            }
            Finding::ConnectedUdp { .. } => {
                "let the server close them and bind new ones; one that connects a socket per client binds its listeners \
                 first"
                    .to_owned()
            }
            Finding::Split { .. } => {
                "let the server bind its listeners before it connects any, and restart it; `,of=cookie:N` names one of \
                 the two"
                    .to_owned()
            }
            Finding::QueueFull { .. } | Finding::Drops { .. } => self.full(),
            Finding::SmallBacklog { limit, somaxconn, .. } => backlog(*limit, *somaxconn),
            Finding::Unwaited { .. } => format!(
                "`reuseport show {group}` names the processes; if it stays so, restart the worker{}",
                self.drain(finding)
            ),
            Finding::SeveralWait { .. } => {
                "let each worker bind a socket of its own, with SO_REUSEPORT set before bind".to_owned()
            }
            Finding::NotAccepting { .. } => format!(
                "none while the server starts; `reuseport promote {group}` lets {} serve at once. Without a watcher, \
                 {attach} looks again",
                by_number(finding.members().len(), "it", "them"),
            ),
            Finding::OneSocket { server, .. } => one_socket(*server),
            Finding::SeveralServers { parties, different, .. } => self.several(parties, *different),
            Finding::OneSided { .. } => {
                format!("`reuseport policy {group} round-robin`, if any member can answer any of them")
            }
            Finding::UnsuitedPolicy { .. } => {
                let fits = match self.group().key.protocol {
                    Protocol::Tcp => "source",
                    Protocol::Udp => "hash",
                };
                format!("`reuseport policy {group} {fits}`")
            }
            Finding::NoWatcher => format!(
                "`reuseport attach {group} --watch`, as a service, or `reuseport agent`: docs/operating.md"
            ),
            Finding::NoMigration => format!(
                "{attach}: its program moves them to another member; or `sysctl net.ipv4.tcp_migrate_req=1`"
            ),
            Finding::Uncounted { why: Uncounted::Unreadable, .. } => {
                format!("{attach} by root counts them")
            }
            Finding::Uncounted { .. } => format!("{attach} with CAP_PERFMON counts them"),
            Finding::QueuesUnread => format!(
                "{attach} with CAP_PERFMON, on a kernel that is not locked down for confidentiality"
            ),
            Finding::NotAsked { what: NotAsked::Multicast, .. } => {
                "none if each member is to get every datagram; otherwise let one member join, and clear \
                 IP_MULTICAST_ALL on the others"
                    .to_owned()
            }
            Finding::NotAsked { what: NotAsked::Broadcast, .. } => {
                "none if nothing is sent to the broadcast address, or each member is to get it; otherwise bind the \
                 group to a unicast address"
                    .to_owned()
            }
            Finding::NotAsked { .. } => {
                "none with TPROXY: the policy decides on datagrams that reach the socket without it".to_owned()
            }
            Finding::Transparent { .. } => {
                "none for our policies, which tell the two apart; docs/own-program.md for your own program".to_owned()
            }
            _ => String::new(),
        }
    }

    fn group(&self) -> &Group {
        &self.status.group
    }

    fn is_steered(&self) -> bool {
        matches!(self.status.steering.program(), Some(Program::Selection(_)))
            && self.status.steering.is_ours()
    }

    fn none_active(&self) -> String {
        let group = self.argument;
        let enrolments = || self.status.members.iter().filter_map(|m| m.enrolment.as_ref());
        let has = |state: State| enrolments().any(|e| e.state == state);
        // `undrain` is refused for members of other generations.
        let slot = |state: State| {
            let serves = |e: &&Enrolment| Some(e.generation) == self.status.serving_generation;
            let of = enrolments().filter(|e| e.state == state).filter(serves);
            of.map(|e| e.slot).min().map(|slot| format!("slot:{slot}"))
        };
        match (slot(State::Draining), slot(State::Active)) {
            (Some(slot), _) => format!("`reuseport undrain {group} {slot}`"),
            (None, Some(slot)) => format!("`reuseport weight {group} {slot}=1`"),
            (None, None) if has(State::Standby) => {
                format!("`reuseport promote {group}` lets those on standby serve")
            }
            (None, None) if has(State::Draining) => {
                format!("`reuseport rollback {group}` lets the older generation serve again")
            }
            (None, None) => format!("`reuseport show {group}` lists the members"),
        }
    }

    /// What helps a queue that is full, or was.
    fn full(&self) -> String {
        let attach = match self.is_steered() || self.group().members.len() < 2 {
            true => String::new(),
            false => format!(
                "`reuseport attach {}` deals by what waits, and passes over full members; ",
                self.argument
            ),
        };
        let larger = match self.group().key.protocol {
            Protocol::Tcp => "let more workers accept, or listen with a larger backlog".to_owned(),
            Protocol::Udp => {
                let most = self.settings.rmem_max.map_or(String::new(), |most| {
                    format!(" (net.core.rmem_max allows {most} bytes)")
                });
                format!("let more workers read, or ask for a larger SO_RCVBUF{most}")
            }
        };
        format!("{attach}{larger}")
    }

    /// `; reuseport drain GROUP cookie:5 gives it nothing new`, where that can be done.
    fn drain(&self, finding: &Finding) -> String {
        match (self.is_steered(), &finding.members()[..]) {
            (true, [member, ..]) => {
                format!("; `reuseport drain {} {member}` gives it nothing new", self.argument)
            }
            _ => String::new(),
        }
    }

    fn several(&self, parties: &[Party], different: bool) -> String {
        match (different, parties) {
            (true, _) => {
                "stop the server that does not belong there, or give it another port".to_owned()
            }
            (false, [first, ..]) => format!(
                "in a restart, stop the old one (pid {}) once the new one serves; otherwise stop the one that was \
                 forgotten",
                first.pid
            ),
            _ => String::new(),
        }
    }
}

fn one_socket(server: Option<&Server>) -> String {
    match server {
        Some(Server { name, directive, .. }) => {
            format!("one socket per worker takes, for {name}: {directive}")
        }
        None => {
            "let the server bind a socket for each worker, each with SO_REUSEPORT set before bind"
                .to_owned()
        }
    }
}

fn backlog(limit: u32, somaxconn: Option<u32>) -> String {
    const SERVERS: &str =
        "nginx: `listen ... backlog=N`, HAProxy: `backlog N`, gunicorn: `--backlog N`";
    match somaxconn {
        Some(most) if limit == most => format!(
            "`sysctl net.core.somaxconn={}` in its network namespace, and let the server listen again",
            most.saturating_mul(2).max(4096)
        ),
        _ => format!("let the server ask for a larger backlog ({SERVERS})"),
    }
}
