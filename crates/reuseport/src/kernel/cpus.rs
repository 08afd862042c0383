//! The host's CPUs and their NUMA nodes, the CPUs of a thread, and its time.

use std::fs;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::error::{Error, ErrorKind, Result};
use crate::model::owner::Affinity;
use crate::model::policy::{CpuList, parse_list};
use crate::model::table::Topology;

/// Every possible CPU with its NUMA node. Without that information, all are in one node.
pub(crate) fn topology() -> Topology {
    let possible = read_list("/sys/devices/system/cpu/possible");
    let count = possible.last().map_or(1, |last| usize::from(*last) + 1);
    let mut nodes = vec![0; count];
    for node in read_list("/sys/devices/system/node/possible") {
        for cpu in read_list(&format!("/sys/devices/system/node/node{node}/cpulist")) {
            if let Some(of) = nodes.get_mut(usize::from(cpu)) {
                *of = node;
            }
        }
    }
    Topology { nodes }
}

/// The time of a CPU that the calling thread has taken.
pub(crate) fn time_of_thread() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// The CPUs that are running.
pub(crate) fn online() -> Vec<u16> {
    let online = read_list("/sys/devices/system/cpu/online");
    if online.is_empty() { vec![0] } else { online }
}

/// Reads a list as sysfs writes it; what cannot be read is empty.
fn read_list(path: &str) -> Vec<u16> {
    parse_list(fs::read_to_string(path).unwrap_or_default().trim_end()).unwrap_or_default()
}

/// Refuses CPUs that this host cannot have.
pub(crate) fn check(list: &CpuList) -> Result<()> {
    let possible = topology().nodes.len();
    match list.as_slice().iter().find(|cpu| usize::from(**cpu) >= possible) {
        None => Ok(()),
        Some(cpu) => Err(Error::new(ErrorKind::Invalid, format!("cannot give a member CPU {cpu}"))
            .because(format!("this host's CPUs are 0 to {}", possible - 1))),
    }
}

/// The CPUs that a thread may run on; `None` if it is gone.
pub(crate) fn affinity(tid: u32) -> Option<Affinity> {
    let tid = Pid::from_raw(i32::try_from(tid).ok()?)?;
    let set = sched_getaffinity(Some(tid)).ok()?;
    let cpus = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu));
    Some(cpus.filter_map(|cpu| u16::try_from(cpu).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn online_cpus_are_possible() {
        let nodes = topology().nodes;
        assert!(!nodes.is_empty() && !online().is_empty());
        assert!(online().iter().all(|cpu| usize::from(*cpu) < nodes.len()));
    }
}
