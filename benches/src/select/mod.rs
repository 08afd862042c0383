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
use serde::Serialize;

use crate::report::{Common, Figure, Report, Table, number};
use crate::stats::{Median, median, turns};
use programs::{Steered, Variant};
use traffic::{Group, Traffic};

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
) -> Result<Vec<Section>> {
    let mut sections = groups.into_iter().map(Section::new).collect::<Result<Vec<_>>>()?;
    for round in 0..rounds as usize {
        sections.iter_mut().try_for_each(|section| section.round(round))?;
    }
    sections.iter().try_for_each(|section| section.report(rounds, report))?;
    Ok(sections)
}

/// What one variant costs, round by round: nanoseconds per datagram or connection.
#[derive(Default, Serialize)]
struct Costs {
    whole: Vec<f64>,
    /// The program's running time, by the kernel's own count.
    program: Vec<f64>,
}

/// A group with its variants, and what each costs.
struct Section {
    traffic: Traffic,
    members: u16,
    steered: Steered<'static>,
    costs: Vec<Costs>,
}

impl Section {
    fn new((traffic, members): (Traffic, u16)) -> Result<Self> {
        let steered = Steered::new(Group::new(traffic, members.into())?, Variant::all(traffic))?;
        let costs = steered.variants.iter().map(|_| Costs::default()).collect();
        Ok(Self { traffic, members, steered, costs })
    }

    /// Measures each variant once.
    fn round(&mut self, round: usize) -> Result<()> {
        for variant in turns(round, self.costs.len()) {
            let (whole, program) = self.steered.measure(variant)?;
            self.costs[variant].whole.push(whole);
            self.costs[variant].program.extend(program);
        }
        Ok(())
    }

    fn aim(&self, policy: Policy) -> f64 {
        match (self.traffic, policy) {
            (Traffic::Connections, _) => AIM_CONNECTION,
            (_, Policy::LeastLoaded(_)) => AIM_DATAGRAM_COMPARING,
            _ => AIM_DATAGRAM,
        }
    }

    /// Reports each variant, and each policy to no program.
    fn report(&self, rounds: u32, report: &mut Report) -> Result<()> {
        let members = self.members;
        let (section, what) = match self.traffic {
            Traffic::Hot => (format!("UDP, {members} members, few flows"), DATAGRAM),
            Traffic::Scattered => {
                (format!("UDP, {members} members, each of another flow"), DATAGRAM)
            }
            Traffic::Connections => ("TCP".to_owned(), "connection, made, accepted and closed"),
        };
        let mut table = Table::new([
            "decides",
            "p10",
            "p50",
            "p90",
            "to no program",
            "to an empty one",
            "program's own",
        ]);
        let [none, empty] = [&self.costs[0], &self.costs[1]];
        for (variant, costs) in self.steered.variants.iter().zip(&self.costs) {
            let name = &variant.name;
            let to = |other: &Costs| {
                format!("{:.3}", Median::of_ratios(&costs.whole, &other.whole).value)
            };
            let own = match costs.program.as_slice() {
                [] => String::new(),
                own => number(median(own) - median(&empty.program)),
            };
            table.spread_row(name, &costs.whole, [to(none), to(empty), own]);
            report.raw(format!("{section}, {name}"), costs)?;
            if let Some(policy) = variant.policy {
                let comma = if name.contains(',') { "," } else { "" };
                let name = format!("{section}: {name}{comma} to no program");
                let figure = Figure::ratio(name, &costs.whole, &none.whole);
                report.figure(figure.at_most(self.aim(policy)));
            }
        }
        let title = format!(
            "{section}: nanoseconds for a {what}, {rounds} rounds; and the program's own time beyond the empty one's"
        );
        report.table(title, table);
        Ok(())
    }
}

/// What many members cost in times of what few cost.
fn compare_members(few: &Section, many: &Section, report: &mut Report) {
    for (variant, (to, costs)) in few.steered.variants.iter().zip(few.costs.iter().zip(&many.costs))
    {
        let name = format!("UDP, {}: {} members to {}", variant.name, many.members, few.members);
        let figure = Figure::ratio(name, &costs.whole, &to.whole);
        report.figure(if variant.policy.is_some() { figure.at_most(AIM_MANY) } else { figure });
    }
}
