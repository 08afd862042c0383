//! `memory`: what a steered group takes in the kernel, how much memory the command has when it does
//! one thing, and the size of its file.
//!
//! What the kernel has for each marked socket (the host-wide layer's socket storage) is not in the
//! maps' memlock and not measured here.

mod kernel;

use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context, Result};
use sk_reuseport::net::{Bind, loopback};

use crate::Common;
use crate::command::Reuseport;
use crate::report::{Figure, Report, Table, number};
use kernel::Objects;

const MIB: f64 = 1024.0 * 1024.0;
/// What a one-shot verb may have resident, in MiB.
const AIM_RESIDENT: f64 = 16.0;
/// What a group of so many members may take in the kernel, in MiB.
const AIMS_KERNEL: [(u16, f64); 2] = [(8, 1.0), (1000, 8.0)];

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
    for members in &args.members {
        let group = Group::new(*members)?;
        let sizes = group.kernel(args)?;
        kernel_rows(*members, &sizes, &mut kernel, &mut report)?;
        for (verb, peaks) in group.resident(args)? {
            let name = format!("{members}: {verb}");
            resident.spread_row(&name, &peaks, []);
            report.raw(&name, &peaks)?;
            let most = peaks.iter().copied().fold(0.0, f64::max);
            let name = format!("resident, {members} members: {verb}, the most");
            report.figure(Figure::new(name, most, "MiB").at_most(AIM_RESIDENT));
        }
    }
    report.table("Memory of the kernel's, by maps and programs, as their memlock says", kernel);
    report.table(format!("MiB resident at most, {} runs", args.rounds), resident);
    let size = args.reuseport.path()?.metadata().context("cannot see the command")?.len();
    report.figure(Figure::new("size of the command's file", size as f64 / MIB, "MiB"));
    report.finish(args.common.json.as_deref())
}

fn kernel_rows(members: u16, sizes: &Sizes, table: &mut Table, report: &mut Report) -> Result<()> {
    for (layer, objects) in [("the group's", &sizes.group), ("host-wide", &sizes.host)] {
        let mut sum = 0;
        for (name, bytes) in objects.sizes() {
            table.row([format!("{members}: {layer} {name}"), number(bytes as f64 / 1024.0)]);
            sum += bytes;
        }
        let (name, mib) = (format!("kernel, {members} members, {layer}"), sum as f64 / MIB);
        report.raw(&name, sum)?;
        let aim = AIMS_KERNEL.iter().find(|(of, _)| *of == members && layer != "host-wide");
        let figure = Figure::new(name, mib, "MiB");
        report.figure(match aim {
            Some((_, aim)) => figure.at_most(*aim),
            None => figure,
        });
    }
    Ok(())
}

/// What a steered group has in the kernel, and what is there once per host.
struct Sizes {
    group: Objects,
    host: Objects,
}

/// Listeners that are steered by the command.
struct Group {
    _listeners: Vec<TcpListener>,
    spec: String,
}

impl Group {
    fn new(members: u16) -> Result<Self> {
        let listeners = Bind::new(loopback(false)).listeners(members.into())?;
        let spec = format!("tcp:{}", listeners[0].local_addr()?);
        Ok(Self { _listeners: listeners, spec })
    }

    fn kernel(&self, args: &Args) -> Result<Sizes> {
        args.reuseport.time(&["attach", &self.spec, "--policy", "hash"])?;
        // The group's program reads host-wide maps, too.
        let host = Path::new("/sys/fs/bpf/reuseport/host");
        let group = Objects::pinned_below(&kernel::only_group()?)?;
        let group = group.without(&Objects::maps_pinned_below(host)?);
        let host = Objects::pinned_below(host)?.without(&group);
        args.reuseport.time(&["detach", &self.spec])?;
        Ok(Sizes { group, host })
    }

    /// By verb, the peak of each run in MiB.
    fn resident(&self, args: &Args) -> Result<Vec<(&'static str, Vec<f64>)>> {
        let group = self.spec.as_str();
        let verbs: [(&'static str, &[&str]); 6] = [
            ("attach", &["attach", group, "--policy", "hash"]),
            ("ls", &["ls"]),
            ("ls --json", &["ls", "--json"]),
            ("show", &["show", group]),
            ("show --json", &["show", group, "--json"]),
            ("detach", &["detach", group]),
        ];
        let mut peaks = vec![Vec::new(); verbs.len()];
        for _ in 0..args.rounds {
            for ((_, arguments), peaks) in verbs.iter().zip(&mut peaks) {
                peaks.push(args.reuseport.peak(arguments)? as f64 / MIB);
            }
        }
        Ok(verbs.iter().map(|(verb, _)| *verb).zip(peaks).collect())
    }
}
