//! The processes of workers: starting, signalling, and how they ended.

use std::fmt;
use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};
use command_fds::{CommandFdExt as _, FdMapping};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, UCred, recvmsg};
use rustix::process::{
    Pid, PidfdFlags, Signal, Uid, geteuid, getpgid, kill_process_group, pidfd_open,
    pidfd_send_signal,
};

use super::helper;
use super::machine::{Force, WorkerId};
use super::sockets::{Kept, duplicate};
use super::spec::{FIRST_FD, Listen, Output, fill_in};

/// What a worker is started with.
pub(super) struct Start<'a> {
    pub(super) id: WorkerId,
    /// The supervisor's.
    pub(super) name: &'a str,
    pub(super) command: &'a [String],
    pub(super) listen: &'a [Listen],
    pub(super) sockets: &'a [Kept],
    pub(super) output: Output,
}

/// A worker's process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: Pid,
    /// When it began, in clock ticks since boot: a pid may be used again.
    pub(super) began: u64,
    /// When this supervisor started it, or found it.
    pub(super) started: Instant,
    pidfd: OwnedFd,
    /// `None` of one that an earlier supervisor started.
    child: Option<Child>,
    /// Where it says that it is ready.
    pub(super) notify: UnixDatagram,
    pub(super) notify_name: String,
    /// What it said.
    pub(super) said_ready: bool,
    /// Whether a thread was seen waiting at each of its sockets.
    pub(super) seen_waiting: bool,
    /// What writes its output.
    pub(super) writer: Option<Child>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ended {
    Status(ExitStatus),
    /// It was another process's child.
    Unknown,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            Self::Unknown => f.write_str("status unknown"),
        }
    }
}

/// Variables of the supervisor that are not for its workers.
const OWN: [&str; 6] = [
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
];

impl Process {
    /// Starts a worker, in a process group of its own: what is typed at the terminal is for the supervisor.
    pub(super) fn start(start: &Start<'_>) -> Result<Self> {
        let failed = || format!("cannot start worker {}", start.id);
        let (notify, notify_name) = notify_socket(None).with_context(failed)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("reuseport").arg(helper::WORKER);
        command.args(fill_in(start.command, start.id.index, start.sockets.len()));
        for variable in OWN {
            command.env_remove(variable);
        }
        command.env("NOTIFY_SOCKET", format!("@{notify_name}"));
        command.env("REUSEPORT_WORKER", start.id.index.to_string());
        command.stdin(Stdio::null()).process_group(0);
        let mut mappings = Vec::new();
        if !start.sockets.is_empty() {
            pass(&mut command, start);
            for (fd, number) in duplicate(start.sockets)?.into_iter().zip(FIRST_FD..) {
                let child_fd = i32::try_from(number).with_context(failed)?;
                mappings.push(FdMapping { parent_fd: fd, child_fd });
            }
        }
        command.fd_mappings(mappings).with_context(failed)?;
        let writer = match start.output {
            Output::Inherit => None,
            Output::Prefix => Some(writer(start, &mut command).with_context(failed)?),
        };
        let child = command.spawn().with_context(failed)?;
        let process = || -> io::Result<(Pid, OwnedFd, u64)> {
            let pid = Pid::from_child(&child);
            Ok((pid, pidfd_open(pid, PidfdFlags::empty())?, began(pid)?))
        };
        let (pid, pidfd, began) = process().with_context(failed)?;
        Ok(Self {
            pid,
            began,
            started: Instant::now(),
            pidfd,
            child: Some(child),
            notify,
            notify_name,
            said_ready: false,
            seen_waiting: false,
            writer,
        })
    }

    /// The process with this pid that began then, if it lives.
    pub(super) fn adopt(pid: i32, since: u64, notify_name: &str, said_ready: bool) -> Option<Self> {
        let pid = Pid::from_raw(pid)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        if began(pid).ok()? != since || ends_soon(&pidfd) {
            return None;
        }
        let (notify, notify_name) =
            notify_socket(Some(notify_name)).or_else(|_| notify_socket(None)).ok()?;
        Some(Self {
            pid,
            began: since,
            started: Instant::now(),
            pidfd,
            child: None,
            notify,
            notify_name,
            said_ready,
            seen_waiting: false,
            writer: None,
        })
    }

    /// Whether another supervisor started it, which has ended.
    pub(super) fn is_adopted(&self) -> bool {
        self.child.is_none()
    }

    /// What it has said, or what a process of its process group or of its user has: any process may send to the socket.
    pub(super) fn hear(&self) -> Vec<String> {
        heard(&self.notify, |sender| {
            sender.uid.is_root()
                || sender.uid == geteuid()
                || getpgid(Some(sender.pid)) == Ok(self.pid)
                || uid(self.pid) == Some(sender.uid)
        })
    }

