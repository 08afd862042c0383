//! `select`: what a program that selects costs, for each datagram and each connection.
//!
//! The variants take turns, in another order each round, and each is compared with `no program` of
//! the same round. The kernel's own count of a program's running time is a second measure, which
//! traffic's noise does not touch; the empty program's time is what the clock and the call cost.

mod counting;
mod programs;
mod tcp;
mod udp;

use anyhow::{Context, Result};
use reuseport::Policy;

use crate::Common;
use crate::report::{Figure, Report, Table, number};
use crate::stats::{Median, Spread, median};
use programs::Variant;
use tcp::Way;
use udp::Traffic;

/// What a policy may cost on a datagram: this many times what no program costs.
const AIM_DATAGRAM: f64 = 1.05;
/// The same for least-loaded, which looks at up to 16 members.
const AIM_DATAGRAM_COMPARING: f64 = 1.15;
/// What any policy may cost on a connection.
const AIM_CONNECTION: f64 = 1.02;
/// What counting may cost a connection to a server that no group of ours concerns.
const AIM_COUNTING: f64 = 1.03;
/// With so many groups attached elsewhere.
const GROUPS: [usize; 2] = [1, 200];
/// What the most members may cost: this many times what the fewest cost.
const AIM_MANY: f64 = 1.2;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// How often each variant has its turn, with each number of members
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How often each variant has its turn with connections
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    tcp_rounds: u32,
    /// Numbers of members of the groups that get datagrams
    #[arg(long, value_delimiter = ',', default_value = "2,8,512,4096",
          value_parser = clap::value_parser!(u16).range(1..))]
    members: Vec<u16>,
}

/// By variant, what each round measured, in nanoseconds.
type Rounds = Vec<Vec<f64>>;

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::new("select")?;
    udp(args, &mut report)?;
    tcp(args, &mut report)?;
    counting(args, &mut report)?;
    report.finish(args.common.json.as_deref())
}

/// What was measured with one number of members.
struct Datagrams {
    traffic: Traffic,
    members: usize,
    sent: Rounds,
    whole: Rounds,
    program: Rounds,
}

impl Datagrams {
    fn name(&self) -> String {
        let kind = match self.traffic {
            Traffic::Hot => "few flows",
            Traffic::Scattered => "each of another flow",
        };
        format!("UDP, {} members, {kind}", self.members)
    }

    /// By round, how many times what no program costs a variant cost.
    fn to_none(&self, variant: usize) -> Vec<f64> {
        let rounds = self.whole[variant].iter().zip(&self.whole[0]);
        rounds.map(|(cost, without)| cost / without).collect()
    }
}

fn udp(args: &Args, report: &mut Report) -> Result<()> {
    let measured = measure_udp(args)?;
    for datagrams in &measured {
        udp_table(datagrams, args.rounds, report)?;
    }
    for datagrams in &measured {
        for (index, variant) in Variant::ALL.iter().enumerate() {
            if let Variant::Policy(policy) = variant {
                let ratio = Median::of_ratios(&datagrams.whole[index], &datagrams.whole[0]);
                let name = format!("{}: {policy} to no program", datagrams.name());
                let aim = match policy {
                    Policy::LeastLoaded(_) => AIM_DATAGRAM_COMPARING,
                    _ => AIM_DATAGRAM,
                };
                report.figure(Figure::median(name, ratio, "").at_most(aim));
            }
        }
    }
    let scattered = || measured.iter().filter(|m| m.traffic == Traffic::Scattered);
    if let (Some(few), Some(many)) = (scattered().next(), scattered().next_back()) {
        for (index, variant) in Variant::ALL.iter().enumerate() {
            let ratio = Median::of_ratios(&many.whole[index], &few.whole[index]);
            let name =
                format!("UDP, {}: {} members to {}", variant.name(), many.members, few.members);
            let figure = Figure::median(name, ratio, "");
            report.figure(match variant {
                Variant::Policy(_) => figure.at_most(AIM_MANY),
                _ => figure,
            });
        }
        for (index, variant) in Variant::ALL.iter().enumerate() {
            if let Variant::Policy(policy) = variant {
                // What more members cost without a program is the kernel's and the caches'.
                let ratio = Median::of_ratios(&many.to_none(index), &few.to_none(index));
                let name = format!(
                    "UDP, {policy}: {} members to {}, each to no program",
                    many.members, few.members
                );
                report.figure(Figure::median(name, ratio, "").at_most(AIM_MANY));
            }
        }
    }
    Ok(())
}

