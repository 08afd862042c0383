//! A real nginx with a location that is slow: the index of a directory with many files, which a worker
//! reads, asks about file by file and sorts while all its other connections wait. Everything else is
//! answered at once.
//!
//! First the open-loop generator asks for both. Then wrk asks for what is quick, over and over with few
//! connections at once, while the generator asks for what is slow alone.

use std::fs::{self, File};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tempfile::TempDir;
use test_support::{load, server::Nginx, wait};

use super::contender::{Contender, Means};
use super::generator::{Outcome, Setup, drive};
use super::schedule::{Schedule, Service, Traffic};
use super::wire::Dialect;

/// Files whose index takes one worker some 100 ms.
const FILES: u32 = 20_000;
/// What comes in addition to wrk's requests: slow ones alone. The time means no more than that.
const WITH_WRK: Traffic = Traffic {
    rate: 2.0,
    service: Service::of_ms(100, 100, 0.0),
    sources: 500,
    lasting: 0,
    bursts: None,
};
/// With room for all the connections that wait.
const LISTEN: &[&str] = &["127.0.0.1:PORT backlog=4096"];
/// How long wrk runs, in seconds.
const WRK_SECONDS: u32 = 2;

/// What nginx serves: a directory with one with many files in it.
pub(super) fn site() -> Result<TempDir> {
    let directory = tempfile::tempdir().context("no directory for nginx to serve")?;
    let slow = directory.path().join("slow");
    fs::create_dir(&slow)?;
    for file in 0..FILES {
        File::create(slow.join(format!("{file:05}"))).context("cannot fill a directory")?;
    }
    Ok(directory)
}

/// With a new nginx.
pub(super) fn measure(
    means: &Means,
    contender: Contender,
    setup: &Setup<'_>,
    site: &TempDir,
) -> Result<Outcome> {
    let content = format!(
        r#"location / {{ return 200 "ok\n"; }} location /slow/ {{ root {}; autoindex on; }}"#,
        site.path().display()
    );
    let (workers, reuseport) = (setup.workers.into(), contender.has_queues());
    let nginx = Nginx::start_serving(LISTEN, workers, reuseport, content);
    let address = nginx.addr();
    let dealer = contender.attach(means, address, &[])?;
    let outcome = drive(address, Dialect::Http, setup)?;
    dealer.check(outcome.connections.into())?;
    let length = wait::scaled(Duration::from_secs(WRK_SECONDS.into()));
    let slow = Schedule::draw(&WITH_WRK, length, setup.seed);
    let answered = std::thread::scope(|scope| {
        let wrk = scope.spawn(|| load::wrk(address, WRK_SECONDS));
        drive(address, Dialect::Http, &Setup { schedule: &slow, ..*setup })?;
        wrk.join().map(|outcome| outcome.answered).map_err(|_| anyhow!("wrk failed"))
    })?;
    let wrk = answered as f64 / length.as_secs_f64();
    dealer.detach()?;
    drop(nginx);
    Ok(Outcome { wrk, ..outcome })
}