    /// It becomes readable when the process ends.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Asks the process to end; SIGKILL is for all of its process group.
    pub(super) fn signal(&self, force: Force) {
        let signal = match force {
            Force::Term => Signal::TERM,
            Force::Kill => Signal::KILL,
        };
        // It may have ended.
        let _ = pidfd_send_signal(&self.pidfd, signal);
        if force == Force::Kill {
            let _ = kill_process_group(self.pid, signal);
        }
    }

    /// Collects it, after its end. What it left running is asked to end, too: it may hold the worker's sockets.
    pub(super) fn collect(&mut self) -> Ended {
        let _ = kill_process_group(self.pid, Signal::TERM);
        match self.child.as_mut().map(Child::wait) {
            Some(Ok(status)) => Ended::Status(status),
            _ => Ended::Unknown,
        }
    }
}

/// Says which sockets are passed, in the ways that servers know.
fn pass(command: &mut Command, start: &Start<'_>) {
    let names: Vec<String> = start.listen.iter().map(Listen::fd_name).collect();
    let ports: Vec<String> = start
        .listen
        .iter()
        .zip(FIRST_FD..)
        .map(|(listen, fd)| format!("{}={fd}", listen.address))
        .collect();
    command.env("LISTEN_FDS", start.sockets.len().to_string());
    command.env("LISTEN_FDNAMES", names.join(":"));
    command.env("SERVER_STARTER_PORT", ports.join(";"));
}

/// Starts what writes a worker's output, and lets the worker write to it.
fn writer(start: &Start<'_>, command: &mut Command) -> io::Result<Child> {
    let (reader, output) = io::pipe()?;
    let mut writer = Command::new("/proc/self/exe");
    writer.arg0("reuseport").arg(helper::PREFIX);
    writer.arg(format!("{}.{}", start.name, start.id.index)).stdin(reader).process_group(0);
    for variable in OWN {
        writer.env_remove(variable);
    }
    command.stdout(output.try_clone()?).stderr(output);
    writer.spawn()
}

/// The datagrams that came from senders of whom `may` says so, a few at once.
fn heard(socket: &UnixDatagram, may: impl Fn(&UCred) -> bool) -> Vec<String> {
    const AT_ONCE: usize = 16;

    let mut said = Vec::new();
    for _ in 0..AT_ONCE {
        let mut text = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut text)];
        let Ok(received) = recvmsg(socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) else {
            break;
        };
        let mut senders = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(sender) => Some(sender),
            _ => None,
        });
        if senders.any(|sender| may(&sender)) {
            said.push(String::from_utf8_lossy(&text[..received.bytes]).into_owned());
        }
    }
    said
}

/// The user as whom a process runs.
fn uid(pid: Pid) -> Option<Uid> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    // Real, effective, saved, and that of the file system.
    Some(Uid::from_raw(uids.split_whitespace().nth(1)?.parse().ok()?))
}

/// A socket in the abstract namespace, which tells who sends: /proc/net/unix shows its name to everyone.
fn notify_socket(name: Option<&str>) -> io::Result<(UnixDatagram, String)> {
    let name = match name {
        Some(name) => name.to_owned(),
        None => {
            let mut random = [0_u8; 16];
            fs::File::open("/dev/urandom")
                .and_then(|mut f| io::Read::read_exact(&mut f, &mut random))?;
            let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("reuseport/{hex}")
        }
    };
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    socket.set_nonblocking(true)?;
    set_socket_passcred(&socket, true)?;
    Ok((socket, name))
}

/// When a process began: field 22 of /proc/PID/stat, in clock ticks since boot.
fn began(pid: Pid) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    // The name, in parentheses, may have spaces.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let began = rest.split_whitespace().nth(19).and_then(|field| field.parse().ok());
    began.ok_or_else(|| io::Error::from(Errno::SRCH))
}

/// Whether the process has ended and is not collected yet.
fn ends_soon(pidfd: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::process::id;

    use rustix::process::getuid;

    use super::*;

    #[test]
    fn what_is_said_counts_by_who_says_it() {
        let (socket, name) = notify_socket(None).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        let to = SocketAddr::from_abstract_name(&name).unwrap();
        let say = |text: &[u8]| sender.send_to_addr(text, &to).unwrap();
        say(b"READY=1");
        assert_eq!(heard(&socket, |_| false), [""; 0]);
        say(b"READY=1");
        let me = |sender: &UCred| {
            sender.pid.as_raw_nonzero().get().unsigned_abs() == id() && sender.uid == getuid()
        };
        assert_eq!(heard(&socket, me), ["READY=1"]);
        assert_eq!(uid(rustix::process::getpid()), Some(geteuid()));
    }
}