fn measure_udp(args: &Args) -> Result<Vec<Datagrams>> {
    let few = args.members.first().copied().unwrap_or(2);
    let scattered = args.members.iter().map(|members| (*members, Traffic::Scattered));
    let groups = [(few, Traffic::Hot)].into_iter().chain(scattered);
    let groups = groups.map(|(members, traffic)| udp::Group::new(members.into(), traffic));
    let mut groups = groups.collect::<Result<Vec<_>>>()?;
    let nothing = || vec![Vec::new(); Variant::ALL.len()];
    let of = |group: &udp::Group| Datagrams {
        traffic: group.traffic(),
        members: group.len(),
        sent: nothing(),
        whole: nothing(),
        program: nothing(),
    };
    let mut measured: Vec<Datagrams> = groups.iter().map(of).collect();
    for round in 0..args.rounds as usize {
        for (group, datagrams) in groups.iter_mut().zip(&mut measured) {
            for variant in order(round, Variant::ALL.len()) {
                let cost = group.measure(variant)?;
                datagrams.sent[variant].push(cost.sent);
                datagrams.whole[variant].push(cost.whole);
            }
            for variant in order(round, Variant::ALL.len()).filter(|variant| *variant != 0) {
                datagrams.program[variant].push(group.measure_program(variant)?);
            }
        }
    }
    groups.iter().try_for_each(udp::Group::check)?;
    Ok(measured)
}

/// So many turns, beginning with another one each round, forwards and backwards.
fn order(round: usize, count: usize) -> impl Iterator<Item = usize> {
    let backwards = round / count % 2 == 1;
    (0..count).map(move |turn| {
        let turn = (turn + round) % count;
        if backwards { count - 1 - turn } else { turn }
    })
}

fn udp_table(datagrams: &Datagrams, rounds: u32, report: &mut Report) -> Result<()> {
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
    let empty = empty.context("no empty program")?;
    let empty_own = median(&datagrams.program[empty]);
    for (index, variant) in Variant::ALL.iter().enumerate() {
        let (whole, sent) = (&datagrams.whole[index], &datagrams.sent[index]);
        let spread = Spread::of(whole);
        let own = &datagrams.program[index];
        let own = if own.is_empty() { "".into() } else { number(median(own) - empty_own) };
        table.row([
            variant.name().to_owned(),
            number(spread.p10),
            number(spread.p50),
            number(spread.p90),
            format!("{:.3}", Median::of_ratios(whole, &datagrams.whole[0]).value),
            format!("{:.3}", Median::of_ratios(whole, &datagrams.whole[empty]).value),
            number(median(sent)),
            own,
        ]);
        let name = |what| format!("{}, {}: {what}", datagrams.name(), variant.name());
        report.raw(name("whole"), whole)?;
        report.raw(name("sent"), sent)?;
        report.raw(name("program"), &datagrams.program[index])?;
    }
    let title = format!(
        "{}: nanoseconds for a datagram of 64 bytes, sent and received, {rounds} rounds; of that until \
         it is in a member's queue; and the program's own time beyond the empty one's",
        datagrams.name()
    );
    report.table(title, table);
    Ok(())
}

fn tcp(args: &Args, report: &mut Report) -> Result<()> {
    let ways = Way::all();
    let mut groups = tcp::Groups::new()?;
    let mut costs: Rounds = vec![Vec::new(); ways.len()];
    for round in 0..args.tcp_rounds as usize {
        for way in order(round, ways.len()) {
            costs[way].push(groups.measure(ways[way])?);
        }
    }
    groups.check()?;
    let mut table = Table::new(["decides", "p10", "p50", "p90", "time, to no program"]);
    for (way, costs_of_one) in ways.iter().zip(&costs) {
        let per_second: Vec<f64> = costs_of_one.iter().map(|nanos| 1e9 / nanos).collect();
        let spread = Spread::of(&per_second);
        let ratio = Median::of_ratios(costs_of_one, &costs[0]);
        table.row([
            way.name(),
            number(spread.p10),
            number(spread.p50),
            number(spread.p90),
            format!("{:.3}", ratio.value),
        ]);
        report.raw(format!("TCP, {}: nanoseconds", way.name()), costs_of_one)?;
        if way.is_compared() {
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

fn counting(args: &Args, report: &mut Report) -> Result<()> {
    let mut beside = counting::Beside::new()?;
    for groups in GROUPS {
        beside.grow(groups)?;
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for round in 0..args.tcp_rounds as usize {
            for turn in order(round, 2) {
                let costs = if turn == 0 { &mut without } else { &mut with };
                costs.push(beside.measure(turn == 1)?);
            }
        }
        let ratio = Median::of_ratios(&with, &without);
        let name = format!(
            "TCP: a server of no group, open connections counted for {groups}, to not counted"
        );
        report.raw(format!("{name}: nanoseconds"), [&without, &with])?;
        report.figure(Figure::median(name, ratio, "").at_most(AIM_COUNTING));
    }
    beside.detach()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_one_turn_and_nobody_is_always_first() {
        for round in 0..24 {
            let mut turns: Vec<usize> = order(round, 6).collect();
            turns.sort_unstable();
            assert_eq!(turns, [0, 1, 2, 3, 4, 5]);
        }
        let firsts: Vec<usize> = (0..12).filter_map(|round| order(round, 6).next()).collect();
        assert_eq!(firsts, [0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0]);
    }
}
