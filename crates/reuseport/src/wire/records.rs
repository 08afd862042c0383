//! The records that the iterators of `bpf/observe.bpf.c` write, in the layout of `bpf/wire/record.h`, and
//! their parser.

mod raw;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use zerocopy::FromBytes;

use super::config;
use crate::model::group::{
    AttachedProgram, Binary, Device, Holder, NotAsked, Origin, Protocol, Queue,
};
use crate::model::id::{Cookie, Netns};
use crate::model::owner::Thread;
use raw::{
    Header, RawAwaited, RawEnd, RawEpoll, RawHolder, RawMember, RawReader, RawWaiter, RawWatch,
};

/// `AF_INET` and `AF_INET6` (`include/linux/socket.h`), the same on every architecture.
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// One socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberRecord {
    /// `None`: no process has ever asked for it.
    pub(crate) cookie: Option<Cookie>,
    pub(crate) sock_address: u64,
    pub(crate) netns: Netns,
    /// The kernel's id of the group, reused once the group is gone.
    pub(crate) reuseport_id: u32,
    pub(crate) uid: u32,
    pub(crate) device: Option<Device>,
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
    pub(crate) v6only: bool,
    pub(crate) queue: Queue,
    pub(crate) program: Option<AttachedProgram>,
    pub(crate) standing: Standing,
    pub(crate) not_asked: Vec<NotAsked>,
    pub(crate) made: Made,
    pub(crate) drops: u32,
    /// `None`: not looked at.
    pub(crate) waiters: Option<u32>,
}

/// How a socket was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Made {
    /// `SO_REUSEADDR`.
    pub(crate) reuseaddr: bool,
    /// `SO_REUSEPORT`, perhaps since after bind.
    pub(crate) reuseport: bool,
    /// It belongs to an MPTCP listener.
    pub(crate) mptcp: bool,
    /// `TCP_DEFER_ACCEPT`.
    pub(crate) deferring: bool,
    /// TCP: `IP_TRANSPARENT`.
    pub(crate) transparent: bool,
}

/// The bits of `enum made`, and the number for sockets of which it was not seen who waits for them.
const MADE: [u32; 5] = [1, 2, 4, 8, 16];
const WAITERS_UNKNOWN: u32 = u32::MAX;

/// The bits of `enum not_asked`.
const NOT_ASKED: [(u32, NotAsked); 3] =
    [(1, NotAsked::Multicast), (2, NotAsked::Broadcast), (4, NotAsked::Transparent)];

/// What a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// A member of its group.
    Member,
    /// A member that belongs to an MPTCP listener.
    Mptcp,
    /// A UDP socket with `SO_REUSEPORT` that is in no group.
    Outside,
    /// Another socket that is in no group, on the port that was asked for.
    Plain,
}

/// One descriptor of a socket that may be a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HolderRecord {
    pub(crate) sock_address: u64,
    pub(crate) cookie: Option<Cookie>,
    /// `None` if the reader's pid namespace does not show the process.
    pub(crate) holder: Option<Holder>,
}

/// A record of a kernel program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// The namespace of the reading thread.
    Reader(Netns),
    /// A socket.
    Member(MemberRecord),
    /// A descriptor of a socket.
    Holder(HolderRecord),
    /// The epoll instance at this address watches the socket at that address; `None`: too many do.
    Watch { sock_address: u64, epoll: Option<u64> },
    /// This process has the epoll instance at this address; `None`: it is not visible.
    Epoll { epoll: u64, pid: Option<u32> },
    /// This thread waits for the socket, or in epoll_wait for the instance, at this address; `None`: one that is not
    /// visible, or others that were not seen may.
    Waiter { object: u64, thread: Option<Thread> },
    /// The end of the kernel's tables.
    End,
    /// The socket at this address, which was asked for, is waited for now.
    Awaited { sock_address: u64 },
}

/// The bytes are not what the kernel programs of this version write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("a record at byte {at} is cut off: {left} bytes are left")]
    Truncated { at: usize, left: usize },
    #[error("a record at byte {at} has the unknown kind {kind}")]
    UnknownKind { at: usize, kind: u32 },
    #[error("a record at byte {at} of kind {kind} claims {size} bytes")]
    WrongSize { at: usize, kind: u32, size: u32 },
    #[error("a record at byte {at} has an impossible {field}: {value}")]
    Impossible { at: usize, field: &'static str, value: u64 },
}

/// All records in `bytes`, which must end with the end of a record.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Record>, RecordError> {
    let mut records = Vec::with_capacity(bytes.len() / size_of::<RawMember>());
    let mut at = 0;
    while at < bytes.len() {
        let (record, size) = parse_one(bytes, at)?;
        records.push(record);
        at += size;
    }
    Ok(records)
}

