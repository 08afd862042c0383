//! The host's CPUs: which there are, where, and which of them is whose.

use std::collections::HashMap;
use std::fs;
use std::str::FromStr;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::table::Topology;
use crate::{Error, ErrorKind, Result};

/// Every possible CPU with its NUMA node. On a host that does not tell, all are in one node.
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

/// The CPUs that are running.
fn online() -> Vec<u16> {
    let online = read_list("/sys/devices/system/cpu/online");
    if online.is_empty() { vec![0] } else { online }
}

/// Reads a list as sysfs writes it; what cannot be read is empty.
fn read_list(path: &str) -> Vec<u16> {
    parse_list(fs::read_to_string(path).unwrap_or_default().trim_end()).unwrap_or_default()
}

/// CPUs in an order of the user's: `0-3,8`.
///
/// ```
/// let cpus: reuseport::CpuList = "4,0-2".parse()?;
/// assert_eq!(cpus.as_slice(), [4, 0, 1, 2]);
/// # Ok::<(), reuseport::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuList(Vec<u16>);

impl CpuList {
    /// The CPUs, in their order; at least one.
    pub fn as_slice(&self) -> &[u16] {
        &self.0
    }

    /// Refuses CPUs that this host cannot have.
    pub(crate) fn check(&self) -> Result<()> {
        let possible = topology().nodes.len();
        match self.0.iter().find(|cpu| usize::from(**cpu) >= possible) {
            None => Ok(()),
            Some(cpu) => {
                Err(Error::new(ErrorKind::Invalid, format!("cannot give a member CPU {cpu}"))
                    .because(format!("this host's CPUs are 0 to {}", possible - 1)))
            }
        }
    }
}

impl FromStr for CpuList {
    type Err = Error;

    fn from_str(list: &str) -> Result<Self> {
        parse_list(list).map(Self).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("`{}` is no list of CPUs", list.escape_debug()))
                .remedy("give numbers and ranges, such as 0-3,8")
        })
    }
}

fn parse_list(list: &str) -> Option<Vec<u16>> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        match part.split_once('-') {
            Some((first, last)) => {
                let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
                if first > last {
                    return None;
                }
                cpus.extend(first..=last);
            }
            None => cpus.push(part.parse().ok()?),
        }
    }
    Some(cpus)
}

/// The CPU that a process may run on, if it is exactly one.
pub(crate) fn only_cpu_of(pid: u32) -> Option<u16> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    let set = sched_getaffinity(Some(pid)).ok()?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu));
    match (cpus.next(), cpus.next()) {
        (Some(cpu), None) => u16::try_from(cpu).ok(),
        _ => None,
    }
}

/// The CPU for another member: of those that run, the first that has the fewest.
pub(crate) fn least_used(used: impl Iterator<Item = u16>) -> u16 {
    let mut count: HashMap<u16, usize> = HashMap::new();
    used.for_each(|cpu| *count.entry(cpu).or_default() += 1);
    let online = online();
    online.into_iter().min_by_key(|cpu| count.get(cpu).copied().unwrap_or(0)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_in_their_order() {
        assert_eq!(parse_list("0-3,8"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse_list("5,1"), Some(vec![5, 1]));
        for bad in ["", "a", "3-1", "1,,2", "-1", "1-", "70000"] {
            assert_eq!(parse_list(bad), None, "{bad}");
        }
    }

    #[test]
    fn this_host_has_cpus_and_another_member_gets_one_that_has_none() {
        let nodes = topology().nodes;
        assert!(!nodes.is_empty());
        let online = online();
        assert!(online.iter().all(|cpu| usize::from(*cpu) < nodes.len()));
        assert_eq!(least_used([].into_iter()), online[0]);
        if online.len() > 1 {
            assert_eq!(least_used([online[0]].into_iter()), online[1]);
        }
    }
}
