//! Thousands of restarts, in parts: each part adds lines to a file, and the next one goes on from there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::rollover::Way;
use crate::run::{Outcome, Setting, run};
use crate::servers::{Family, SERVERS, Server};
use crate::tally::{Counts, upper_bound};

/// What is asked of a call.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Only these servers
    #[arg(value_name = "SERVER", value_parser = SERVERS.map(|server| server.name))]
    pub servers: Vec<String>,
    /// Leave out what cannot be had
    #[arg(long, value_name = "SERVER", hide = true)]
    pub without: Vec<String>,
    /// How many restarts each server is to have in all
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub restarts: u64,
    /// End after about this time; the next call goes on
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub minutes: u64,
    /// Begin anew, and forget the results of earlier calls
    #[arg(long)]
    pub fresh: bool,
    /// New connections a second, at most
    #[arg(long, value_name = "N", default_value_t = 1500.0)]
    pub rate: f64,
    /// Only print what there is
    #[arg(long)]
    pub show: bool,
}

/// A line of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    server: String,
    family: String,
    /// Seconds since 1970.
    at: u64,
    kernel: String,
    #[serde(flatten)]
    outcome: Outcome,
}

/// Restarts in one run.
const AT_ONCE: u64 = 10;

/// Runs for as long as it may, and prints the table of everything so far.
///
/// # Errors
///
/// If a run fails, or something was lost before a server had accepted it.
pub fn soak(args: &Args, file: &Path, command: &Path) -> Result<()> {
    if args.fresh && file.exists() {
        fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    let (begun, time) = (Instant::now(), Duration::from_secs(60 * args.minutes));
    let is_in = |names: &[String], server: &Server| names.iter().any(|name| name == server.name);
    let wanted: Vec<&'static Server> = SERVERS
        .iter()
        .filter(|server| args.servers.is_empty() || is_in(&args.servers, server))
        .filter(|server| !is_in(&args.without, server))
        .collect();
    let mut failed: Vec<&str> = Vec::new();
    while !args.show && begun.elapsed() < time {
        let lines = read(file)?;
        let done = |server: &Server| -> u64 {
            of(&lines, server.name).map(|line| line.outcome.restarts).sum()
        };
        let left = wanted.iter().filter(|server| !failed.contains(&server.name));
        let Some(server) = left.min_by_key(|server| done(server)) else { break };
        let Some(left @ 1..) = args.restarts.checked_sub(done(server)) else { break };
        let even = of(&lines, server.name).count().is_multiple_of(2);
        let setting = Setting {
            server,
            way: Way::Ours,
            family: if even { Family::V4 } else { Family::V6 },
            restarts: left.min(AT_ONCE) as usize,
            rate: None,
            most: args.rate,
            between: Duration::from_millis(300),
            command: PathBuf::from(command),
        };
        match catch_unwind(AssertUnwindSafe(|| run(&setting))) {
            Ok(Ok(outcome)) => {
                let line = Line::new(server, setting.family, outcome)?;
                println!("{}", line.describe());
                append(file, &line)?;
            }
            Ok(Err(error)) => {
                eprintln!("{}: {error:#}", server.name);
                failed.push(server.name);
            }
            // The panic has been printed.
            Err(_) => failed.push(server.name),
        }
    }
    let lines = read(file)?;
    println!("\n{}", table(&lines));
    let sum = sum(lines.iter());
    if !failed.is_empty() {
        bail!("these runs failed: {}", failed.join(", "));
    }
    // A wrong answer is the server's: pgbouncer says to some clients that it is shutting down.
    if sum.ours.sum() + sum.misplaced > 0 {
        bail!("{} lost, {} misplaced", sum.ours, sum.misplaced);
    }
    Ok(())
}

impl Line {
    fn new(server: &Server, family: Family, outcome: Outcome) -> Result<Self> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("no /proc")?;
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let (server, family) = (server.name.to_owned(), family.name().to_owned());
        Ok(Self { server, family, at, kernel: kernel.trim().to_owned(), outcome })
    }

    fn describe(&self) -> String {
        let Self { server, family, outcome, .. } = self;
        let Outcome { restarts, counts, times, late, seconds, rate, .. } = outcome;
        let Counts { connections, queries, ours, servers, kept, misplaced, wrong, .. } = counts;
        format!(
            "{server}, {family}: {restarts} restarts in {seconds:.0} s, {connections} connections and \
             {queries} queries ({rate:.0}/s new): lost {ours}, by the server {servers}; {} datagrams found a full buffer; {kept} answers \
             kept, {misplaced} misplaced, {wrong} wrong; p99 {} ms, slowest {} ms; sent at most {late} \
             ms late",
            outcome.overflowed, times.p99, times.slowest
        )
    }
}

