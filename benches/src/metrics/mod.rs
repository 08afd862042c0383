//! `metrics`: how long does a scrape take, next to `ls`, and how large is it?
//!
//! Both are timed from the command's start to its end, in turn, with the same groups: as they are, and steered.
//!
//! Not measured: sockets that several processes hold, for which a scrape walks over all descriptors once more.

use anyhow::{Context, Result, ensure};
use reuseport::{Balancer, Host, Policy};

use crate::hold::Members;
use crate::process::Reuseport;
use crate::report::{Common, Figure, Report, Table};

/// How many times as long as `ls` a scrape may take.
const AIM: f64 = 2.0;
const LS: &str = "`reuseport ls --json`";
const METRICS: &str = "`reuseport metrics`";

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    command: Reuseport,
    /// How often each is timed
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How many processes have members: 50 each, in groups of 50
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(50..=800))]
    processes: u32,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::new("metrics")?;
    let members = Members { processes: args.processes, workers: 50, each: 50 };
    let _held = members.start()?;
    // Others may have servers on this host.
    let netns = Host::open()?.own_netns()?.inode.to_string();
    let have = format!("{} members in {} groups", members.sockets(), members.groups());
    let mut table = Table::new(["groups, and what is timed", "p10", "p50", "p90"]);
    let mut sizes = Table::new(["groups", "bytes", "bytes for each member", "series"]);
    for steered in [false, true] {
        let name = format!("{have}{}", if steered { ", steered" } else { "" });
        if steered {
            steer(&members)?;
        }
        let [mut ls, mut metrics] = [const { Vec::new() }; 2];
        let mut text = String::new();
        for round in 0..args.rounds {
            for turn in [round % 2, (round + 1) % 2] {
                let (verb, times): (&[&str], _) = match turn {
                    0 => (&["ls", "--json", "--netns", &netns], &mut ls),
                    _ => (&["metrics", "--netns", &netns], &mut metrics),
                };
                let (took, printed) = args.command.time(verb)?;
                times.push(took.as_secs_f64() * 1e3);
                if turn == 1 {
                    text = printed;
                }
            }
        }
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        check(&members, &text)?;
        for (what, times) in [(LS, &ls), (METRICS, &metrics)] {
            table.spread_row(format!("{name}: {what}"), times, []);
            report.raw(format!("{name}: {what}"), times)?;
        }
        let each = text.len() / members.sockets() as usize;
        sizes.row([name.clone(), text.len().to_string(), each.to_string(), series.to_string()]);
        let figure = Figure::ratio(format!("{name}: {METRICS} to {LS}"), &metrics, &ls);
        report.figure(figure.at_most_beyond_spread(AIM));
    }
    report.table(format!("Milliseconds, {} rounds", args.rounds), table);
    report.table("A scrape", sizes);
    report.finish(args.common.json.as_deref())
}

/// Attaches to every group.
fn steer(members: &Members) -> Result<()> {
    let host = Host::open()?;
    let own = host.own_netns()?;
    for group in host.groups()? {
        // Others may have servers on the same ports, in their own namespaces.
        if group.key.netns == own && members.ports().contains(&group.key.address.port()) {
            let attached = Balancer::attach(&host, &group.key, &Policy::RoundRobin.into());
            attached.with_context(|| format!("cannot attach to {}", group.key))?;
        }
    }
    Ok(())
}

/// Refuses a scrape in which members are missing.
fn check(members: &Members, text: &str) -> Result<()> {
    let infos = text.lines().filter(|line| line.starts_with("reuseport_member_info{")).count();
    ensure!(infos >= members.sockets() as usize, "only {infos} members were told");
    Ok(())
}
