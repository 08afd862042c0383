//! What several verbs take: a group, a network namespace.

use anyhow::Result;
use clap::Args;
use reuseport::spec::GroupSpec;

use crate::backend::Target;
use crate::netns;

/// Which group a verb is about.
#[derive(Debug, Args)]
pub(crate) struct GroupArgs {
    /// The group: PROTOCOL:ADDRESS:PORT, or less if that names one group only
    ///
    /// As `ls` prints it: tcp:127.0.0.1:8080, udp:[::]:53, tcp:0.0.0.0%eth0:80. Parts that are not
    /// needed can be left out: tcp::8080 or :8080 where one group matches. An address is meant
    /// literally; * means either wildcard.
    #[arg(value_name = "GROUP")]
    pub(crate) group: GroupSpec,

    #[command(flatten)]
    pub(crate) netns: NetnsArgs,
}

/// Which network namespaces a verb looks at.
#[derive(Debug, Args)]
pub(crate) struct NetnsArgs {
    /// Look only at this network namespace
    ///
    /// By the name that `ip netns` gives it, or by its inode number, as `ls --json` and `lsns`
    /// print it. Without this, all namespaces are looked at, the caller's own first.
    #[arg(long, value_name = "NAME|INODE")]
    pub(crate) netns: Option<String>,
}

impl GroupArgs {
    /// The group that the user means, its namespace looked up.
    pub(crate) fn target(self) -> Result<Target> {
        Ok(Target { netns: self.netns.resolve()?, group: self.group })
    }
}

impl NetnsArgs {
    /// The inode number of the namespace; None: all of them.
    pub(crate) fn resolve(&self) -> Result<Option<u32>> {
        self.netns.as_deref().map(netns::resolve).transpose()
    }
}
