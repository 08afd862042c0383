//! `memory`: how much memory does a steered group take in the kernel, and the command while it runs?
//!
//! The kernel's part is read from the `memlock` of every map and program, the command's is the peak of
//! its resident memory. The size of its file stands next to them.
//!
//! Not measured: what the kernel keeps for each marked socket (the host-wide layer's socket storage),
//! which is not in the maps' memlock.

mod kernel;

use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context, Result};
use sk_reuseport::net::Bind;
use test_support::loopback;

use crate::process::Reuseport;
use crate::report::{Common, Figure, Report, Table, number};
use kernel::Objects;

const MIB: f64 = 1024.0 * 1024.0;
/// What a verb may have resident, in MiB.
const AIM_RESIDENT: f64 = 16.0;
/// What a group of this many members may take in the kernel, in MiB.
const AIMS_KERNEL: [(usize, f64); 2] = [(8, 1.0), (1000, 8.0)];

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    reuseport: Reuseport,
    /// How often each verb is run
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Numbers of members of the groups
    #[arg(long, value_delimiter = ',', default_value = "8,1000",
          value_parser = clap::value_parser!(u16).range(1..))]
    members: Vec<u16>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::new("memory")?;
    let mut kernel = Table::new(["members, and what is in the kernel", "KiB"]);
    let mut resident = Table::new(["members, and what is run", "p10", "p50", "p90"]);
    for &members in &args.members {
        let listeners = Bind::new(loopback(false)).listeners(members.into())?;
        measure_kernel(args, &listeners, &mut kernel, &mut report)?;
        measure_resident(args, &listeners, &mut resident, &mut report)?;
    }
    report.table("Memory in the kernel, by maps and programs (their memlock)", kernel);
    report.table(format!("MiB resident at most, {} runs", args.rounds), resident);
    let size = args.reuseport.path()?.metadata().context("cannot see the command")?.len();
    report.figure(Figure::new("size of the command's file", size as f64 / MIB, "MiB"));
    report.finish(args.common.json.as_deref())
}

/// What a steered group has in the kernel, and what is there once per host.
fn measure_kernel(
    args: &Args,
    listeners: &[TcpListener],
    table: &mut Table,
    report: &mut Report,
) -> Result<()> {
    let (members, spec) = (listeners.len(), spec(listeners)?);
    // Of the policies, only this one has a host-wide layer.
    args.reuseport.time(&["attach", &spec, "--policy", "least-loaded"])?;
    // The group's program reads host-wide maps, too.
    let host = Path::new("/sys/fs/bpf/reuseport/host");
    let group = Objects::pinned_below(&kernel::only_group()?)?;
    let group = group.without(&Objects::maps_pinned_below(host)?);
    let host = Objects::pinned_below(host)?.without(&group);
    args.reuseport.time(&["detach", &spec])?;
    for (layer, objects) in [("the group's", group), ("host-wide", host)] {
        for (name, bytes) in objects.sizes() {
            table.row([format!("{members}: {layer} {name}"), number(*bytes as f64 / 1024.0)]);
        }
        let sum: u64 = objects.sizes().iter().map(|(_, bytes)| bytes).sum();
        let name = format!("kernel, {members} members, {layer}");
        report.raw(&name, sum)?;
        let figure = Figure::new(name, sum as f64 / MIB, "MiB");
        let aim = AIMS_KERNEL.iter().find(|aim| aim.0 == members && layer != "host-wide");
        report.figure(match aim {
            Some((_, aim)) => figure.at_most(*aim),
            None => figure,
        });
    }
    Ok(())
}

/// The peak of the command's resident memory, verb by verb, in MiB.
fn measure_resident(
    args: &Args,
    listeners: &[TcpListener],
    table: &mut Table,
    report: &mut Report,
) -> Result<()> {
    let (members, spec) = (listeners.len(), spec(listeners)?);
    let mut verbs: [(&str, &[&str], Vec<f64>); 6] = [
        ("attach", &["attach", &spec, "--policy", "hash"], vec![]),
        ("ls", &["ls"], vec![]),
        ("ls --json", &["ls", "--json"], vec![]),
        ("show", &["show", &spec], vec![]),
        ("show --json", &["show", &spec, "--json"], vec![]),
        ("detach", &["detach", &spec], vec![]),
    ];
    for _ in 0..args.rounds {
        for (_, arguments, peaks) in &mut verbs {
            peaks.push(args.reuseport.peak(arguments)? as f64 / MIB);
        }
    }
    for (verb, _, peaks) in &verbs {
        let name = format!("{members}: {verb}");
        table.spread_row(&name, peaks, []);
        report.raw(name, peaks)?;
        let most = peaks.iter().copied().fold(0.0, f64::max);
        let name = format!("resident, {members} members: {verb}, the most");
        report.figure(Figure::new(name, most, "MiB").at_most(AIM_RESIDENT));
    }
    Ok(())
}

fn spec(listeners: &[TcpListener]) -> Result<String> {
    Ok(format!("tcp:{}", listeners[0].local_addr()?))
}
