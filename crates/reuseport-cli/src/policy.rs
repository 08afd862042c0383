//! A policy on the command line: its name and options, the same for `attach` and `policy`.

use anyhow::{Result, bail};
use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Args, Command};
use reuseport::group::GroupKey;
use reuseport::policy::{LoadTerms, MaxShare, Policy};
use reuseport::status::{GroupStatus, Steering};
use reuseport::{CpuList, Degraded, Error, Program};

use crate::error::Failure;
use crate::netns;
use crate::output;
use crate::output::view::GroupView;
use crate::process::Names;

/// Options of policies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(crate) struct PolicyOptions {
    /// least-loaded: what counts as load [default: queue,open]
    ///
    /// `queue`: what waits at a member. `open`: its open connections (tcp). `queue,open`: its
    /// connections, open and half-open; members at which something waits and does not get less
    /// come later. Open connections are counted for the term `open` alone, which makes each connection
    /// a little dearer. Without a policy, this changes the current least-loaded.
    #[arg(long, value_name = "TERMS")]
    pub(crate) load: Option<LoadTerms>,

    /// least-loaded: upper limit per member, in multiples of its fair share [default: 2]
    ///
    /// From 1 to 100, such as 1.5. It keeps a worker that fails at once, and is therefore always
    /// idle, from getting everything. Without a policy, as for --load.
    #[arg(long, value_name = "N")]
    pub(crate) max_share: Option<MaxShare>,

    /// cpu: the members' CPUs, in slot order, such as 0-3,8
    ///
    /// The list starts over if there are more members. Without it, a member gets the CPU that the thread
    /// which waits for it is bound to, or else one of the CPUs with the fewest members.
    #[arg(long, value_name = "LIST", value_parser = cpu_list)]
    pub(crate) cpus: Option<CpuList>,
}

impl PolicyOptions {
    /// The policy that these options and an optional name ask for; None: the current one, or the
    /// default. Calls `now` if the name is not enough.
    ///
    /// # Errors
    ///
    /// If an option is for another policy, or the group's protocol cannot have it.
    pub(crate) fn decide(
        &self,
        named: Option<Policy>,
        key: &GroupKey,
        now: impl FnOnce() -> Result<Steering>,
    ) -> Result<Option<Policy>> {
        let Self { load, max_share, cpus } = self;
        let of_load = match (load, max_share) {
            (Some(_), _) => Some("--load"),
            (None, Some(_)) => Some("--max-share"),
            (None, None) => None,
        };
        let option = match (of_load, cpus) {
            (Some(_), Some(_)) => bail!("--cpus is for policy cpu, and --load for least-loaded"),
            (Some(option), None) => option,
            (None, Some(_)) => "--cpus",
            (None, None) => return Ok(named),
        };
        let (policy, which) = match named {
            Some(policy) => (policy, "the given policy".to_owned()),
            None => match now()? {
                Steering::Ours(Program::Selection(selection)) => {
                    (selection.policy, format!("the policy of {key}"))
                }
                Steering::Ours(Program::Object(())) => {
                    bail!("{option}: your own program decides for {key}")
                }
                _ => (Policy::default_for(key.protocol), "the default policy here".to_owned()),
            },
        };
        match (policy, of_load) {
            (Policy::LeastLoaded(old), Some(_)) => {
                let load = load.unwrap_or(old.load);
                if key.protocol == reuseport::group::Protocol::Udp && load == LoadTerms::OPEN {
                    return Err(Failure::new(
                        format!("--load open: {key} has no connections"),
                        "`--load queue` counts the bytes that wait",
                    )
                    .into());
                }
                let max_share = max_share.unwrap_or(old.max_share);
                Ok(Some(Policy::LeastLoaded(old.load(load).max_share(max_share))))
            }
            (Policy::Cpu, None) => Ok(Some(policy)),
            _ => {
                let wanted = if of_load.is_some() { "least-loaded" } else { "cpu" };
                bail!("{option} is for policy {wanted}, but {which} is {policy}")
            }
        }
    }

