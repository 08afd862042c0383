//! Arguments shared by several verbs: a group, a network namespace, a time.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use jiff::SignedDuration;
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

/// Options whose value may be left out. clap takes it after `=` only: without, it could not tell the value from the
/// next argument.
const OPTIONAL_VALUES: [&str; 1] = ["--wait"];

/// Joins the value of such an option with it: `--wait 30s` becomes `--wait=30s`. No GROUP and no MEMBER is a time.
pub(crate) fn with_values(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let is_value =
        |argument: &OsString| argument.to_str().is_some_and(|argument| time(argument).is_ok());
    let mut joined: Vec<OsString> = Vec::new();
    for argument in arguments {
        match joined.last_mut() {
            Some(last) if is_value(&argument) && OPTIONAL_VALUES.iter().any(|o| last == o) => {
                last.push("=");
                last.push(argument);
            }
            _ => joined.push(argument),
        }
    }
    joined
}

/// A time, as `500ms`, `30s`, `5m` or `1h 30m`; a number alone counts seconds.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let failed = |_| format!("`{text}` is no time: write 30, 30s, 500ms or 5m");
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let time: SignedDuration = text.parse().map_err(failed)?;
    Duration::try_from(time).map_err(failed)
}

/// A time as the user would write it: `30s`, `1m 30s`.
pub(crate) fn show_time(time: Duration) -> String {
    SignedDuration::try_from(time).map_or_else(|_| format!("{time:?}"), |time| format!("{time:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_or_count_seconds() {
        for (text, milliseconds) in
            [("30", 30_000), ("0", 0), ("30s", 30_000), ("500ms", 500), ("1h 30m", 5_400_000)]
        {
            assert_eq!(time(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "soon", "-5s", "5 apples", "99999999999999999999"] {
            assert!(time(text).unwrap_err().contains("is no time"), "{text}");
        }
        assert_eq!(show_time(Duration::from_secs(90)), "1m 30s");
    }

    #[test]
    fn an_optional_value_needs_no_equals_sign() {
        let joined = |arguments: &str| -> String {
            let arguments = with_values(arguments.split(' ').map(OsString::from));
            arguments.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(joined("drain :80 slot:1 --wait 30s"), "drain :80 slot:1 --wait=30s");
        assert_eq!(joined("drain --wait :80 slot:1"), "drain --wait :80 slot:1");
        assert_eq!(joined("drain --wait 127.0.0.1:80 slot:1"), "drain --wait 127.0.0.1:80 slot:1");
        assert_eq!(joined("drain --wait=5 7"), "drain --wait=5 7");
        assert_eq!(joined("drain :80 slot:1 --wait"), "drain :80 slot:1 --wait");
    }
}