fn read(file: &Path) -> Result<Vec<Line>> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| file.display().to_string()),
    };
    let lines = text.lines().map(|line| serde_json::from_str(line).context("not a line of a soak"));
    lines.collect::<Result<_>>().with_context(|| format!("{}; --fresh", file.display()))
}

fn append(file: &Path, line: &Line) -> Result<()> {
    let mut open = File::options();
    let mut open = open.create(true).append(true).open(file).context("cannot open the results")?;
    writeln!(open, "{}", serde_json::to_string(line)?).context("cannot write the results")
}

fn of<'a>(lines: &'a [Line], server: &str) -> impl Iterator<Item = &'a Line> + Clone {
    lines.iter().filter(move |line| line.server == server)
}

fn sum<'a>(lines: impl Iterator<Item = &'a Line>) -> Counts {
    let mut sum = Counts::default();
    lines.for_each(|line| sum += line.outcome.counts);
    sum
}

/// In Markdown.
fn table(lines: &[Line]) -> String {
    let mut text = String::from(
        "| server | restarts | connections | UDP queries | lost | lost by the server | lost per \
         million, at most (95 %) | wrong answers | answers by old processes | late or left out |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    let order: BTreeMap<&str, usize> =
        SERVERS.iter().enumerate().map(|(at, server)| (server.name, at)).collect();
    let mut names: Vec<&str> = lines.iter().map(|line| line.server.as_str()).collect();
    names.sort_by_key(|name| order.get(name).copied().unwrap_or(usize::MAX));
    names.dedup();
    for name in names {
        text += &row(name, of(lines, name));
    }
    text + &row("all", lines.iter())
}

fn row<'a>(name: &str, lines: impl Iterator<Item = &'a Line> + Clone) -> String {
    let counts = sum(lines.clone());
    let restarts: u64 = lines.clone().map(|line| line.outcome.restarts).sum();
    let late = lines.map(|line| line.outcome.sent_late + line.outcome.left_out);
    let late: u64 = late.sum();
    let all = counts.connections + counts.queries;
    let Counts { connections, queries, ours, servers, wrong, kept, .. } = counts;
    let bound = upper_bound(ours.sum(), all) * 1e6;
    format!(
        "| {name} | {restarts} | {connections} | {queries} | {ours} | {servers} | {bound:.1} | {wrong} \
         | {kept} | {:.1} % |\n",
        100.0 * late as f64 / all.max(1) as f64
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Lost;

    #[test]
    fn lines_add_up_to_a_table() {
        let line = |server: &str, connections, reset| {
            let ours = Lost { reset, ..Lost::default() };
            let counts = Counts { connections, ours, ..Counts::default() };
            let (times, quiet) = Default::default();
            let [capacity, rate, late, seconds] = [1.0; 4];
            let (restarts, sent_late, left_out, overflowed) = (10, 0, 0, 0);
            let (losses, spans) = Default::default();
            let outcome = Outcome {
                losses,
                spans,
                overflowed,
                restarts,
                capacity,
                rate,
                counts,
                times,
                quiet,
                late,
                sent_late,
                left_out,
                seconds,
            };
            let (family, kernel) = ("IPv4".to_owned(), "6.18".to_owned());
            Line { server: server.to_owned(), family, at: 0, kernel, outcome }
        };
        let lines = [line("knot", 1_000, 0), line("nginx", 2_000, 0), line("nginx", 3_000, 1)];
        let text = serde_json::to_string(&lines[2]).unwrap();
        let again: Line = serde_json::from_str(&text).unwrap();
        assert_eq!(again.outcome.counts, lines[2].outcome.counts);
        let table = table(&lines);
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(rows[0], "| nginx | 20 | 5000 | 0 | 1 (1 reset) | 0 | 948.8 | 0 | 0 | 0.0 % |");
        assert_eq!(rows[1], "| knot | 10 | 1000 | 0 | 0 | 0 | 2995.7 | 0 | 0 | 0.0 % |");
        assert!(rows[2].starts_with("| all | 30 | 6000 |"), "{table}");
    }
}