    /// Refuses options that no group can have with a named policy.
    ///
    /// # Errors
    ///
    /// If an option is for another policy.
    pub(crate) fn check(&self, named: Option<Policy>) -> Result<()> {
        let of_load = self.load.is_some() || self.max_share.is_some();
        match (of_load, self.cpus.is_some(), named) {
            (true, true, _) => {
                bail!("a list of CPUs is for policy cpu, and a load for least-loaded")
            }
            (true, _, Some(policy)) if !matches!(policy, Policy::LeastLoaded(_)) => {
                bail!("load and max-share are for policy least-loaded, not for {policy}")
            }
            (_, true, Some(policy)) if policy != Policy::Cpu => {
                bail!("a list of CPUs is for policy cpu, not for {policy}")
            }
            _ => Ok(()),
        }
    }

    /// Whether there is any.
    pub(crate) fn are_given(&self) -> bool {
        self.load.is_some() || self.max_share.is_some() || self.cpus.is_some()
    }
}

/// Parses a list of CPUs. clap prints only an error's `Display`, which has no hint.
fn cpu_list(text: &str) -> Result<CpuList, String> {
    text.parse().map_err(|error: Error| error.report().to_string())
}

/// Parses policies; the help lists them with what they do.
#[derive(Debug, Clone)]
pub(crate) struct PolicyParser;

impl TypedValueParser for PolicyParser {
    type Value = Policy;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Policy, clap::Error> {
        let parser = StringValueParser::new().try_map(|name| name.parse::<Policy>());
        parser.parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let choice = |(name, help)| PossibleValue::new(name).help(help);
        Some(Box::new(Policy::choices().map(choice)))
    }
}

/// A note for each thing that is lost: what that costs, why, and the hint on a line of its own. The library warns
/// of connections that are not counted.
pub(crate) fn degraded(policy: Option<Policy>, lost: &[Degraded]) -> String {
    let note = |lost: &Degraded| match lost {
        Degraded::QueuesUnread(why) => Some(queues_unread(policy, why)),
        _ => None,
    };
    lost.iter().filter_map(note).collect()
}

fn queues_unread(policy: Option<Policy>, why: &Error) -> String {
    let instead = policy.map_or("members with full queues are not skipped", Policy::without_queues);
    let report = why.report();
    let text = format!("the program cannot read queues, so {instead}: {}", report.causes());
    output::note(&with_hint(&text, report.hint().as_deref()), output::width())
}

/// With policy `cpu`: what `show` says about the CPUs of the members.
pub(crate) fn cpus(status: &GroupStatus) -> Vec<String> {
    if status.steering.policy() != Some(Policy::Cpu) {
        return Vec::new();
    }
    let group = GroupView::new(status, None, &Names::default());
    output::cpus(&group, output::argument(&group.identity, netns::own()))
}

/// A text with its hint, if there is one, on the next line.
pub(crate) fn with_hint(text: &str, hint: Option<&str>) -> String {
    let hint = hint.map_or_else(String::new, |hint| format!("\nhint: {}", output::safe(hint)));
    format!("{}{hint}", output::safe(text))
}

#[cfg(test)]
mod tests {
    use reuseport::policy::LeastLoaded;

    use super::*;

    #[test]
    fn a_note_on_degraded_service_depends_on_the_policy() {
        let lost = [Degraded::QueuesUnread("no list".parse::<CpuList>().unwrap_err())];
        let queue = LeastLoaded::DEFAULT.load(LoadTerms::QUEUE);
        for (policy, costs) in [
            (
                Policy::LeastLoaded(LeastLoaded::DEFAULT),
                "compares open connections only: `no list`",
            ),
            (Policy::LeastLoaded(queue), "in turn, by weight: `no list`"),
            (Policy::Hash, "members with full queues are not skipped: `no list`"),
        ] {
            let note = degraded(Some(policy), &lost);
            assert!(note.contains(costs), "{note}");
        }
    }
}
