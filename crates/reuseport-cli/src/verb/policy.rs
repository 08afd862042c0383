//! `reuseport policy`: change the policy of a steered group.

use anyhow::{Result, bail};
use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Args, Command};
use reuseport::group::Group;
use reuseport::{Balancer, GroupSpec, Host, Policy as LibraryPolicy, SetPolicy};

use crate::args::{FirstGroupArgs, GroupOr, is_meant_as_group};
use crate::backend::{self, Of};
use crate::output;
use crate::policy::{PolicyOptions, PolicyParser, cpus, degraded};

/// Change the policy of groups, under traffic
///
/// The change is one step: each connection or datagram goes by the old policy or by the new one.
/// Open connections stay where they are; slots, weights, states and counters are kept. The group
/// must be steered already: see `attach`. Of several groups, each changes by itself.
///
/// With a POLICY, --load and --max-share have their defaults unless given. Without one, they change
/// the current least-loaded, and --cpus changes the current cpu.
#[derive(Debug, Args)]
#[command(override_usage = "reuseport policy [OPTIONS] <GROUP>... [POLICY]")]
#[command(after_help = "\
Exit status:
  1   no such group, or none of our programs is attached to it
  2   another tool's program is attached, or any other failure
  Of several groups, the most serious decides: 2, then 1.

Examples:
  reuseport policy :8080 least-loaded
  reuseport policy :8080 --load queue          other options unchanged
  reuseport policy :8080 cpu --cpus 0-3
  reuseport policy tcp::80 tcp::443 hash
")]
pub(crate) struct Policy {
    #[command(flatten)]
    groups: FirstGroupArgs,

    /// The new policy, after the GROUPs
    #[arg(value_name = "POLICY", value_parser = GroupOrPolicy)]
    #[arg(required_unless_present_any = ["load", "max_share", "cpus"])]
    rest: Vec<GroupOr<LibraryPolicy>>,

    #[command(flatten)]
    options: PolicyOptions,
}

impl Policy {
    pub(crate) fn run(self) -> Result<()> {
        let Self { groups, rest, options } = self;
        let (targets, policies) = groups.targets(rest)?;
        let policy = match policies[..] {
            [] if options.are_given() => None,
            [policy] => Some(policy),
            [] => bail!("no POLICY is given, only groups"),
            _ => bail!("more than one POLICY is given"),
        };
        let host = Host::open()?;
        let groups = targets.find(&host, Of::Steered)?;
        backend::for_each(&groups, targets.all, |group| set_policy(&host, group, policy, &options))
    }
}

fn set_policy(
    host: &Host,
    group: &Group,
    policy: Option<LibraryPolicy>,
    options: &PolicyOptions,
) -> Result<()> {
    let key = &group.key;
    let balancer = Balancer::open(host, key)?;
    let policy = options.decide(policy, key, || Ok(host.status(key)?.steering))?;
    // A policy is named, or follows from the options.
    let Some(policy) = policy else { return Ok(()) };
    let set = balancer.set_policy(SetPolicy::new(policy).cpus(options.cpus.clone()))?;
    let mut out = format!("{key}: {policy:#} decides\n");
    out.push_str(&degraded(Some(policy), &set.degraded));
    // The group may have gone since. Only `cpu` needs another look.
    let status = (policy == LibraryPolicy::Cpu).then(|| host.status(key).ok()).flatten();
    let mut notes = status.as_ref().map(cpus).unwrap_or_default();
    notes.extend(reuseport::advice::notes(group, Some(policy)).into_iter().map(str::to_owned));
    out.extend(notes.iter().map(|text| output::note(text, output::width())));
    output::print(&out)?;
    Ok(())
}

/// Parses what is a GROUP or else a policy.
#[derive(Debug, Clone)]
struct GroupOrPolicy;

impl TypedValueParser for GroupOrPolicy {
    type Value = GroupOr<LibraryPolicy>;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<GroupOr<LibraryPolicy>, clap::Error> {
        let is_group = |text: &str| text.parse::<GroupSpec>().is_ok() || is_meant_as_group(text);
        match value.to_str().is_some_and(is_group) {
            true => {
                let parser = StringValueParser::new().try_map(|text| text.parse::<GroupSpec>());
                parser.parse_ref(command, argument, value).map(GroupOr::Group)
            }
            false => PolicyParser.parse_ref(command, argument, value).map(GroupOr::Other),
        }
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        // They outlive the parser.
        PolicyParser
            .possible_values()
            .map(|values| Box::new(values.collect::<Vec<_>>().into_iter()) as _)
    }
}
