//! `cpu`: the member for the CPU that received the packet.
//!
//! Each member has a CPU. A CPU without a member takes those of its NUMA node. Kernel side:
//! `bpf/policy/cpu.h`.

use std::str::FromStr;

use super::rule::Rule;
use crate::error::{Error, ErrorKind, Result};

pub(super) const RULE: Rule = Rule {
    places_on_cpus: true,
    ..Rule::new(5, "cpu", "the member for the CPU that received the packet", |_, members| {
        members.by_cpu()
    })
};

/// CPUs in the order in which the user gave them: `0-3,8`.
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
}

impl FromStr for CpuList {
    type Err = Error;

    fn from_str(list: &str) -> Result<Self> {
        parse_list(list).map(Self).ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                format!("`{}` is not a list of CPUs", list.escape_debug()),
            )
            .with_hint("give numbers and ranges, such as 0-3,8")
        })
    }
}

/// Reads numbers and ranges; sysfs writes its lists in the same form.
pub(crate) fn parse_list(list: &str) -> Option<Vec<u16>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_keep_their_order() {
        assert_eq!(parse_list("0-3,8"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse_list("5,1"), Some(vec![5, 1]));
        for bad in ["", "a", "3-1", "1,,2", "-1", "1-", "70000"] {
            assert_eq!(parse_list(bad), None, "{bad}");
        }
    }
}
