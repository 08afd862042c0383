//! What /proc tells of a server: its sockets and its children. Asking there, rather than connecting,
//! leaves the server and its counters untouched.

use std::fs;

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// How many sockets listen (TCP) or are bound and unconnected (UDP) on `port`, IPv4 and IPv6
/// together, in the network namespace of process `pid`; 0 if there is no such process.
pub fn bound_sockets(pid: u32, transport: Transport, port: u16) -> usize {
    let (tables, state) = match transport {
        Transport::Tcp => (["tcp", "tcp6"], "0A"), // TCP_LISTEN, include/net/tcp_states.h
        Transport::Udp => (["udp", "udp6"], "07"), // TCP_CLOSE, what an unconnected UDP socket is in
    };
    tables
        .iter()
        .map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default())
        .map(|table| table.lines().filter(|line| is_bound(line, state, port)).count())
        .sum()
}

/// A line: `sl local_address rem_address st ...`, where an address is hexadecimal `IP:PORT`.
fn is_bound(line: &str, state: &str, port: u16) -> bool {
    let fields: Vec<&str> = line.split_whitespace().take(4).collect();
    let &[_, local, _, st] = fields.as_slice() else { return false };
    st == state && local.ends_with(&format!(":{port:04X}"))
}

/// The living children of all threads of `pid`, in the order of their ids.
pub(super) fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut children: Vec<u32> = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    children.sort_unstable();
    children
}

/// The command line of `pid`, its words joined by blanks; empty if there is no such process.
pub(super) fn command_line(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listeners_on_the_port_count() {
        let listening =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000";
        let accepted =
            "   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000";
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt";
        assert!(is_bound(listening, "0A", 8080));
        assert!(!is_bound(listening, "0A", 8081));
        assert!(!is_bound(accepted, "0A", 8080));
        assert!(!is_bound(head, "0A", 8080));
    }
}
