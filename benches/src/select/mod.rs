//! `select`: what does a program that selects cost, per datagram and per connection?
//!
//! The variants take turns, in another order each round, and each is compared with `no program` of
//! the same round. The kernel's own count of a program's running time is a second measure, which
//! traffic's noise does not touch; the empty program's time is what the clock and the call cost.
//!
//! Not measured: how evenly or how well a policy deals (`latency`), and real network devices.

mod against;
mod programs;
mod traffic;

use std::path::PathBuf;

use anyhow::Result;
use reuseport::Policy;

use crate::report::{Common, Figure, Report, Table, number};
use crate::stats::{Median, median, turns};
use programs::{Steered, Variant};
use traffic::Traffic;

/// What a policy may cost on a datagram, in times of what no program costs.
const AIM_DATAGRAM: f64 = 1.05;
/// The same for least-loaded, which looks at up to 16 members.
const AIM_DATAGRAM_COMPARING: f64 = 1.15;
/// What any policy may cost on a connection.
const AIM_CONNECTION: f64 = 1.02;
/// What the most members may cost, in times of what the fewest cost.
const AIM_MANY: f64 = 1.2;
const DATAGRAM: &str = "datagram of 64 bytes, sent and received";
/// Listeners of a group: a usual number of workers.
const MEMBERS: u16 = 8;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// Turns of each variant with each number of members
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Turns of each variant with connections
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    tcp_rounds: u32,
    /// Numbers of members of the groups that get datagrams
    #[arg(long, value_delimiter = ',', default_value = "2,8,512,4096",
          value_parser = clap::value_parser!(u16).range(1..))]
    members: Vec<u16>,
    /// Compare the programs with those of the select_direct.bpf.o in this directory, and nothing else
    #[arg(long, value_name = "DIRECTORY")]
    against: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::new("select")?;
    if let Some(directory) = &args.against {
        against::compare(directory, &args.members, args.rounds, &mut report)?;
    } else {
        let few = args.members.first().copied().unwrap_or(2);
        let scattered = args.members.iter().map(|members| (Traffic::Scattered, *members));
        let udp = [(Traffic::Hot, few)].into_iter().chain(scattered);
        let udp = measure(udp, args.rounds, &mut report)?;
        if let [_, few, .., many] | [_, few @ many] = udp.as_slice() {
            compare_members(few, many, &mut report);
        }
        measure([(Traffic::Connections, MEMBERS)], args.tcp_rounds, &mut report)?;
    }
    report.finish(args.common.json.as_deref())
}

/// Measures groups with this traffic and this number of members in turns.
fn measure(
    groups: impl IntoIterator<Item = (Traffic, u16)>,
    rounds: u32,
    report: &mut Report,
) -> Result<Vec<Steered<'static>>> {
    let new = |(traffic, members)| Steered::new(traffic, members, Variant::all(traffic));
    let mut groups = groups.into_iter().map(new).collect::<Result<Vec<_>>>()?;
    for round in 0..rounds as usize {
        for group in &mut groups {
            turns(round, group.variants.len()).try_for_each(|variant| group.measure(variant))?;
        }
    }
    groups.iter().try_for_each(|group| report_group(group, rounds, report))?;
    Ok(groups)
}

/// Reports each variant, and each policy to no program.
fn report_group(steered: &Steered<'_>, rounds: u32, report: &mut Report) -> Result<()> {
    let (traffic, members) = (steered.group.traffic, steered.group.members.len());
    let (group, what) = match traffic {
        Traffic::Hot => (format!("UDP, {members} members, few flows"), DATAGRAM),
        Traffic::Scattered => (format!("UDP, {members} members, each of another flow"), DATAGRAM),
        Traffic::Connections => ("TCP".to_owned(), "connection, made, accepted and closed"),
    };
    let percentiles = ["decides", "p10", "p50", "p90"];
    let more = ["to no program", "to an empty one", "program's own"];
    let mut table = Table::new(percentiles.into_iter().chain(more));
    let [none, empty] = [&steered.variants[0], &steered.variants[1]];
    for Variant { name, policy, whole, program, .. } in &steered.variants {
        let to = |other: &[f64]| format!("{:.3}", Median::of_ratios(whole, other).value);
        let own = match program.as_slice() {
            [] => String::new(),
            own => number(median(own) - median(&empty.program)),
        };
        table.spread_row(name, whole, [to(&none.whole), to(&empty.whole), own]);
        report.raw(format!("{group}, {name}: whole"), whole)?;
        report.raw(format!("{group}, {name}: program"), program)?;
        let aim = match (traffic, policy) {
            (_, None) => continue,
            (Traffic::Connections, _) => AIM_CONNECTION,
            (_, Some(Policy::LeastLoaded(_))) => AIM_DATAGRAM_COMPARING,
            _ => AIM_DATAGRAM,
        };
        let comma = if name.contains(',') { "," } else { "" };
        let name = format!("{group}: {name}{comma} to no program");
        report.figure(Figure::ratio(name, whole, &none.whole).at_most(aim));
    }
    let title = format!(
        "{group}: nanoseconds for a {what}, {rounds} rounds; and the program's own time beyond the \
         empty one's"
    );
    report.table(title, table);
    Ok(())
}

/// What many members cost in times of what few cost.
fn compare_members(few: &Steered<'_>, many: &Steered<'_>, report: &mut Report) {
    let members = [many, few].map(|steered| steered.group.members.len());
    for (few, many) in few.variants.iter().zip(&many.variants) {
        let name = format!("UDP, {}: {} members to {}", few.name, members[0], members[1]);
        let figure = Figure::ratio(name, &many.whole, &few.whole);
        report.figure(if few.policy.is_some() { figure.at_most(AIM_MANY) } else { figure });
    }
}
