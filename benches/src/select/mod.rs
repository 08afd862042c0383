//! `select`: what does a program that selects cost, per datagram and per connection?
//!
//! The variants take turns, in another order each round, and each is compared with `no program` of
//! the same round. The kernel's own count of a program's running time is a second measure, which
//! traffic's noise does not touch; the empty program's time is what the clock and the call cost.
//!
//! Not measured: how evenly or how well a policy deals (`latency`), and real network devices.

mod against;
mod lap;
mod programs;
mod tcp;
mod udp;

use std::path::PathBuf;

use anyhow::{Context, Result};
use reuseport::Policy;

use crate::report::{Common, Figure, Report, Table, number};
use crate::stats::{Median, median, ratios, turns};
use programs::{Variant, built_in};
use tcp::Way;
use udp::{Group, Traffic};

/// What a policy may cost on a datagram, in times of what no program costs.
const AIM_DATAGRAM: f64 = 1.05;
/// The same for least-loaded, which looks at up to 16 members.
const AIM_DATAGRAM_COMPARING: f64 = 1.15;
/// What any policy may cost on a connection.
const AIM_CONNECTION: f64 = 1.02;
/// What counting may cost a connection to a server that is not steered, with these numbers of groups
/// attached elsewhere.
const AIM_COUNTING: f64 = 1.03;
const GROUPS: [usize; 2] = [1, 200];
/// What the most members may cost, in times of what the fewest cost.
const AIM_MANY: f64 = 1.2;

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
        udp(args, &mut report)?;
        tcp(args, &mut report)?;
        counting(args, &mut report)?;
    }
    report.finish(args.common.json.as_deref())
}

fn udp(args: &Args, report: &mut Report) -> Result<()> {
    let few = args.members.first().copied().unwrap_or(2);
    let scattered = args.members.iter().map(|members| (*members, Traffic::Scattered));
    let groups = [(few, Traffic::Hot)].into_iter().chain(scattered);
    let groups = groups.map(|(members, traffic)| Group::new(members.into(), traffic, &built_in()));
    let mut groups = groups.collect::<Result<Vec<_>>>()?;
    for round in 0..args.rounds as usize {
        groups.iter_mut().try_for_each(|group| group.round(round))?;
    }
    groups.iter().try_for_each(Group::check)?;
    for group in &groups {
        datagram_table(group, args.rounds, report)?;
    }
    groups.iter().for_each(|group| datagram_figures(group, report));
    if let [_, few, .., many] | [_, few @ many] = groups.as_slice() {
        member_figures(few, many, report);
    }
    Ok(())
}

fn name(group: &Group) -> String {
    let kind = match group.traffic {
        Traffic::Hot => "few flows",
        Traffic::Scattered => "each of another flow",
    };
    format!("UDP, {} members, {kind}", group.members.len())
}

fn datagram_table(group: &Group, rounds: u32, report: &mut Report) -> Result<()> {
    let mut table = Table::new([
        "decides",
        "p10",
        "p50",
        "p90",
        "to no program",
        "to an empty one",
        "sent",
        "program's own",
    ]);
    let empty = Variant::ALL.iter().position(|variant| *variant == Variant::Empty);
    let (none, empty) = (&group.costs[0], &group.costs[empty.context("no empty program")?]);
    let empty_own = median(&empty.program);
    for (variant, costs) in Variant::ALL.iter().zip(&group.costs) {
        let to = |other: &[f64]| format!("{:.3}", Median::of_ratios(&costs.whole, other).value);
        let own = match costs.program.as_slice() {
            [] => String::new(),
            own => number(median(own) - empty_own),
        };
        let more = [to(&none.whole), to(&empty.whole), number(median(&costs.sent)), own];
        table.spread_row(variant.name(), &costs.whole, more);
        for (what, values) in
            [("whole", &costs.whole), ("sent", &costs.sent), ("program", &costs.program)]
        {
            report.raw(format!("{}, {}: {what}", name(group), variant.name()), values)?;
        }
    }
    let title = format!(
        "{}: nanoseconds for a datagram of 64 bytes, sent and received, {rounds} rounds; of that until \
         it is in a member's queue; and the program's own time beyond the empty one's",
        name(group)
    );
    report.table(title, table);
    Ok(())
}

