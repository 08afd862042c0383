//! Sockets that are in no group, where a user expects one: what to say about them.

use std::collections::{BTreeMap, BTreeSet};

use super::group::{GroupKey, Holder, Member, Protocol, Unborrowable};
use super::refusal::enumerate;
use super::server::Server;
use crate::error::{Error, ErrorKind};

/// A listener or UDP socket that is in no group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ungrouped {
    /// Where it is bound.
    pub(crate) key: GroupKey,
    pub(crate) socket: Member,
    pub(crate) why: WhyUngrouped,
}

/// Why a socket is in no group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WhyUngrouped {
    /// It has not set `SO_REUSEPORT`.
    NoReuseport,
    /// The same, and it has set `SO_REUSEADDR`.
    ReuseaddrAlone,
    /// It has `SO_REUSEPORT`, set after bind. Or, UDP, it was connected once.
    TooLate,
}

/// The most sockets that an error names.
const NAMED: usize = 3;

/// No group matched: the same error, with the sockets that are there instead.
pub(crate) fn instead(
    error: Error,
    there: &[Ungrouped],
    server: impl Fn(&Holder) -> Option<&'static Server>,
) -> Error {
    if error.kind() != ErrorKind::NotFound || there.is_empty() {
        return error;
    }
    let mut named: BTreeMap<String, usize> = BTreeMap::new();
    for one in there {
        *named.entry(describe(one)).or_default() += 1;
    }
    let named = named.into_iter().map(|(text, n)| match n {
        1 => text,
        n => format!("{text} ({n} sockets)"),
    });
    Error::new(ErrorKind::NotFound, error.to_string())
        .because(enumerate(named.collect(), NAMED, "and"))
        .with_hint(remedy(there, server))
}

/// "nginx 812 holds tcp:0.0.0.0:80, which was bound without SO_REUSEPORT".
fn describe(there: &Ungrouped) -> String {
    let Ungrouped { key, socket, why } = there;
    let holder = match &socket.holders[..] {
        [] => "a process that is not visible".to_owned(),
        [Holder { pid, comm, .. }] => format!("{comm} {pid}"),
        [Holder { pid, comm, .. }, rest @ ..] => {
            let others: BTreeSet<u32> =
                rest.iter().map(|holder| holder.pid).filter(|other| other != pid).collect();
            match others.len() {
                0 => format!("{comm} {pid}"),
                n => format!("{comm} {pid} (and {n} more)"),
            }
        }
    };
    let kind = if socket.mptcp { ", an MPTCP listener" } else { "" };
    let bound = match (why, key.protocol) {
        (WhyUngrouped::NoReuseport, _) => "bound without SO_REUSEPORT",
        (WhyUngrouped::ReuseaddrAlone, _) => "bound with SO_REUSEADDR, not with SO_REUSEPORT",
        (WhyUngrouped::TooLate, Protocol::Tcp) => "whose SO_REUSEPORT was set after listen",
        (WhyUngrouped::TooLate, Protocol::Udp) => {
            "whose SO_REUSEPORT was set after bind, or which was connected once"
        }
    };
    format!("{holder} has {key}{kind}, {bound}")
}

/// What the server has to do.
fn remedy(there: &[Ungrouped], server: impl Fn(&Holder) -> Option<&'static Server>) -> String {
    let mut holders = there.iter().filter_map(|one| one.socket.holders.first());
    let mut hint = match holders.find_map(server) {
        Some(Server { name, directive }) => {
            format!("one socket per worker takes, for {name}: {directive}")
        }
        None => {
            "the server must bind one socket per worker, each with SO_REUSEPORT set before bind"
                .into()
        }
    };
    if there.iter().any(|one| one.socket.mptcp) {
        hint += &format!("; and {}", Unborrowable::Mptcp.advice());
    }
    hint
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::group::examples;
    use crate::model::server::recognise;

    fn socket(protocol: Protocol, why: WhyUngrouped, comm: &str) -> Ungrouped {
        let holder = |pid| Holder { pid, fd: 3, comm: comm.to_owned(), thread: None, origin: None };
        Ungrouped {
            key: examples::key(protocol, "127.0.0.1:80"),
            socket: Member { holders: vec![holder(7), holder(9)], ..examples::member(protocol, 5) },
            why,
        }
    }

    fn error(there: &[Ungrouped]) -> Error {
        let error = Error::new(ErrorKind::NotFound, "no group matches `:80`").with_hint("ls");
        instead(error, there, |holder| recognise(&holder.comm, []))
    }

    #[test]
    fn the_sockets_that_are_there_are_named_with_why_and_the_remedy() {
        let nginx = error(&[socket(Protocol::Tcp, WhyUngrouped::NoReuseport, "nginx")]);
        assert_eq!(nginx.kind(), ErrorKind::NotFound);
        assert_eq!(
            nginx.report().to_string(),
            "no group matches `:80`: nginx 7 (and 1 more) has tcp:127.0.0.1:80, bound without \
             SO_REUSEPORT; one socket per worker takes, for nginx: `listen ... reuseport` and \
             `worker_processes` above 1"
        );
        let mut mptcp = socket(Protocol::Tcp, WhyUngrouped::ReuseaddrAlone, "go");
        mptcp.socket.mptcp = true;
        mptcp.socket.holders.clear();
        let text = error(&[mptcp]).report().to_string();
        assert!(
            text.contains("a process that is not visible has tcp:127.0.0.1:80, an MPTCP"),
            "{text}"
        );
        assert!(text.contains("bound with SO_REUSEADDR, not with SO_REUSEPORT"), "{text}");
        assert!(
            text.contains("set before bind; and let the server listen without MPTCP"),
            "{text}"
        );
        let both = [WhyUngrouped::ReuseaddrAlone; 2].map(|why| socket(Protocol::Udp, why, "a"));
        assert!(error(&both).report().to_string().contains("SO_REUSEPORT (2 sockets); "));
        let late = error(&[socket(Protocol::Udp, WhyUngrouped::TooLate, "a")]);
        assert!(late.report().to_string().contains("after bind, or which was connected once"));
    }

    #[test]
    fn where_there_is_none_and_for_other_errors_nothing_changes() {
        assert_eq!(error(&[]).report().to_string(), "no group matches `:80`; ls");
        let other = Error::new(ErrorKind::Ambiguous, "two");
        let there = [socket(Protocol::Tcp, WhyUngrouped::NoReuseport, "nginx")];
        let other = instead(other, &there, |_| None);
        assert_eq!(other.report().to_string(), "two");
    }
}
