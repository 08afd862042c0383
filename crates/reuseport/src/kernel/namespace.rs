//! What a network namespace tells through /proc: its settings, and connected UDP sockets. Both are those of the reading
//! thread's namespace.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::model::proc_net::connected;
use crate::model::settings::NetSettings;

const OWN: &str = "/proc/thread-self/ns/net";
const NAMED: &str = "/run/netns";

/// What was read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Namespace {
    pub(crate) settings: NetSettings,
    /// The local addresses of its connected UDP sockets.
    pub(crate) connected: Vec<SocketAddr>,
}

/// Reads the namespace with this inode number, in which one of these processes may be.
///
/// # Errors
///
/// If the caller may not enter it (CAP_SYS_ADMIN), or no visible process is in it.
pub(crate) fn of_netns(inode: u32, pids: &[u32]) -> io::Result<Namespace> {
    if is(Path::new(OWN), inode) {
        return Ok(read());
    }
    let of_process = pids.iter().map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net")));
    let named = entries(Path::new(NAMED));
    // Nearly all threads are in the namespace of their process.
    let tasks = pids.iter().map(|pid| PathBuf::from(format!("/proc/{pid}/task")));
    let of_threads = tasks.flat_map(|tasks| entries(&tasks)).map(|thread| thread.join("ns/net"));
    let path = of_process.chain(named).chain(of_threads).find(|path| is(path, inode));
    let path = path.ok_or_else(|| io::Error::other("no visible thread is in it"))?;
    let namespace = File::open(path)?;
    // Namespaces belong to threads: this one ends in the other namespace.
    let look = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(read())
    };
    std::thread::scope(|scope| scope.spawn(look).join())
        .unwrap_or_else(|_| Err(io::Error::other("the thread that looks has ended")))
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn is(path: &Path, inode: u32) -> bool {
    fs::metadata(path).is_ok_and(|found| found.ino() == u64::from(inode))
}

fn read() -> Namespace {
    let sockets = |table| {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
        connected(&text).collect::<Vec<_>>()
    };
    Namespace { settings: settings(), connected: [sockets("udp"), sockets("udp6")].concat() }
}

fn settings() -> NetSettings {
    let mut settings = NetSettings::default();
    for (name, value) in [
        ("core/somaxconn", &mut settings.somaxconn),
        ("ipv4/tcp_max_syn_backlog", &mut settings.tcp_max_syn_backlog),
        ("ipv4/tcp_syncookies", &mut settings.tcp_syncookies),
        ("ipv4/tcp_migrate_req", &mut settings.tcp_migrate_req),
        ("core/rmem_default", &mut settings.rmem_default),
        ("core/rmem_max", &mut settings.rmem_max),
    ] {
        *value = number(&format!("/proc/sys/net/{name}"));
    }
    settings
}

/// The number in a file; `None` if it is not there, not readable, or no number.
pub(crate) fn number(path: &str) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