/// Each policy to no program.
fn datagram_figures(group: &Group, report: &mut Report) {
    for (variant, costs) in Variant::ALL.iter().zip(&group.costs) {
        let Variant::Policy(policy) = variant else { continue };
        let aim = match policy {
            Policy::LeastLoaded(_) => AIM_DATAGRAM_COMPARING,
            _ => AIM_DATAGRAM,
        };
        let name = format!("{}: {policy} to no program", name(group));
        report.figure(Figure::ratio(name, &costs.whole, &group.costs[0].whole).at_most(aim));
    }
}

/// Many members to few: each variant, and each policy less what more members cost the kernel.
fn member_figures(few: &Group, many: &Group, report: &mut Report) {
    let members = format!("{} members to {}", many.members.len(), few.members.len());
    let of = |group: &Group, variant: usize| group.costs[variant].whole.clone();
    for (index, variant) in Variant::ALL.iter().enumerate() {
        let name = format!("UDP, {}: {members}", variant.name());
        let figure = Figure::ratio(name, &of(many, index), &of(few, index));
        report.figure(match variant {
            Variant::Policy(_) => figure.at_most(AIM_MANY),
            _ => figure,
        });
    }
    for (index, variant) in Variant::ALL.iter().enumerate() {
        let Variant::Policy(policy) = variant else { continue };
        let to_none = |group| ratios(&of(group, index), &of(group, 0));
        let name = format!("UDP, {policy}: {members}, each to no program");
        report.figure(Figure::ratio(name, &to_none(many), &to_none(few)).at_most(AIM_MANY));
    }
}

fn tcp(args: &Args, report: &mut Report) -> Result<()> {
    let ways = Way::all();
    let mut groups = tcp::Groups::new()?;
    let mut costs: Vec<Vec<f64>> = vec![Vec::new(); ways.len()];
    for round in 0..args.tcp_rounds as usize {
        for way in turns(round, ways.len()) {
            costs[way].push(groups.measure(ways[way])?);
        }
    }
    groups.check()?;
    let mut table = Table::new(["decides", "p10", "p50", "p90", "time, to no program"]);
    for (way, nanoseconds) in ways.iter().zip(&costs) {
        let per_second: Vec<f64> =
            nanoseconds.iter().map(|nanoseconds| 1e9 / nanoseconds).collect();
        let ratio = Median::of_ratios(nanoseconds, &costs[0]);
        table.spread_row(way.name(), &per_second, [format!("{:.3}", ratio.value)]);
        report.raw(format!("TCP, {}: nanoseconds", way.name()), nanoseconds)?;
        if way.has_aim() {
            let name = format!("TCP: {}, to no program", way.name());
            report.figure(Figure::median(name, ratio, "").at_most(AIM_CONNECTION));
        }
    }
    let title = format!(
        "TCP, {} members: connections per second, made, accepted and closed by one thread, {} rounds",
        tcp::MEMBERS,
        args.tcp_rounds
    );
    report.table(title, table);
    Ok(())
}

/// What counting open connections costs a server that is not steered.
fn counting(args: &Args, report: &mut Report) -> Result<()> {
    let mut bystander = tcp::Bystander::new()?;
    for groups in GROUPS {
        bystander.grow(groups)?;
        let mut costs = [Vec::new(), Vec::new()];
        for round in 0..args.tcp_rounds as usize {
            for counted in turns(round, 2) {
                costs[counted].push(bystander.measure(counted == 1)?);
            }
        }
        let [without, with] = &costs;
        let name = format!(
            "TCP: a server of no group, open connections counted for {groups}, to not counted"
        );
        report.raw(format!("{name}: nanoseconds"), &costs)?;
        report.figure(Figure::ratio(name, with, without).at_most(AIM_COUNTING));
    }
    bystander.detach()
}
