use super::*;
use crate::wire::mirror::{assert_mirrors, object};
use proptest::prelude::*;

/// A member record as the kernel writes it: every field in its place, by hand.
fn member_bytes() -> Vec<u8> {
    let mut b = Vec::new();
    for word in [2u32, 136] {
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
    b.extend([5u32, 9, 77, 3].map(u32::to_ne_bytes).concat());
    b.extend(*b"eth0\0\0\0\0\0\0\0\0\0\0\0\0");
    b
}

fn holder_bytes(pid: u32, tid: u32) -> Vec<u8> {
    let mut b = [5u32, 80].map(u32::to_ne_bytes).concat();
    b.extend([0xffff_8880_1234_5678u64, 77].map(u64::to_ne_bytes).concat());
    b.extend([pid, tid, 7, 4240].map(u32::to_ne_bytes).concat());
    b.extend(*b"nginx\0\0\0\0\0\0\0\0\0\0\0");
    b.extend([1_500_000_000u64, 31].map(u64::to_ne_bytes).concat());
    b.extend([8u32, 0].map(u32::to_ne_bytes).concat());
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
        made: Made { reuseaddr: true, deferring: true, ..Made::default() },
        drops: 77,
        waiters: Some(3),
    };
    assert_eq!(records, [Record::Member(expected)]);
}

#[test]
fn a_device_has_a_name_unless_it_is_gone() {
    let mut bytes = member_bytes();
    bytes[44..48].copy_from_slice(&7u32.to_ne_bytes());
    let device = |bytes: &[u8]| match &parse(bytes).unwrap()[..] {
        [Record::Member(member)] => member.device.clone().map(|d| (d.index, d.name)),
        other => panic!("{other:?}"),
    };
    let name = Some("eth0".to_owned());
    assert_eq!(device(&bytes), Some((7, name)));
    bytes[120..136].fill(0);
    assert_eq!(device(&bytes), Some((7, None)));
}

#[test]
fn a_cookie_that_was_never_asked_for_and_the_id_of_a_classic_program_are_none() {
    let mut bytes = member_bytes();
    bytes[8..16].fill(0); // cookie
    bytes[60..64].fill(0); // program_id
    bytes[116..120].fill(0xff); // waiters
    let [Record::Member(member)] = &parse(&bytes).unwrap()[..] else { panic!("no member") };
    assert_eq!(member.cookie, None);
    assert_eq!(member.program.as_ref().unwrap().id, None);
    assert_eq!(member.waiters, None);
}

#[test]
fn a_holder_has_a_thread_only_if_its_process_does_not_name_the_descriptor() {
    let of = |pid, tid| match &parse(&holder_bytes(pid, tid)).unwrap()[..] {
        [Record::Holder(record)] => record.clone(),
        other => panic!("{other:?}"),
    };
    let comm = || "nginx".to_owned();
    let origin = Some(Origin {
        binary: Binary { device: 8, inode: 31 },
        first: Some(4240),
        started: Duration::from_millis(1500),
    });
    let record = of(4242, 4242);
    assert_eq!(record.sock_address, 0xffff_8880_1234_5678);
    assert_eq!(record.cookie, Cookie::new(77));
    assert_eq!(
        record.holder,
        Some(Holder { pid: 4242, fd: 7, comm: comm(), thread: None, origin })
    );
    assert_eq!(
        of(4242, 4250).holder,
        Some(Holder { pid: 4242, fd: 7, comm: comm(), thread: Some(4250), origin })
    );
    // Not visible from the reader's pid namespace.
    assert_eq!(of(0, 0).holder, None);
    // It is ending.
    let mut ending = holder_bytes(1, 1);
    ending[64..72].fill(0); // binary_inode
    let [Record::Holder(record)] = &parse(&ending).unwrap()[..] else { panic!("no holder") };
    assert_eq!(record.holder.as_ref().unwrap().origin, None);
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
    for cut in 137..272 {
        assert_eq!(parse(&bytes[..cut]), Err(RecordError::Truncated { at: 136, left: cut - 136 }));
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn garbage_after_a_valid_header_never_panics(
        kind in 0u32..9,
        size in prop::sample::select(vec![0u32, 8, 24, 80, 136, u32::MAX]),
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
    assert_mirrors!(btf, "waiter_record", RawWaiter { header, object, pid, tid });
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
            made,
            drops,
            waiters,
            device_name,
        }
    );
    assert_mirrors!(
        btf,
        "holder_record",
        RawHolder {
            header,
            sock_address,
            cookie,
            pid,
            tid,
            fd,
            first_pid,
            comm,
            first_started,
            binary_inode,
            binary_device,
            pad,
        }
    );
    assert_mirrors!(btf, "end_record", RawEnd { header });
    assert_mirrors!(btf, "awaited_record", RawAwaited { header, sock_address });
    let standings = [
        ("STANDING_MEMBER", 0),
        ("STANDING_MPTCP", 1),
        ("STANDING_OUTSIDE", 2),
        ("STANDING_PLAIN", 3),
    ];
    assert_eq!(btf.enumeration("standing").unwrap(), standings.map(|(n, k)| (n.to_owned(), k)));
    let kinds = [
        ("KIND_READER", 1),
        ("KIND_MEMBER", 2),
        ("KIND_WATCH", 3),
        ("KIND_EPOLL", 4),
        ("KIND_HOLDER", 5),
        ("KIND_END", 6),
        ("KIND_WAITER", 7),
        ("KIND_AWAITED", 8),
    ];
    assert_eq!(btf.enumeration("kind").unwrap(), kinds.map(|(n, k)| (n.to_owned(), k)));
    let bits = NOT_ASKED
        .map(|(bit, what)| (format!("NOT_ASKED_{}", what.name().to_uppercase()), bit.into()));
    assert_eq!(btf.enumeration("not_asked").unwrap(), bits);
    let names = ["REUSEADDR", "REUSEPORT", "MPTCP", "DEFERRING", "TRANSPARENT"];
    let bits: Vec<_> =
        names.iter().zip(MADE).map(|(name, bit)| (format!("MADE_{name}"), bit.into())).collect();
    assert_eq!(btf.enumeration("made").unwrap(), bits);
}
