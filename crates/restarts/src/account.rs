//! Who lost a connection: a server that had accepted it, or what chose the queue in which it waited.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use sk_reuseport::maps::{Array, MapData};
use sk_reuseport::programs::Program;
use sk_reuseport::{Ebpf, EbpfLoader, KernelBtf};
use zerocopy::{FromBytes, Immutable, IntoBytes};

static OBJECT: &[u8] = include_bytes!("../bpf/account.bpf.o");

/// `struct seen` in bpf/account.bpf.c.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Seen {
    born: u64,
    accepted: u64,
}

/// How far a connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reached {
    /// The server's kernel has not seen the end of the handshake.
    Handshake,
    /// It waited in an accept queue, and was not accepted.
    Queue,
    /// The server accepted it.
    Server,
}

/// Sees which connections to one port of the network namespace are accepted, for as long as it exists.
///
/// It asks the kernel's sockets: a connection that waits in an accept queue has no `struct socket`, an accepted one
/// has. What was not seen with one counts as not accepted, so an error of this account counts against what chose the
/// queue, never against the server.
#[derive(Debug)]
pub struct Account {
    _programs: Ebpf,
    connections: Array<MapData, Seen>,
}

/// A time of this machine, in nanoseconds, as the kernel's programs know it.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0));
    now.as_nanos() as u64
}

impl Account {
    /// Begins, for the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the tracing program.
    pub fn open(port: u16) -> Result<Self> {
        let netns = std::fs::metadata("/proc/thread-self/ns/net").context("no /proc")?.ino();
        let netns = u32::try_from(netns).context("an inode number of a network namespace")?;
        let mut programs = EbpfLoader::new()
            .override_global("server_netns", &netns, true)
            .override_global("server_port", &u32::from(port), true)
            .load(OBJECT)?;
        let btf = KernelBtf::from_sys_fs()?;
        for name in ["first", "second"] {
            let Some(Program::BtfTracePoint(program)) = programs.program_mut(name) else {
                bail!("no program {name}")
            };
            program.load("inet_sock_set_state", &btf)?;
            program.attach()?;
        }
        let connections = programs.take_map("connections").context("no map")?.try_into()?;
        Ok(Self { _programs: programs, connections })
    }

    /// What became of the connection from this port of the client, which began after `since`.
    ///
    /// Ask while the client's socket is open, so that no other connection has its port.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn of(&self, client: u16, since: u64) -> Result<Reached> {
        let seen = self.connections.get(&client.into(), 0)?;
        Ok(match seen {
            Seen { born, .. } if born < since => Reached::Handshake,
            Seen { accepted: 0, .. } => Reached::Queue,
            Seen { .. } => Reached::Server,
        })
    }
}
