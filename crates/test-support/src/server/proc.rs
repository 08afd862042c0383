//! Sockets and children of a server from /proc, which, unlike connecting, does not affect its
//! counters. And processes of a server that are not children of the test.

use std::os::fd::OwnedFd;
use std::{fs, io};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::wait;

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// How many sockets listen on `port` (TCP) or are bound to it and unconnected (UDP), over IPv4 and
/// IPv6, in the network namespace of process `pid`; 0 if there is no such process.
pub fn bound_sockets(pid: u32, transport: Transport, port: u16) -> usize {
    bound(&pid.to_string(), transport, port)
}

/// Like [`bound_sockets`], in the network namespace of the calling thread.
pub fn bound_sockets_here(transport: Transport, port: u16) -> usize {
    bound("thread-self", transport, port)
}

fn bound(process: &str, transport: Transport, port: u16) -> usize {
    let (tables, state) = match transport {
        Transport::Tcp => (["tcp", "tcp6"], "0A"), // TCP_LISTEN, include/net/tcp_states.h
        Transport::Udp => (["udp", "udp6"], "07"), // TCP_CLOSE, the state of unconnected UDP sockets
    };
    tables
        .iter()
        .map(|table| fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap_or_default())
        .map(|table| table.lines().filter(|line| is_bound(line, state, port)).count())
        .sum()
}

/// Whether a socket in the network namespace of the calling thread has `port`, in any state.
pub(super) fn is_used_here(port: u16) -> bool {
    ["tcp", "tcp6", "udp", "udp6"]
        .iter()
        .map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")))
        .any(|table| table.is_ok_and(|table| table.lines().any(|line| has_port(line, port))))
}

fn has_port(line: &str, port: u16) -> bool {
    let local = line.split_whitespace().nth(1);
    local.is_some_and(|local| local.ends_with(&format!(":{port:04X}")))
}

/// A line: `sl local_address rem_address st ...`, where an address is hexadecimal `IP:PORT`.
fn is_bound(line: &str, state: &str, port: u16) -> bool {
    let fields: Vec<&str> = line.split_whitespace().take(4).collect();
    let &[_, _, _, st] = fields.as_slice() else { return false };
    st == state && has_port(line, port)
}

/// The children of all threads of `pid`, sorted.
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

/// How many descriptors process `pid` has open; 0 if there is no such process.
pub fn open_descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Sends a signal. It is not an error if the process has ended.
pub(super) fn send(pid: u32, signal: Signal) -> io::Result<()> {
    match kill_process(to_pid(pid)?, signal) {
        Err(errno) if errno != Errno::SRCH => Err(errno.into()),
        _ => Ok(()),
    }
}

/// Whether process `pid` has a handler for a signal; false if there is no such process.
pub(super) fn catches(pid: u32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    is_caught(&status, signal)
}

/// In the mask after `SigCgt:`, hexadecimal, the lowest bit is signal 1 (proc(5)).
fn is_caught(status: &str, signal: Signal) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
}

fn to_pid(pid: u32) -> io::Result<Pid> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| Errno::SRCH.into())
}

/// A process of a server that is not a child of the test, because its parent has ended. Its new
/// parent reaps it. Dropping this ends it (SIGTERM, then SIGKILL).
#[derive(Debug)]
pub(super) struct Orphan {
    pid: u32,
    process: OwnedFd,
}

impl Orphan {
    /// Opens a process, to end it when this is dropped.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[track_caller]
    pub(super) fn adopt(pid: u32) -> Self {
        let process = to_pid(pid)
            .and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?))
            .unwrap_or_else(|error| panic!("no process {pid}: {error}"));
        Self { pid, process }
    }

    /// The process id.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal. It is not an error if the process has ended.
    pub(super) fn signal(&self, signal: Signal) {
        match pidfd_send_signal(&self.process, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => panic!("cannot send {signal:?} to {}: {errno}", self.pid),
        }
    }

    /// Sends a signal, and waits until the process has ended.
    ///
    /// # Panics
    ///
    /// If it does not end within [`wait::BOUND`].
    #[track_caller]
    pub(super) fn stop(self, signal: Signal) {
        self.signal(signal);
        let seconds = wait::scaled(wait::BOUND).as_secs().cast_signed();
        assert!(self.ends_within(seconds), "{} does not end at {signal:?}", self.pid);
    }

    /// Whether it ends within a time.
    fn ends_within(&self, seconds: i64) -> bool {
        // The descriptor becomes readable when the process ends.
        let mut fds = [PollFd::new(&self.process, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: seconds, tv_nsec: 0 })) == Ok(1)
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        let children = children(self.pid);
        let ended = |signal| {
            let _ = pidfd_send_signal(&self.process, signal);
            self.ends_within(3)
        };
        if !ended(Signal::TERM) {
            children.into_iter().for_each(|child| drop(send(child, Signal::KILL)));
            if !ended(Signal::KILL) {
                eprintln!("cannot end process {}", self.pid);
            }
        }
    }
}

/// The command line of `pid`, joined by spaces; empty if there is no such process.
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
        assert!(has_port(accepted, 8080) && !has_port(accepted, 50000) && !has_port(head, 8080));
    }

    #[test]
    fn caught_signals_are_not_confused_with_ignored_ones() {
        let status = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000800\n\
                      SigCgt:\t0000000000000200\n";
        assert!(is_caught(status, Signal::USR1));
        assert!(!is_caught(status, Signal::USR2));
        assert!(!is_caught("", Signal::USR1));
    }
}
