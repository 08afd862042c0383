//! Groups and their members as the kernel sees them: plain data.
//!
//! [`Host::groups`](crate::Host::groups) lists them. Pinned state (policy, slots, picks) is in
//! [`status`](crate::model::status).

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use crate::model::id::{Cookie, Netns};
use crate::model::written::{Parts, Written, name_or_number};

pub use crate::model::holder::{Binary, Holder, Origin};
pub use crate::model::name::{listed, misspelt};

/// The transport protocol of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP: members are listeners, and the group distributes connections.
    Tcp,
    /// UDP: members are bound sockets, and the group distributes datagrams.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A network device that sockets are bound to (`SO_BINDTODEVICE`). Two are equal if their indices are: a name may change,
/// and is not always known.
#[derive(Debug, Clone)]
pub struct Device {
    /// The interface's index in the group's network namespace.
    pub index: u32,
    /// Its name, where it is known. Processes of any network namespace may name their devices by nearly any bytes.
    pub name: Option<String>,
}

impl Device {
    /// Its name, or its index where that is not known or cannot be typed.
    pub(crate) fn text(&self) -> String {
        name_or_number(self.name.as_deref(), self.index)
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
    }
}

impl Eq for Device {}

impl PartialOrd for Device {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Device {
    fn cmp(&self, other: &Self) -> Ordering {
        self.index.cmp(&other.index)
    }
}

impl Hash for Device {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.index.hash(state);
    }
}

/// The identity of a group.
///
/// Sockets that agree in all of these fields but [`of`](Self::of) are one group, with one exception: while a
/// UDP socket that left its group by connecting is open, the kernel may put sockets that are bound next to it
/// into another group of the same name. [`Reach`] says which of the two gets the traffic. Where `of` is `None`
/// and several groups have the name, operations mean the one that this tool steers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct GroupKey {
    /// The network namespace that the sockets are in.
    pub netns: Netns,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address and port that the sockets are bound to.
    pub address: SocketAddr,
    /// Whether IPv6 sockets refuse IPv4 traffic (`IPV6_V6ONLY`); false for IPv4 sockets.
    pub v6only: bool,
    /// The device that the sockets are bound to.
    pub device: Option<Device>,
    /// The user who owns the sockets, as the host's user id.
    pub uid: u32,
    /// Where several groups have the same name: a member of this one.
    pub of: Option<Cookie>,
    /// How it is written.
    pub(crate) written: Written,
}

impl GroupKey {
    /// The key of a group of root's sockets that are bound to no device.
    pub fn new(netns: Netns, protocol: Protocol, address: SocketAddr) -> Self {
        let written = Written::default();
        Self { netns, protocol, address, v6only: false, device: None, uid: 0, of: None, written }
    }

    /// The key without [`of`](Self::of): the name alone, which several groups may have.
    #[must_use]
    pub fn name_only(&self) -> Self {
        Self { of: None, ..self.clone() }
    }

    /// Its text with the network namespace, as a reader in another one writes it: `tcp:0.0.0.0:80,netns=blue`.
    pub fn with_netns(&self) -> String {
        let written = Written { netns: true, ..self.written.clone() };
        Self { written, ..self.clone() }.to_string()
    }

    /// Whether both have the same name.
    pub(crate) fn has_name_of(&self, other: &Self) -> bool {
        let name = |key: &Self| (key.netns, key.protocol, key.address, key.v6only, key.uid);
        name(self) == name(other) && self.device == other.device
    }
}

/// The form that the command accepts: `tcp:127.0.0.1:8080`, `udp:[::]:53`, `tcp:0.0.0.0%eth0:80`. What told the
/// group apart from others when it was listed follows: `tcp:[::]:80,v6only`, `udp:127.0.0.1:53,uid=33`,
/// `udp:127.0.0.1:53,of=cookie:7`.
impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.protocol)?;
        match self.address.ip() {
            IpAddr::V4(ip) => write!(f, "{ip}")?,
            IpAddr::V6(ip) => write!(f, "[{ip}]")?,
        }
        if let Some(device) = &self.device {
            write!(f, "%{}", device.text())?;
        }
        write!(f, ":{}", self.address.port())?;
        let Written { v6only, uid, netns, .. } = self.written;
        let parts = Parts {
            v6only,
            uid: uid.then_some(self.uid),
            netns: netns.then(|| self.written.netns_text(self.netns.inode)),
            of: self.of.map(|cookie| format!("cookie:{cookie}")),
        };
        parts.fmt(f)
    }
}

/// Which of several groups of one name gets the traffic: all of it goes to the one that the kernel finds first,
/// and its program is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Reach {
    /// No other group has the name.
    #[default]
    Alone,
    /// The kernel finds this one first.
    First,
    /// The kernel finds another one first: what is new does not reach this one.
    Behind,
    /// Another group has the name, and the kernel's tables cannot be read.
    Unknown,
}

