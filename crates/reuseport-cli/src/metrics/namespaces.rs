//! What the kernel counts for a whole network namespace, read from a process that is in it.

use std::fs;

use crate::netns;

/// Events since the namespace was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counters {
    /// TcpExt ListenOverflows: an accept queue was full.
    pub(super) listen_overflows: Option<u64>,
    /// TcpExt ListenDrops: a listener dropped a packet, for that or another reason.
    pub(super) listen_drops: Option<u64>,
    /// Udp RcvbufErrors, IPv4 and IPv6: a receive buffer was full.
    pub(super) receive_buffer_errors: Option<u64>,
}

/// The counters of the namespace with this inode number. Of other namespaces than our own, only if one of these
/// processes is in it.
pub(super) fn counters(inode: u32, is_own: bool, pids: &[u32]) -> Option<Counters> {
    if is_own {
        return Some(read("/proc/self/net"));
    }
    let mut pids = pids.to_vec();
    pids.sort_unstable();
    pids.dedup();
    pids.into_iter().find_map(|pid| {
        let is_in_it = || netns::of_process(pid) == Some(inode);
        let counters = is_in_it().then(|| read(&format!("/proc/{pid}/net")))?;
        // Still the same process.
        is_in_it().then_some(counters)
    })
}

fn read(directory: &str) -> Counters {
    let file = |name: &str| fs::read_to_string(format!("{directory}/{name}")).unwrap_or_default();
    Counters::parse(&file("netstat"), &file("snmp"), &file("snmp6"))
}

impl Counters {
    fn parse(netstat: &str, snmp: &str, snmp6: &str) -> Self {
        let udp = in_table(snmp, "Udp:", "RcvbufErrors");
        let udp6 = in_list(snmp6, "Udp6RcvbufErrors");
        Self {
            listen_overflows: in_table(netstat, "TcpExt:", "ListenOverflows"),
            listen_drops: in_table(netstat, "TcpExt:", "ListenDrops"),
            receive_buffer_errors: udp.map(|udp| udp + udp6.unwrap_or(0)),
        }
    }
}

/// A value of a table in which a line of names precedes a line of values.
fn in_table(text: &str, table: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(table));
    let names = lines.next()?.split_whitespace();
    let values = lines.next()?.split_whitespace();
    names.zip(values).find(|(known, _)| *known == name)?.1.parse().ok()
}

/// A value of a list with a name and a value on each line.
fn in_list(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
    lines.find(|(known, _)| *known == name)?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_names() {
        let netstat = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 22 333\n\
                       IpExt: InNoRoutes\nIpExt: 4\n";
        let snmp = "Tcp: RtoMin\nTcp: 200\nUdp: InDatagrams RcvbufErrors\nUdp: 7 8\n\
                    UdpLite: InDatagrams RcvbufErrors\nUdpLite: 90 91\n";
        let snmp6 = "Ip6InReceives                   \t5\nUdp6RcvbufErrors                \t30\n";
        let counters = Counters::parse(netstat, snmp, snmp6);
        assert_eq!(counters.listen_overflows, Some(22));
        assert_eq!(counters.listen_drops, Some(333));
        assert_eq!(counters.receive_buffer_errors, Some(38));
        assert_eq!(Counters::parse("", snmp, "").receive_buffer_errors, Some(8));
        assert_eq!(Counters::parse("", "Udp: RcvbufErrors\n", ""), Counters::default());
    }

    #[test]
    fn a_namespace_is_read_from_a_process_that_is_in_it() {
        let own = netns::own().unwrap();
        let pid = std::process::id();
        assert!(counters(own, true, &[]).unwrap().listen_drops.is_some());
        assert!(counters(own, false, &[u32::MAX, pid]).unwrap().listen_drops.is_some());
        assert_eq!(counters(own, false, &[]), None);
        assert_eq!(counters(12, false, &[pid]), None, "it is in another one");
    }
}
