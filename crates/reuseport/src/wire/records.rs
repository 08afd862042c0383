//! The records that the iterators of `bpf/observe.bpf.c` write, in the layout of `bpf/wire/record.h`, and
//! their parser.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::config;
use crate::model::group::{AttachedProgram, Holder, NotAsked, Protocol, Queue};
use crate::model::id::{Cookie, Netns};

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    kind: u32,
    size: u32,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawReader {
    header: Header,
    netns_cookie: u64,
    netns_inode: u32,
    pad: u32,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawMember {
    header: Header,
    cookie: u64,
    sock_address: u64,
    netns_cookie: u64,
    netns_inode: u32,
    reuseport_id: u32,
    uid: u32,
    device: u32,
    waiting: u32,
    half_open: u32,
    limit: u32,
    program_id: u32,
    family: u16,
    port: u16,
    protocol: u8,
    v6only: u8,
    has_program: u8,
    standing: u8,
    address: [u8; 16],
    program_name: [u8; 16],
    not_asked: u32,
    pad: u32,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawHolder {
    header: Header,
    sock_address: u64,
    cookie: u64,
    pid: u32,
    tid: u32,
    fd: u32,
    pad: u32,
    comm: [u8; 16],
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawWatch {
    header: Header,
    sock_address: u64,
    epoll: u64,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawEpoll {
    header: Header,
    epoll: u64,
    pid: u32,
    fd: u32,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawEnd {
    header: Header,
}

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
    pub(crate) device: Option<u32>,
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
    pub(crate) v6only: bool,
    pub(crate) queue: Queue,
    pub(crate) program: Option<AttachedProgram>,
    pub(crate) standing: Standing,
    pub(crate) not_asked: Vec<NotAsked>,
}

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
    /// The end of the kernel's tables.
    End,
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
        other => return Err(impossible("standing", other.into())),
    };
    Ok(MemberRecord {
        cookie: Cookie::new(raw.cookie),
        sock_address: raw.sock_address,
        netns: Netns { cookie: raw.netns_cookie, inode: raw.netns_inode },
        reuseport_id: raw.reuseport_id,
        uid: raw.uid,
        device: (raw.device != 0).then_some(raw.device),
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
    })
}

fn holder(raw: &RawHolder) -> HolderRecord {
    let holder = (raw.pid != 0).then(|| Holder {
        pid: raw.pid,
        fd: raw.fd,
        comm: text(&raw.comm),
        thread: (raw.tid != raw.pid).then_some(raw.tid),
    });
    HolderRecord { sock_address: raw.sock_address, cookie: Cookie::new(raw.cookie), holder }
}

/// Text up to the first NUL; processes may name themselves by any bytes.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mirror::{assert_mirrors, object};
    use proptest::prelude::*;

    /// A member record as the kernel writes it: every field in its place, by hand.
    fn member_bytes() -> Vec<u8> {
        let mut b = Vec::new();
        for word in [2u32, 112] {
            b.extend(word.to_ne_bytes());
        }
        for word in [77u64, 0xffff_8880_1234_5678, 5] {
            b.extend(word.to_ne_bytes());
        }
        for word in [4026531840u32, 9, 1000, 0, 20, 3, 128, 31] {
            b.extend(word.to_ne_bytes());
        }
        for half in [AF_INET, 8080] {
            b.extend(half.to_ne_bytes());
        }
        b.extend([config::protocol_number(Protocol::Tcp), 0, 1, 1]);
        b.extend([127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        b.extend(*b"select_main_prog");
        b.extend([5u32, 0].map(u32::to_ne_bytes).concat());
        b
    }

    fn holder_bytes(pid: u32, tid: u32) -> Vec<u8> {
        let mut b = [5u32, 56].map(u32::to_ne_bytes).concat();
        b.extend([0xffff_8880_1234_5678u64, 77].map(u64::to_ne_bytes).concat());
        b.extend([pid, tid, 7, 0].map(u32::to_ne_bytes).concat());
        b.extend(*b"nginx\0\0\0\0\0\0\0\0\0\0\0");
        b
    }

    #[test]
    fn a_member_is_read_field_by_field() {
        let records = parse(&member_bytes()).unwrap();
        let expected = MemberRecord {
            cookie: Cookie::new(77),
            sock_address: 0xffff_8880_1234_5678,
            netns: Netns { cookie: 5, inode: 4026531840 },
            reuseport_id: 9,
            uid: 1000,
            device: None,
            protocol: Protocol::Tcp,
            address: "127.0.0.1:8080".parse().unwrap(),
            v6only: false,
            queue: Queue { waiting: 20, half_open: 3, limit: 128 },
            program: Some(AttachedProgram { id: Some(31), name: "select_main_prog".into() }),
            standing: Standing::Mptcp,
            not_asked: vec![NotAsked::Multicast, NotAsked::Transparent],
        };
        assert_eq!(records, [Record::Member(expected)]);
    }

    #[test]
    fn a_cookie_that_was_never_asked_for_and_the_id_of_a_classic_program_are_none() {
        let mut bytes = member_bytes();
        bytes[8..16].fill(0); // cookie
        bytes[60..64].fill(0); // program_id
        let [Record::Member(member)] = &parse(&bytes).unwrap()[..] else { panic!("no member") };
        assert_eq!(member.cookie, None);
        assert_eq!(member.program.as_ref().unwrap().id, None);
    }

    #[test]
    fn a_holder_has_a_thread_only_if_its_process_does_not_name_the_descriptor() {
        let of = |pid, tid| match &parse(&holder_bytes(pid, tid)).unwrap()[..] {
            [Record::Holder(record)] => record.clone(),
            other => panic!("{other:?}"),
        };
        let comm = || "nginx".to_owned();
        let record = of(4242, 4242);
        assert_eq!(record.sock_address, 0xffff_8880_1234_5678);
        assert_eq!(record.cookie, Cookie::new(77));
        assert_eq!(record.holder, Some(Holder { pid: 4242, fd: 7, comm: comm(), thread: None }));
        assert_eq!(
            of(4242, 4250).holder,
            Some(Holder { pid: 4242, fd: 7, comm: comm(), thread: Some(4250) })
        );
        // Not visible from the reader's pid namespace.
        assert_eq!(of(0, 0).holder, None);
    }

    #[test]
    fn unexpected_bytes_are_named() {
        let whole = member_bytes();
        let at = |at: usize, byte: u8| {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            parse(&bytes).unwrap_err()
        };
        assert_eq!(at(0, 99), RecordError::UnknownKind { at: 0, kind: 99 });
        assert_eq!(at(4, 103), RecordError::WrongSize { at: 0, kind: 2, size: 103 });
        assert_eq!(at(64, 1), RecordError::Impossible { at: 0, field: "address family", value: 1 });
        assert_eq!(at(68, 132), RecordError::Impossible { at: 0, field: "protocol", value: 132 });
        assert_eq!(at(71, 9), RecordError::Impossible { at: 0, field: "standing", value: 9 });
    }

    #[test]
    fn a_record_cut_off_anywhere_is_truncated() {
        let mut bytes = member_bytes();
        bytes.extend(member_bytes());
        for cut in 113..224 {
            assert_eq!(
                parse(&bytes[..cut]),
                Err(RecordError::Truncated { at: 112, left: cut - 112 })
            );
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn garbage_after_a_valid_header_never_panics(
            kind in 0u32..8,
            size in prop::sample::select(vec![0u32, 8, 24, 56, 112, u32::MAX]),
            rest in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes = [kind.to_ne_bytes(), size.to_ne_bytes()].concat();
            bytes.extend(rest);
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn both_sides_agree() {
        let btf = object("observe");
        assert_mirrors!(btf, "header", Header { kind, size });
        assert_mirrors!(btf, "reader_record", RawReader { header, netns_cookie, netns_inode, pad });
        assert_mirrors!(btf, "watch_record", RawWatch { header, sock_address, epoll });
        assert_mirrors!(btf, "epoll_record", RawEpoll { header, epoll, pid, fd });
        assert_mirrors!(
            btf,
            "member_record",
            RawMember {
                header,
                cookie,
                sock_address,
                netns_cookie,
                netns_inode,
                reuseport_id,
                uid,
                device,
                waiting,
                half_open,
                limit,
                program_id,
                family,
                port,
                protocol,
                v6only,
                has_program,
                standing,
                address,
                program_name,
                not_asked,
                pad,
            }
        );
        assert_mirrors!(
            btf,
            "holder_record",
            RawHolder { header, sock_address, cookie, pid, tid, fd, pad, comm }
        );
        assert_mirrors!(btf, "end_record", RawEnd { header });
        let standings = [("STANDING_MEMBER", 0), ("STANDING_MPTCP", 1), ("STANDING_OUTSIDE", 2)];
        assert_eq!(btf.enumeration("standing").unwrap(), standings.map(|(n, k)| (n.to_owned(), k)));
        let kinds = [
            ("KIND_READER", 1),
            ("KIND_MEMBER", 2),
            ("KIND_WATCH", 3),
            ("KIND_EPOLL", 4),
            ("KIND_HOLDER", 5),
            ("KIND_END", 6),
        ];
        assert_eq!(btf.enumeration("kind").unwrap(), kinds.map(|(n, k)| (n.to_owned(), k)));
        let bits = NOT_ASKED
            .map(|(bit, what)| (format!("NOT_ASKED_{}", what.name().to_uppercase()), bit.into()));
        assert_eq!(btf.enumeration("not_asked").unwrap(), bits);
    }
}
