//! The time since the host's boot, which pinned records have. No clock that can be set is read anywhere.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use rustix::time::{ClockId, clock_gettime};

/// The time since the host's boot in milliseconds. A time namespace moves the clock of the processes in it, and
/// processes in others read what is pinned.
pub(crate) fn since_boot() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let own = milliseconds(now.tv_sec, now.tv_nsec);
    u64::try_from(own.saturating_sub(offset().unwrap_or(0))).unwrap_or(0)
}

/// By how much this process's clock is ahead; `None` where the kernel has no time namespaces.
fn offset() -> Option<i64> {
    let namespace = |name| Some(fs::metadata(format!("/proc/self/ns/{name}")).ok()?.ino());
    // The file is about the children's.
    if namespace("time")? != namespace("time_for_children")? {
        return None;
    }
    parse(&fs::read_to_string("/proc/self/timens_offsets").ok()?)
}

/// The offset of the clock that counts suspended time, too.
fn parse(offsets: &str) -> Option<i64> {
    let mut words =
        offsets.lines().find_map(|line| line.strip_prefix("boottime"))?.split_whitespace();
    let (seconds, nanoseconds) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(milliseconds(seconds, nanoseconds))
}

fn milliseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_of_a_time_namespace_is_read() {
        let text = "monotonic           7         0\nboottime         -100 500000000\n";
        assert_eq!(parse(text), Some(-99_500));
        assert_eq!(parse("monotonic           0         0\n"), None);
        assert_eq!(parse("boottime x 0"), None);
    }
}