impl Reach {
    /// A word for programs: `alone`, `first`, `behind`, `unknown`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::First => "first",
            Self::Behind => "behind",
            Self::Unknown => "unknown",
        }
    }

    /// Whether several groups have the name.
    pub fn is_split(self) -> bool {
        self != Self::Alone
    }
}

/// A member's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Queue {
    /// TCP: connections that wait to be accepted. UDP: bytes that wait to be read.
    pub waiting: u32,
    /// TCP: half-open requests (SYN received, handshake not finished). UDP: 0.
    pub half_open: u32,
    /// TCP: the accept queue's limit (`listen`'s backlog). UDP: the receive buffer, in bytes.
    pub limit: u32,
}

/// Why a member cannot be given a slot: that takes a descriptor of its socket, and a map that accepts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Unborrowable {
    /// It belongs to an MPTCP listener, which no socket array and no socket map accepts.
    Mptcp,
    /// No visible process has a descriptor of it: it is in an io_uring's file table, in flight between two
    /// processes (`SCM_RIGHTS`), or held in another pid namespace.
    NoHolder,
}

impl Unborrowable {
    /// A word for programs: `mptcp`, `no-holder`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mptcp => "mptcp",
            Self::NoHolder => "no-holder",
        }
    }

    /// What to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Mptcp => "let the server listen without MPTCP (Go: GODEBUG=multipathtcp=0)",
            Self::NoHolder => {
                "if a process of another pid namespace holds it, run this on the host; a server \
                 that uses io_uring has to keep the listener's descriptor open"
            }
        }
    }
}

/// A clause about the socket: "no visible process has a descriptor of it".
impl fmt::Display for Unborrowable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mptcp => "it belongs to an MPTCP listener, which the kernel lets no program select",
            Self::NoHolder => {
                "no visible process has a descriptor of it (io_uring, in flight, or another pid namespace)"
            }
        })
    }
}

/// Datagrams that may reach a UDP socket without any program being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum NotAsked {
    /// To a multicast address: the socket has joined a multicast group, or is bound to one. The kernel copies
    /// such a datagram to every socket that takes it.
    Multicast,
    /// To a broadcast address: the socket has `SO_BROADCAST`. The same.
    Broadcast,
    /// Through TPROXY: the socket has `IP_TRANSPARENT`. The kernel's hash chooses.
    Transparent,
}

impl NotAsked {
    /// A word for programs: `multicast`, `broadcast`, `transparent`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Transparent => "transparent",
        }
    }
}

/// The datagrams: "multicast datagrams".
impl fmt::Display for NotAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Multicast => "multicast datagrams",
            Self::Broadcast => "broadcast datagrams",
            Self::Transparent => "datagrams through TPROXY",
        })
    }
}

/// One socket of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// The socket; `None` if no process has ever asked for its cookie and none that is visible holds it.
    pub cookie: Option<Cookie>,
    /// Every visible descriptor of it on the host.
    pub holders: Vec<Holder>,
    /// Whether it belongs to an MPTCP listener (`IPPROTO_MPTCP`).
    pub mptcp: bool,
    /// Its queue.
    pub queue: Queue,
    /// UDP: what may reach it without any program being asked, as far as its options tell.
    pub not_asked: Vec<NotAsked>,
    /// How many packets the kernel has dropped at it since it was made, modulo 2^32: its queue was full, mostly;
    /// also checksums that were wrong, and connections that could not be made. 0 in looks of a watcher.
    pub drops: u32,
    /// How many wait for it at this moment, up to 16: epoll instances that watch it, which they do as long as
    /// it is registered there, and threads that are in accept, poll, select or a read, or that an io_uring
    /// does it for. `None` where that is not seen: of an MPTCP listener, of a queue that changed meanwhile, and in looks of
    /// a watcher.
    pub waiters: Option<u32>,
    /// TCP: whether a connection is accepted only when the client has sent something (`TCP_DEFER_ACCEPT`). Until
    /// then it counts as half-open. False in looks of a watcher.
    pub defers_accept: bool,
    /// TCP: whether it has `IP_TRANSPARENT`, so that TPROXY may give it connections to any address. False in looks of
    /// a watcher.
    pub transparent: bool,
    /// The address of its `struct sock` in the kernel. Never shown to users, and never in a map that
    /// ordinary users may read.
    pub(crate) sock_address: KernelAddress,
    /// The protocol of its group.
    pub(crate) protocol: Protocol,
}

impl Member {
    /// Why it cannot be given a slot; `None` if it should be possible.
    pub fn unborrowable(&self) -> Option<Unborrowable> {
        match (self.mptcp, self.holders.is_empty()) {
            (true, _) => Some(Unborrowable::Mptcp),
            (false, true) => Some(Unborrowable::NoHolder),
            (false, false) => None,
        }
    }

