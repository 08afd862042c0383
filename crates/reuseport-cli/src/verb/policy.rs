//! `reuseport policy`: another policy for a group that is steered.

use anyhow::Result;
use clap::Args;
use reuseport::{Balancer, Host, Policy as LibraryPolicy};

use crate::args::GroupArgs;
use crate::output::{self, NOTE};
use crate::policy::{PolicyOptions, PolicyParser, degraded};

/// Change how members are picked, under traffic
///
/// In one step: each connection or datagram is picked for by the old policy or by the new one. What
/// is open stays where it is, and slots, weights, states and counters stay as they are. The group
/// must be steered already; `attach` does that.
///
/// Where a policy is named, --load and --max-share have their defaults unless given. Without one,
/// they change the least-loaded that decides now, and --cpus the policy cpu.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  1   nothing of ours is attached to the group, or there is no such group
  2   somebody else's program decides there, or any other failure

Examples:
  reuseport policy :8080 least-loaded
  reuseport policy :8080 --load queue          the rest of it as it was
  reuseport policy :8080 cpu --cpus 0-3
  reuseport policy udp::4433 payload:1:8
")]
pub(crate) struct Policy {
    #[command(flatten)]
    group: GroupArgs,

    /// How members are picked from now on
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
        // One is named, or follows from the options: clap sees to that.
        let Some(policy) = policy else { return Ok(()) };
        let without = balancer.set_policy_with(&host, policy, options.cpus.as_ref())?;
        let mut said = format!("{key}: {policy:#} decides\n");
        if let Some(why) = without {
            let note = output::safe(&degraded(Some(policy), &why));
            said.push_str(&format!("{NOTE}{note}{NOTE:#}\n"));
        }
        output::print(&said)?;
        Ok(())
    }
}
