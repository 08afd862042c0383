//! The machine and the date of a measurement, without which a figure means nothing.

use std::fmt;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::process::run;

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
        let (_, date) = run(Command::new("date").args(["-u", "+%F"]))?;
        let load = read("/proc/loadavg")?;
        Ok(Self {
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cpu: field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            hypervisor: field("flags").is_some_and(|f| f.split(' ').any(|f| f == "hypervisor")),
            date: date.trim().to_owned(),
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