    /// Whether its queue is full, so that the kernel drops whatever comes next. An accept queue takes one more than
    /// its limit (`sk_acceptq_is_full`). A receive buffer is full when it has less room than the smallest datagram
    /// takes, unless it is empty (`__udp_enqueue_schedule_skb`); a larger datagram may be dropped before, and kernels
    /// before Linux 6.18 take one more.
    pub fn is_full(&self) -> bool {
        /// Its memory: a `struct sk_buff` and the smallest buffer. Some kernels charge a little more.
        const SMALLEST_DATAGRAM: u32 = 768;

        let Queue { waiting, limit, .. } = self.queue;
        match self.protocol {
            Protocol::Tcp => waiting > limit,
            Protocol::Udp => waiting > 0 && waiting.saturating_add(SMALLEST_DATAGRAM) > limit,
        }
    }

    /// Whether the socket with this cookie, at the same address in the kernel in a later listing, is this one: the
    /// kernel may have given the address to another one.
    pub(crate) fn is_still(&self, cookie: Option<Cookie>) -> bool {
        self.cookie.is_none() || self.cookie == cookie
    }

    /// Its name in a sentence: "socket 12".
    pub(crate) fn label(&self) -> String {
        match self.cookie {
            Some(cookie) => format!("socket {cookie}"),
            None => self.name(),
        }
    }

    /// Its name as users type it, `cookie:N`, or what is known of it: "fd 7 of pid 1234".
    pub fn name(&self) -> String {
        match (self.cookie, self.holders.first()) {
            (Some(cookie), _) => format!("cookie:{cookie}"),
            (None, Some(Holder { pid, fd, .. })) => format!("fd {fd} of pid {pid}"),
            (None, None) => "a socket without cookie and holder".to_owned(),
        }
    }
}

/// An address in the kernel. `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct KernelAddress(pub(crate) u64);

impl fmt::Debug for KernelAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KernelAddress(..)")
    }
}

/// The program that decides for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttachedProgram {
    /// Its id; `None` for a classic BPF program (`SO_ATTACH_REUSEPORT_CBPF`).
    pub id: Option<u32>,
    /// Its name, empty for a classic program.
    pub name: String,
}

/// A group: the sockets among which the kernel balances.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Group {
    /// The identity of the group.
    pub key: GroupKey,
    /// Its members, by cookie; those without one come last.
    pub members: Vec<Member>,
    /// UDP sockets with `SO_REUSEPORT` on the same address that are in no group and not connected: they were
    /// connected once and have disconnected, or set the option after bind. The kernel prefers one that comes
    /// first in its table, and no program is asked then.
    pub outside: Vec<Member>,
    /// The program that decides; `None`: the kernel's hash does.
    pub program: Option<AttachedProgram>,
    /// Whether the members are from the kernel's tables. Otherwise they are those sockets that a visible
    /// process has a descriptor of: before Linux 5.19, and for UDP in a network namespace that has a table of
    /// its own (`net.ipv4.udp_child_hash_entries`).
    pub complete: bool,
    /// Whether other groups have its name, and which of them gets the traffic.
    pub reach: Reach,
}

impl Group {
    /// The pids of all processes that hold a member, sorted, without duplicates.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids: Vec<u32> =
            self.members.iter().flat_map(|m| m.holders.iter().map(|h| h.pid)).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// What may reach its members without any program being asked, sorted, without duplicates.
    pub fn not_asked(&self) -> Vec<NotAsked> {
        let mut all: Vec<NotAsked> =
            self.members.iter().flat_map(|m| m.not_asked.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The id of the program that decides; `None` without a program or for a classic one.
    pub(crate) fn attached_id(&self) -> Option<u32> {
        self.program.as_ref()?.id
    }

    /// The member with this cookie.
    pub fn member(&self, cookie: Cookie) -> Option<&Member> {
        self.members.iter().find(|m| m.cookie == Some(cookie))
    }
}

/// Groups for unit tests.
#[cfg(test)]
pub(crate) mod examples {
    use super::*;

    pub(crate) fn key(protocol: Protocol, address: &str) -> GroupKey {
        GroupKey::new(Netns { cookie: 1, inode: 2 }, protocol, address.parse().unwrap())
    }

    /// A member with this cookie, held by no process.
    pub(crate) fn member(protocol: Protocol, cookie: u64) -> Member {
        Member {
            cookie: Cookie::new(cookie),
            holders: Vec::new(),
            mptcp: false,
            queue: Queue::default(),
            not_asked: Vec::new(),
            drops: 0,
            waiters: Some(1),
            defers_accept: false,
            transparent: false,
            sock_address: KernelAddress(cookie),
            protocol,
        }
    }

    /// A group that the kernel's hash decides for.
    pub(crate) fn group(key: GroupKey, members: Vec<Member>) -> Group {
        Group {
            key,
            members,
            outside: Vec::new(),
            program: None,
            complete: true,
            reach: Reach::Alone,
        }
    }
}
