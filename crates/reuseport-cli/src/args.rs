//! Arguments shared by several verbs: groups, a network namespace, a time.

use std::ffi::OsString;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use jiff::SignedDuration;
use reuseport::id::Percent;
use reuseport::spec::GroupSpec;

use crate::backend::{NamedNetns, Target, Targets};

/// The groups that a verb works on.
#[derive(Debug, Args)]
pub(crate) struct GroupsArgs {
    /// The groups: each as PROTOCOL:ADDRESS:PORT, or less if that names one group only
    ///
    /// Write them as `ls` prints them: tcp:127.0.0.1:8080, udp:[::]:53, tcp:0.0.0.0%eth0:80. Leave out
    /// parts that are not needed: tcp::8080 or :8080 if only one group matches. An address matches
    /// literally; * matches either wildcard address. What tells groups apart that are written alike
    /// follows the port: ,uid=N ,v6only ,dev=X ,netns=X (name or inode number), or a member of the one
    /// that is meant: ,of=cookie:N or ,of=pid:N.
    #[arg(value_name = "GROUP", required = true)]
    pub(crate) groups: Vec<GroupSpec>,

    #[command(flatten)]
    pub(crate) which: WhichArgs,
}

/// The groups that a verb works on, before arguments of another kind.
#[derive(Debug, Args)]
pub(crate) struct FirstGroupArgs {
    /// The groups: each as PROTOCOL:ADDRESS:PORT, or less if that names one group only
    ///
    /// Write them as `ls` prints them: tcp:127.0.0.1:8080, udp:[::]:53, tcp:0.0.0.0%eth0:80. Leave out
    /// parts that are not needed: tcp::8080 or :8080 if only one group matches. An address matches
    /// literally; * matches either wildcard address. What tells groups apart that are written alike
    /// follows the port: ,uid=N ,v6only ,dev=X ,netns=X (name or inode number), or a member of the one
    /// that is meant: ,of=cookie:N or ,of=pid:N. Without a member, it is the one that we steer.
    #[arg(value_name = "GROUP")]
    pub(crate) first: GroupSpec,

    #[command(flatten)]
    pub(crate) which: WhichArgs,
}

/// Which of the groups that match.
#[derive(Debug, Args)]
pub(crate) struct WhichArgs {
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

impl GroupsArgs {
    /// The groups that the user names, with their namespaces resolved.
    pub(crate) fn targets(&self) -> Result<Targets> {
        self.which.targets(self.groups.clone())
    }
}

impl FirstGroupArgs {
    /// The groups that the user names, with their namespaces resolved, and what is given of another kind.
    pub(crate) fn targets<T>(self, rest: Vec<GroupOr<T>>) -> Result<(Targets, Vec<T>)> {
        let (mut groups, mut others) = (vec![self.first], Vec::new());
        for argument in rest {
            match argument {
                GroupOr::Group(group) => groups.push(group),
                GroupOr::Other(other) => others.push(other),
            }
        }
        Ok((self.which.targets(groups)?, others))
    }
}

impl WhichArgs {
    pub(crate) fn targets(&self, groups: Vec<GroupSpec>) -> Result<Targets> {
        let targets = targets(groups, self.netns.resolve()?.as_ref())?;
        Ok(Targets { targets, all: self.all })
    }
}

/// Groups with their namespaces resolved, all of them in `only` if that is given.
pub(crate) fn targets(groups: Vec<GroupSpec>, only: Option<&NamedNetns>) -> Result<Vec<Target>> {
    let target = |group: GroupSpec| -> Result<Target> {
        let of_group = group.netns().map(NamedNetns::find).transpose()?;
        if let (Some(of_group), Some(only)) = (&of_group, only)
            && of_group.inode != only.inode
        {
            bail!("`{group}` is not in the network namespace {}, which --netns names", only.name)
        }
        let group = match of_group.as_ref().or(only) {
            Some(NamedNetns { name, inode }) => group.in_netns(name, *inode),
            None => group,
        };
        Ok(Target { group })
    };
    groups.into_iter().map(target).collect()
}

impl NetnsArgs {
    /// The namespace; None: all of them.
    pub(crate) fn resolve(&self) -> Result<Option<NamedNetns>> {
        self.netns.as_deref().map(NamedNetns::find).transpose()
    }
}

/// A GROUP, or an argument of another kind that may follow GROUPs. No text is both.
#[derive(Debug, Clone)]
pub(crate) enum GroupOr<T> {
    Group(GroupSpec),
    Other(T),
}

impl<T: FromStr<Err = String>> FromStr for GroupOr<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text.parse::<GroupSpec>(), text.parse()) {
            (Ok(group), _) => Ok(Self::Group(group)),
            (Err(_), Ok(other)) => Ok(Self::Other(other)),
            (Err(problem), Err(_)) if is_meant_as_group(text) => Err(problem.to_string()),
            (Err(_), Err(problem)) => Err(problem),
        }
    }
}

/// Whether a text that is neither a GROUP nor of the other kind is meant as a GROUP: MEMBERs and policies begin with a
/// word (`slot:`, `payload:`), and only weights have `=`, except after a comma.
pub(crate) fn is_meant_as_group(text: &str) -> bool {
    let name = text.split(',').next().unwrap_or_default();
    let word = name.split(':').next().unwrap_or_default();
    let is_word = word.starts_with(|c: char| c.is_ascii_alphabetic()) && !word.contains('.');
    !name.contains('=') && !name.is_empty() && (!is_word || matches!(word, "tcp" | "udp"))
}

/// Without arguments of the other kind, the verb has nothing to do.
pub(crate) fn required<T>(others: Vec<T>, what: &str) -> Result<Vec<T>> {
    match others.is_empty() {
        true => bail!("no {what} is given, only groups"),
        false => Ok(others),
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
    // What follows `--` is another command's.
    let mut is_ours = true;
    for argument in arguments {
        is_ours &= argument != "--";
        match joined.last_mut() {
            Some(last)
                if is_ours && is_value(&argument) && OPTIONAL_VALUES.iter().any(|o| last == o) =>
            {
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

/// A part of all picks: "10%" or "10".
pub(crate) fn percent(text: &str) -> Result<Percent, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number
        .and_then(Percent::new)
        .ok_or_else(|| format!("`{text}` is no part of all: give 1% to 99%"))
}

/// A time as the user would write it: `30s`, `1m 30s`.
pub(crate) fn show_time(time: Duration) -> String {
    SignedDuration::try_from(time).map_or_else(|_| format!("{time:?}"), |time| format!("{time:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_answered_for_what_was_meant() {
        use crate::select::Selector;

        let problem = |text: &str| text.parse::<GroupOr<Selector>>().unwrap_err();
        for text in ["443", "[::1]", "127.0.0.1", "tcp:80", "udp::x", ":80,uid=x", "example.org:80"]
        {
            assert!(problem(text).contains("does not name a group"), "{text}: {}", problem(text));
        }
        assert!(problem("443").contains("as in `:443`"));
        for text in ["slot", "slot:x", "gen:-1", "worker:1", "slot:0=x", "443=1", ""] {
            assert!(problem(text).starts_with("a member is"), "{text}: {}", problem(text));
        }
    }

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
        assert_eq!(joined("run -- server --wait 30"), "run -- server --wait 30");
    }
}
