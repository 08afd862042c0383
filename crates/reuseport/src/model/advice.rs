//! What is worth knowing about a policy for a server that does not work well under it: a table by the names of
//! processes and by ports.

use super::group::{Group, Protocol};
use super::policy::Policy;

/// A policy that a server does not work well under.
struct Advice {
    protocol: Protocol,
    /// The names of its processes (`comm`, 15 bytes at most),
    servers: &'static [&'static str],
    /// or the ports on which it is expected.
    ports: &'static [u16],
    /// Whether it works under this policy.
    works: fn(Policy) -> bool,
    /// What does not work, and what to do.
    text: &'static str,
}

/// Servers that speak QUIC, on UDP ports of their own, too.
const QUIC: &[&str] =
    &["caddy", "envoy", "h2o", "haproxy", "litespeed", "openlitespeed", "traefik"];

const ADVICE: &[Advice] = &[
    Advice {
        protocol: Protocol::Tcp,
        servers: &["pgbouncer"],
        ports: &[],
        works: |policy| policy == Policy::Source,
        text: "pgbouncer: a cancel request is a connection of its own, and has to reach the same process; \
               policy `source` sees to that, as do peers in pgbouncer's configuration",
    },
    Advice {
        protocol: Protocol::Udp,
        servers: QUIC,
        ports: &[443],
        works: |policy| {
            matches!(policy, Policy::Hash | Policy::Source | Policy::Payload(_) | Policy::Cpu)
        },
        text: "if this is QUIC, its connections break: their datagrams go to different members; \
               policy `hash` keeps those of one client address and port together",
    },
    Advice {
        protocol: Protocol::Udp,
        servers: QUIC,
        ports: &[443],
        works: |policy| policy != Policy::Cpu,
        text: "if this is QUIC, a connection breaks when its datagrams come to another CPU: they keep to one as \
               long as the network card chooses it by address and port; policy `hash` does not depend on that",
    },
];

/// The notes on a group for which this policy decides.
pub fn notes(group: &Group, policy: Option<Policy>) -> Vec<&'static str> {
    let Some(policy) = policy else { return Vec::new() };
    let fits = ADVICE.iter().filter(|advice| advice.is_for(group));
    fits.filter(|advice| !(advice.works)(policy)).map(|advice| advice.text).collect()
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
