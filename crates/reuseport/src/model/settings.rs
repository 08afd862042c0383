//! Settings of the kernel that concern groups: plain data.

/// The settings (`sysctl`) of one network namespace that concern its groups. What is `None` is not known, or the kernel
/// does not have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct NetSettings {
    /// `net.core.somaxconn`: the most that `listen` can ask for as the limit of an accept queue.
    pub somaxconn: Option<u32>,
    /// `net.ipv4.tcp_max_syn_backlog`: the most half-open connections at a listener without SYN cookies.
    pub tcp_max_syn_backlog: Option<u32>,
    /// `net.ipv4.tcp_syncookies`: 0 never, 1 if a listener overflows, 2 always.
    pub tcp_syncookies: Option<u32>,
    /// `net.ipv4.tcp_migrate_req`: whether the kernel moves connections to another listener of the group when theirs
    /// closes, if no program does.
    pub tcp_migrate_req: Option<u32>,
    /// `net.core.rmem_default`: a UDP socket's receive buffer unless its server asks for another one.
    pub rmem_default: Option<u32>,
    /// `net.core.rmem_max`: the largest one that a server can ask for.
    pub rmem_max: Option<u32>,
}

impl NetSettings {
    /// Each with its name.
    pub fn named(&self) -> [(&'static str, Option<u32>); 6] {
        [
            ("net.core.somaxconn", self.somaxconn),
            ("net.ipv4.tcp_max_syn_backlog", self.tcp_max_syn_backlog),
            ("net.ipv4.tcp_syncookies", self.tcp_syncookies),
            ("net.ipv4.tcp_migrate_req", self.tcp_migrate_req),
            ("net.core.rmem_default", self.rmem_default),
            ("net.core.rmem_max", self.rmem_max),
        ]
    }
}
