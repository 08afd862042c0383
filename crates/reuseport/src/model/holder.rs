//! The processes that hold sockets: plain data.

use std::time::Duration;

/// A process's descriptor for a member. nginx's master and every worker hold every listener.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Holder {
    /// The process, in the caller's pid namespace.
    pub pid: u32,
    /// The descriptor in that process.
    pub fd: u32,
    /// The process's name (`comm`, at most 15 bytes).
    pub comm: String,
    /// The thread whose descriptor it is, where the pid does not lead to it: the main thread has ended, or
    /// this thread has descriptors of its own (`CLONE_FILES`).
    pub thread: Option<u32>,
    /// What it runs, and since when; `None` while it ends.
    pub origin: Option<Origin>,
}

/// What a process runs, and where it comes from. Processes of one server have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Origin {
    /// The file that it runs. A server that was upgraded runs another one.
    pub binary: Binary,
    /// The first process in its line of parents that runs the same file without a gap: the master of a server
    /// with workers, or the process itself. `None`: the caller's pid namespace does not show it.
    pub first: Option<u32>,
    /// When the first process began, since the host's boot.
    pub started: Duration,
}

/// An executable file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Binary {
    /// The device that it is on, as the kernel numbers it.
    pub device: u32,
    /// Its inode.
    pub inode: u64,
}
