//! The machine and the date of a measurement, without which a figure means nothing.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::run;

/// `2026-11-22, Linux 6.18.44, 2 x AMD EPYC, in a virtual machine, load average 0.35`, before the measurement.
pub(crate) fn describe() -> Result<String> {
    let cpuinfo = read("/proc/cpuinfo")?;
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim())
    };
    let cpu = field("model name").unwrap_or(std::env::consts::ARCH);
    let flags = field("flags").unwrap_or_default();
    let is_guest = flags.split(' ').any(|flag| flag == "hypervisor");
    let guest = if is_guest { ", in a virtual machine" } else { "" };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let (_, date) = run(Command::new("date").args(["-u", "+%F"]))?;
    let (kernel, load) = (read("/proc/sys/kernel/osrelease")?, read("/proc/loadavg")?);
    let (date, kernel) = (date.trim(), kernel.trim());
    let load = load.split(' ').next().unwrap_or_default();
    Ok(format!("{date}, Linux {kernel}, {cpus} x {cpu}{guest}, load average {load}"))
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}
