//! Arguments shared by several verbs: a group, a network namespace.

use anyhow::Result;
use clap::Args;
use reuseport::spec::GroupSpec;

use crate::backend::Target;
use crate::error::Failure;
use crate::netns;

/// The group that a verb works on.
#[derive(Debug, Args)]
pub(crate) struct GroupArgs {
    /// The group: PROTOCOL:ADDRESS:PORT, or less if that names one group only
    ///
    /// Write it as `ls` prints it: tcp:127.0.0.1:8080, udp:[::]:53, tcp:0.0.0.0%eth0:80. Leave out
    /// parts that are not needed: tcp::8080 or :8080 if only one group matches. An address matches
    /// literally; * matches either wildcard address. Where several groups have the same name, add a
    /// member of the one that is meant: udp:[::]:53,of=cookie:7 or ,of=pid:1234; without it, every verb
    /// but `attach` means the one that we steer.
    #[arg(value_name = "GROUP")]
    pub(crate) group: GroupSpec,

    #[command(flatten)]
    pub(crate) netns: NetnsArgs,
}

/// The groups that a verb works on.
#[derive(Debug, Args)]
pub(crate) struct GroupsArgs {
    /// The groups: each as PROTOCOL:ADDRESS:PORT, or less if that names one group only
    ///
    /// Write them as `ls` prints them: tcp:127.0.0.1:8080, udp:[::]:53, tcp:0.0.0.0%eth0:80. Leave out
    /// parts that are not needed: tcp::8080 or :8080 if only one group matches. An address matches
    /// literally; * matches either wildcard address. Where several groups have the same name, add a
    /// member of the one that is meant: udp:[::]:53,of=cookie:7 or ,of=pid:1234.
    #[arg(value_name = "GROUP", required = true)]
    pub(crate) groups: Vec<GroupSpec>,

    /// All groups that match a GROUP, not only one
    #[arg(long)]
    pub(crate) all: bool,

    #[command(flatten)]
    pub(crate) netns: NetnsArgs,
}

/// Which network namespaces a verb looks at.
#[derive(Debug, Args)]
pub(crate) struct NetnsArgs {
    /// Look only at this network namespace
    ///
    /// Give its name in `ip netns`, or its inode number as in `ls --json` and `lsns`. Without this
    /// option, all namespaces are searched, the caller's own first.
    #[arg(long, value_name = "NAME|INODE")]
    pub(crate) netns: Option<String>,
}

impl GroupArgs {
    /// The group that the user names, with its namespace resolved.
    pub(crate) fn target(self) -> Result<Target> {
        Ok(Target { netns: self.netns.resolve()?, group: self.group })
    }
}

impl GroupsArgs {
    /// The groups that the user names, with their namespace resolved.
    pub(crate) fn targets(&self) -> Result<Vec<Target>> {
        let netns = self.netns.resolve()?;
        Ok(self.groups.iter().map(|group| Target { netns, group: group.clone() }).collect())
    }
}

impl NetnsArgs {
    /// The inode number of the namespace; None: all of them.
    pub(crate) fn resolve(&self) -> Result<Option<u32>> {
        let Some(argument) = self.netns.as_deref() else { return Ok(None) };
        let inode = netns::resolve(argument).ok_or_else(|| {
            Failure::new(
                format!("no network namespace is named `{argument}`"),
                "`ip netns` and `lsns -t net` list them",
            )
        })?;
        Ok(Some(inode))
    }
}
