//! On what and when something was measured: a figure means nothing without.

use std::fmt;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::Serialize;

#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    kernel: String,
    cpu: String,
    cpus: usize,
    hypervisor: bool,
    date: String,
    /// Over the last minute, before the measurement.
    load_average: f64,
}

impl Machine {
    pub(crate) fn this() -> Result<Self> {
        let cpuinfo = read("/proc/cpuinfo")?;
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is wrong")?;
        let load = read("/proc/loadavg")?;
        Ok(Self {
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cpu: field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            hypervisor: field("flags").is_some_and(|f| f.split(' ').any(|f| f == "hypervisor")),
            date: date(now.as_secs() / 86_400),
            load_average: load.split(' ').next().and_then(|l| l.parse().ok()).unwrap_or(f64::NAN),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, cpu, cpus, hypervisor, date, load_average } = self;
        let guest = if *hypervisor { ", in a virtual machine" } else { "" };
        write!(f, "{date}, Linux {kernel}, {cpus} x {cpu}{guest}, load average {load_average}")
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

/// The date so many days after 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn date(days: u64) -> String {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        let days = [0, 59, 11_016, 19_782, 20_454];
        let dates = ["1970-01-01", "1970-03-01", "2000-02-29", "2024-02-29", "2026-01-01"];
        assert_eq!(days.map(date), dates);
    }
}
