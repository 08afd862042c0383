//! `reuseport policy`: change the policy of a steered group.

use anyhow::Result;
use clap::Args;
use reuseport::{Balancer, Host, Policy as LibraryPolicy, SetPolicy};

use crate::args::GroupArgs;
use crate::output;
use crate::policy::{PolicyOptions, PolicyParser, degraded};

/// Change the policy of a group, under traffic
///
/// The change is one step: each connection or datagram goes by the old policy or by the new one.
/// Open connections stay where they are; slots, weights, states and counters are kept. The group
/// must be steered already: see `attach`.
///
/// With a POLICY, --load and --max-share have their defaults unless given. Without one, they change
/// the current least-loaded, and --cpus changes the current cpu.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  1   no such group, or none of our programs is attached to it
  2   another tool's program is attached, or any other failure

Examples:
  reuseport policy :8080 least-loaded
  reuseport policy :8080 --load queue          other options unchanged
  reuseport policy :8080 cpu --cpus 0-3
  reuseport policy udp::4433 payload:1:8
")]
pub(crate) struct Policy {
    #[command(flatten)]
    group: GroupArgs,

    /// The new policy
    #[arg(value_name = "POLICY", value_parser = PolicyParser)]
    #[arg(required_unless_present_any = ["load", "max_share", "cpus"])]
    policy: Option<LibraryPolicy>,

    #[command(flatten)]
    options: PolicyOptions,
}

impl Policy {
    pub(crate) fn run(self) -> Result<()> {
        let Self { group, policy, options } = self;
        let target = group.target()?;
        let host = Host::open()?;
        let key = target.find(&host)?.key;
        let balancer = Balancer::open(&host, &key)?;
        let policy = options.decide(policy, &key, || Ok(host.status(&key)?.steering))?;
        // clap makes sure that a policy is named or follows from the options.
        let Some(policy) = policy else { return Ok(()) };
        let set = balancer.set_policy(SetPolicy::new(policy).cpus(options.cpus))?;
        let mut out = format!("{key}: {policy:#} decides\n");
        out.push_str(&degraded(Some(policy), &set.degraded));
        output::print(&out)?;
        Ok(())
    }
}