/// The record that begins at byte `at`, and how many bytes it takes.
fn parse_one(bytes: &[u8], at: usize) -> Result<(Record, usize), RecordError> {
    let rest = &bytes[at..];
    let header: Header = read(rest, at)?;
    let expected = match header.kind {
        1 => size_of::<RawReader>(),
        2 => size_of::<RawMember>(),
        3 => size_of::<RawWatch>(),
        4 => size_of::<RawEpoll>(),
        5 => size_of::<RawHolder>(),
        6 => size_of::<RawEnd>(),
        7 => size_of::<RawWaiter>(),
        8 => size_of::<RawAwaited>(),
        kind => return Err(RecordError::UnknownKind { at, kind }),
    };
    if header.size as usize != expected {
        return Err(RecordError::WrongSize { at, kind: header.kind, size: header.size });
    }
    let record = match header.kind {
        1 => reader(read(rest, at)?),
        2 => Record::Member(member(&read(rest, at)?, at)?),
        3 => watch(&read(rest, at)?),
        4 => epoll(&read(rest, at)?),
        5 => Record::Holder(holder(&read(rest, at)?)),
        7 => waiter(&read(rest, at)?),
        8 => awaited(&read(rest, at)?),
        _ => Record::End,
    };
    Ok((record, expected))
}

fn read<T: FromBytes>(rest: &[u8], at: usize) -> Result<T, RecordError> {
    T::read_from_prefix(rest)
        .map(|(value, _)| value)
        .map_err(|_| RecordError::Truncated { at, left: rest.len() })
}

fn reader(raw: RawReader) -> Record {
    Record::Reader(Netns { cookie: raw.netns_cookie, inode: raw.netns_inode })
}

fn watch(raw: &RawWatch) -> Record {
    Record::Watch { sock_address: raw.sock_address, epoll: (raw.epoll != 0).then_some(raw.epoll) }
}

fn epoll(raw: &RawEpoll) -> Record {
    Record::Epoll { epoll: raw.epoll, pid: (raw.pid != 0).then_some(raw.pid) }
}

fn waiter(raw: &RawWaiter) -> Record {
    let thread = (raw.pid != 0).then_some(Thread { pid: raw.pid, tid: raw.tid });
    Record::Waiter { object: raw.object, thread }
}

fn awaited(raw: &RawAwaited) -> Record {
    Record::Awaited { sock_address: raw.sock_address }
}

fn member(raw: &RawMember, at: usize) -> Result<MemberRecord, RecordError> {
    let impossible = |field, value| RecordError::Impossible { at, field, value };
    let [a, b, c, d, ..] = raw.address;
    let ip = match raw.family {
        AF_INET => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        AF_INET6 => IpAddr::V6(Ipv6Addr::from(raw.address)),
        other => return Err(impossible("address family", other.into())),
    };
    let protocol = config::protocol(raw.protocol)
        .ok_or_else(|| impossible("protocol", raw.protocol.into()))?;
    let standing = match raw.standing {
        0 => Standing::Member,
        1 => Standing::Mptcp,
        2 => Standing::Outside,
        3 => Standing::Plain,
        other => return Err(impossible("standing", other.into())),
    };
    Ok(MemberRecord {
        cookie: Cookie::new(raw.cookie),
        sock_address: raw.sock_address,
        netns: Netns { cookie: raw.netns_cookie, inode: raw.netns_inode },
        reuseport_id: raw.reuseport_id,
        uid: raw.uid,
        device: (raw.device != 0).then(|| {
            let name = text(&raw.device_name);
            Device { index: raw.device, name: Some(name).filter(|name| !name.is_empty()) }
        }),
        protocol,
        address: SocketAddr::new(ip, raw.port),
        v6only: raw.v6only != 0,
        queue: Queue { waiting: raw.waiting, half_open: raw.half_open, limit: raw.limit },
        program: (raw.has_program != 0).then(|| AttachedProgram {
            id: (raw.program_id != 0).then_some(raw.program_id),
            name: text(&raw.program_name),
        }),
        standing,
        not_asked: NOT_ASKED
            .iter()
            .filter(|(bit, _)| raw.not_asked & bit != 0)
            .map(|n| n.1)
            .collect(),
        made: made(raw.made),
        drops: raw.drops,
        waiters: (raw.waiters != WAITERS_UNKNOWN).then_some(raw.waiters),
    })
}

fn made(bits: u32) -> Made {
    let [reuseaddr, reuseport, mptcp, deferring, transparent] = MADE.map(|bit| bits & bit != 0);
    Made { reuseaddr, reuseport, mptcp, deferring, transparent }
}

fn holder(raw: &RawHolder) -> HolderRecord {
    let holder = (raw.pid != 0).then(|| Holder {
        pid: raw.pid,
        fd: raw.fd,
        comm: text(&raw.comm),
        thread: (raw.tid != raw.pid).then_some(raw.tid),
        origin: (raw.binary_inode != 0).then(|| Origin {
            binary: Binary { device: raw.binary_device, inode: raw.binary_inode },
            first: (raw.first_pid != 0).then_some(raw.first_pid),
            started: Duration::from_nanos(raw.first_started),
        }),
    });
    HolderRecord { sock_address: raw.sock_address, cookie: Cookie::new(raw.cookie), holder }
}

/// Text up to the first NUL; processes may name themselves by any bytes.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
