//! What is worth knowing about a policy for a server that does not work well under it: a table by the names of
//! processes and by ports.

use reuseport::Policy;
use reuseport::group::{Group, Protocol};

use crate::output;

/// A policy that a server does not work well under.
struct Advice {
    protocol: Protocol,
    /// The names of its processes (`comm`, 15 bytes at most),
    servers: &'static [&'static str],
    /// or the ports on which it is expected.
    ports: &'static [u16],
    /// Whether it works under this policy.
    works: fn(Policy) -> bool,
    /// Whether to say it although the user named the policy.
    always: bool,
    /// What does not work, and what to do.
    text: &'static str,
}

const ADVICE: &[Advice] = &[
    Advice {
        protocol: Protocol::Tcp,
        servers: &["pgbouncer"],
        ports: &[],
        works: |policy| policy == Policy::Source,
        always: false,
        text: "pgbouncer: a cancel request is a connection of its own, and has to reach the same process; \
               `--policy source` sees to that, as do peers in pgbouncer's configuration",
    },
    Advice {
        protocol: Protocol::Udp,
        servers: &["caddy", "envoy", "h2o", "haproxy", "litespeed", "openlitespeed", "traefik"],
        ports: &[443],
        works: |policy| matches!(policy, Policy::Hash | Policy::Source | Policy::Payload(_)),
        always: true,
        text: "QUIC connections break when their datagrams go to different members, as they do here; \
               `--policy hash` keeps those of one client address and port together",
    },
];

/// The notes on a group for which this policy decides; `named`: because the user asked for it.
pub(crate) fn notes(group: &Group, policy: Option<Policy>, named: bool) -> String {
    let Some(policy) = policy else { return String::new() };
    let fits = ADVICE.iter().filter(|advice| advice.is_for(group));
    let wrong = fits.filter(|advice| !(advice.works)(policy) && (advice.always || !named));
    wrong.map(|advice| output::note(advice.text, output::width())).collect()
}

impl Advice {
    fn is_for(&self, group: &Group) -> bool {
        let mut holders = group.members.iter().flat_map(|member| &member.holders);
        self.protocol == group.key.protocol
            && (self.ports.contains(&group.key.address.port())
                || holders.any(|holder| self.servers.contains(&holder.comm.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_the_kernel_cuts_them() {
        assert!(ADVICE.iter().flat_map(|advice| advice.servers).all(|name| name.len() <= 15));
    }
}
