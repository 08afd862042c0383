//! A real nginx with a location that is slow: the index of a directory with many files, which a worker
//! reads, asks about file by file and sorts while all its other connections wait. Everything else is
//! answered at once.
//!
//! First the open-loop generator asks for both. Then wrk asks for what is quick, over and over with few
//! connections at once, while the generator asks for what is slow alone.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use reuseport::{Host, borrow};
use tempfile::TempDir;
use test_support::server::Nginx;

use super::contender::{Contender, prefer_cpus};
use super::generator::Outcome;
use super::measure::{Setup, ask, observe};
use super::schedule::{Schedule, Service, Traffic};
use super::wire::Dialect;
use crate::process::run;

/// Files whose index takes one worker some 100 ms.
const FILES: u32 = 20_000;
/// What comes in addition to wrk's requests: slow ones alone. The time means no more than that.
const WITH_WRK: Traffic = Traffic {
    rate: 2.0,
    service: Service::always(Duration::from_millis(100)),
    sources: 500,
    lasting: 0,
};
/// With room for all the connections that wait.
const LISTEN: &[&str] = &["127.0.0.1:PORT backlog=4096"];
/// How long wrk runs, in seconds.
const WRK_SECONDS: u64 = 2;

/// What nginx serves: a directory with one with many files in it.
pub(super) struct Site(TempDir);

impl Site {
    pub(super) fn new() -> Result<Self> {
        let directory = tempfile::tempdir().context("no directory for nginx to serve")?;
        let slow = directory.path().join("slow");
        fs::create_dir(&slow)?;
        for file in 0..FILES {
            File::create(slow.join(format!("{file:05}"))).context("cannot fill a directory")?;
        }
        Ok(Self(directory))
    }

    /// A new nginx under this contender.
    pub(super) fn measure(
        &self,
        host: &Host,
        contender: Contender,
        setup: &Setup<'_>,
    ) -> Result<Outcome> {
        let content = format!(
            r#"location / {{ return 200 "ok\n"; }} location /slow/ {{ root {}; autoindex on; }}"#,
            self.0.path().display()
        );
        let (workers, reuseport) = (setup.workers.into(), contender.has_queues());
        let nginx = Nginx::start_serving(LISTEN, workers, reuseport, content);
        let address = nginx.addr();
        if contender == Contender::IncomingCpu {
            // nginx knows nothing of it.
            let group = host.find(&format!("tcp:{address}").parse()?)?;
            let borrowed = group.members.iter().map(borrow::borrow).collect::<Result<Vec<_>, _>>();
            prefer_cpus(&borrowed?)?;
        }
        let dealer = contender.attach(host, address, &[])?;
        let outcome = observe(address, Dialect::Http, &dealer, setup)?;
        let slow = Schedule::draw(&WITH_WRK, Duration::from_secs(WRK_SECONDS), setup.seed);
        let wrk = std::thread::scope(|scope| {
            let wrk = scope.spawn(|| wrk(address));
            ask(address, Dialect::Http, &slow, setup)?;
            wrk.join().map_err(|_| anyhow!("wrk failed"))?
        })?;
        dealer.detach()?;
        drop(nginx);
        Ok(Outcome { wrk, ..outcome })
    }
}

/// Answers in a second, and the 99th percentile of milliseconds.
fn wrk(address: SocketAddr) -> Result<[f64; 2]> {
    let mut command = Command::new(test_support::program("wrk"));
    command.args(["--threads", "1", "--connections", "8", "--header", "Connection: close"]);
    command.arg("--latency");
    command.args(["--duration", &format!("{WRK_SECONDS}s"), &format!("http://{address}/")]);
    let (_, printed) = run(&mut command)?;
    parse(&printed).with_context(|| format!("wrk printed {printed:?}"))
}

fn parse(printed: &str) -> Option<[f64; 2]> {
    let after = |word: &str| printed.lines().find_map(|line| line.trim().strip_prefix(word));
    let answers = after("Requests/sec:")?.trim().parse().ok()?;
    let p99 = after("99%")?.trim();
    // The longest units first.
    let units = [("us", 1e-3), ("ms", 1.0), ("s", 1e3)];
    let number = |unit: &str| p99.strip_suffix(unit)?.parse::<f64>().ok();
    let p99 = units.iter().find_map(|(unit, millis)| Some(number(unit)? * millis))?;
    Some([answers, p99])
}

#[test]
fn what_wrk_prints_is_parsed() {
    for (p99, millis) in [("500.00us", 0.5), ("31.20ms", 31.2), ("1.50s", 1500.0)] {
        let printed = format!("     50%  635.00us\n     99%  {p99}\nRequests/sec:  12.5\n");
        assert_eq!(parse(&printed), Some([12.5, millis]));
    }
}
