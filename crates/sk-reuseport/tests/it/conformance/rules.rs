//! The rules by which sockets form groups and receive traffic.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rstest::rstest;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol as IpProtocol, Shutdown, SocketFlags, SocketType, bind, listen,
    shutdown, socket_with, sockopt,
};
use rustix::process::Uid;
use sk_reuseport::net::Bind;
use sk_reuseport::programs::SkReuseport;
use test_support::netns;
use zerocopy::IntoBytes as _;

use crate::conformance::group::{Bound, Client, Member, Protocol, allow_data_in_syns, receiver};
use crate::conformance::orders::{MapType, Order, Outcome, Program};
use crate::fixtures::{errno, ready};
use Bound::*;
use Protocol::*;

const BACKLOG: i32 = 8;

/// A program that selects the first socket of its array.
fn program() -> Program {
    Program::load(MapType::SockArray)
}

/// Whether two sockets are in one group: a program attached through one is detached through the
/// other.
fn are_one_group(one: impl AsFd, other: impl AsFd) -> bool {
    program().attach(&one);
    match SkReuseport::detach(other) {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(errno(&error), Some(Errno::NOENT), "{error}");
            SkReuseport::detach(one).unwrap();
            false
        }
    }
}

/// The address with the port of a member.
fn with_port(address: SocketAddr, member: &Member) -> SocketAddr {
    SocketAddr::new(address.ip(), member.address().port())
}

/// A socket with `SO_REUSEPORT` that is not bound.
fn unbound(protocol: Protocol, to: SocketAddr) -> OwnedFd {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = if protocol == Tcp { SocketType::STREAM } else { SocketType::DGRAM };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
    sockopt::set_socket_reuseport(&socket, true).unwrap();
    socket
}

/// Binds a socket, and makes a TCP socket listen.
fn join(protocol: Protocol, socket: OwnedFd, to: SocketAddr) -> rustix::io::Result<Member> {
    bind(&socket, &to)?;
    Ok(match protocol {
        Tcp => {
            listen(&socket, BACKLOG)?;
            Member::Tcp(socket.into())
        }
        Udp => Member::Udp(socket.into()),
    })
}

/// A socket bound without the option.
fn plain(protocol: Protocol, address: SocketAddr) -> std::io::Result<Member> {
    Ok(match protocol {
        Tcp => Member::Tcp(TcpListener::bind(address)?),
        Udp => Member::Udp(UdpSocket::bind(address)?),
    })
}

#[rstest]
fn without_the_option_the_address_of_a_group_is_in_use(
    #[values(Tcp, Udp)] protocol: Protocol,
    #[values(LoopbackV4, AnyV4, LoopbackV6, AnyV6)] bound: Bound,
) {
    netns::isolated(|| {
        let members = Member::group(protocol, bound.address(), 2);
        let address = members[0].address();
        assert_eq!(plain(protocol, address).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(members);
        let _plain = plain(protocol, address).unwrap();
        let second = Member::bind(protocol, &Bind::new(address), 1);
        assert_eq!(second.unwrap_err().kind(), ErrorKind::AddrInUse);
    });
}

/// The socket is in no group and cannot be steered. But the next socket that binds to its address
/// with the option succeeds, and forms a group with it (reuseport_add_sock).
#[rstest]
fn the_option_after_bind_joins_nothing(
    #[values(Tcp, Udp)] protocol: Protocol,
    #[values(LoopbackV4, AnyV4, LoopbackV6, AnyV6)] bound: Bound,
) {
    netns::isolated(|| {
        let late = plain(protocol, bound.address()).unwrap();
        sockopt::set_socket_reuseport(&late, true).unwrap();
        let mut program = program();
        let error = program.try_attach(&late).unwrap_err();
        assert_eq!(errno(&error), Some(Errno::INVAL), "{error}");
        let error = program.try_store(0, &late).unwrap_err();
        assert_eq!(errno(&error), Some(Errno::INVAL), "{error}");

        let next = Member::group(protocol, late.address(), 1).remove(0);
        assert!(are_one_group(&late, &next));
    });
}

/// Attaching a program to an unbound socket makes it a group by itself. Such a socket can start a
/// group at an address, but cannot join one.
#[rstest]
fn attaching_before_bind_makes_separate_groups(
    #[values(Tcp, Udp)] protocol: Protocol,
    #[values(LoopbackV4, AnyV4, LoopbackV6, AnyV6)] bound: Bound,
) {
    netns::isolated(|| {
        let address = bound.address();
        let [first, second] = [unbound(protocol, address), unbound(protocol, address)];
        assert!(!are_one_group(&first, &second));

        let programs = [program(), program()];
        for (mut program, socket) in programs.into_iter().zip([&first, &second]) {
            program.attach(socket);
        }
        let first = join(protocol, first, address).unwrap();
        let address = first.address();
        assert_eq!(join(protocol, second, address).unwrap_err(), Errno::ADDRINUSE);
        let third = join(protocol, unbound(protocol, address), address).unwrap();
        SkReuseport::detach(&third).expect("the program of the first socket is that of the group");
    });
}

/// Two groups at one port, each with a program. Traffic to the specific address goes to the group
/// that is bound to it, the rest to the other.
#[rstest]
fn a_specific_address_beats_the_wildcard(
    #[values(Tcp, Udp)] protocol: Protocol,
    #[values(AnyV4, AnyV6)] wildcard: Bound,
    #[values(false, true)] wildcard_first: bool,
) {
    netns::isolated(|| {
        allow_data_in_syns();
        let (specific, another): (Bound, IpAddr) = match wildcard {
            AnyV4 => (LoopbackV4, Ipv4Addr::new(127, 0, 0, 2).into()),
            _ => (LoopbackV6, Ipv4Addr::LOCALHOST.into()),
        };
        let (first, second) =
            if wildcard_first { (wildcard, specific) } else { (specific, wildcard) };
        let first = Member::group(protocol, first.address(), 2);
        let second = Member::group(protocol, with_port(second.address(), &first[0]), 2);
        let (any, one) = if wildcard_first { (first, second) } else { (second, first) };
        let port = one[0].address().port();
        assert!(!are_one_group(&any[0], &one[0]));
        let mut programs = [program(), program()];
        for (program, members) in programs.iter_mut().zip([&any, &one]) {
            program.store(1, &members[1]);
            program.attach(&members[0]);
        }
        let order = Order { index: 1, ..Order::default() };
        let to = |ip| SocketAddr::new(ip, port);
        let _client = Client::send(protocol, specific.reached_at(port), order.as_bytes()).unwrap();
        assert_eq!(receiver(&one, order.as_bytes()), 1);
        let _client = Client::send(protocol, to(another), order.as_bytes()).unwrap();
        assert_eq!(receiver(&any, order.as_bytes()), 1);
        assert_eq!(ready(&one, Duration::ZERO), None);
        programs.iter().for_each(|program| program.assert_only(Outcome::Selected, 1));
    });
}

/// A socket of another user cannot join, whatever its options.
#[rstest]
fn another_user_is_refused(
    #[values(Tcp, Udp)] protocol: Protocol,
    #[values(LoopbackV4, AnyV4, LoopbackV6, AnyV6)] bound: Bound,
) {
    netns::isolated(|| {
        let user = Uid::from_raw(65534);
        let ours = Member::group(protocol, bound.address(), 1).remove(0);
        let bind = Bind::new(with_port(bound.address(), &ours));
        // Changes the user of this thread only, which ends with the test.
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        let theirs = Member::bind(protocol, &bind, 1);
        assert_eq!(theirs.unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(ours);
        let theirs = Member::bind(protocol, &bind, 2).unwrap();
        assert_eq!(theirs.len(), 2, "sockets of one user form a group");
    });
}

/// Sockets bound to a device form one group, those bound to none another. One of the groups
/// receives all traffic of the device: the kernel stops at the first matching socket with a group,
/// whatever the score of others (inet_lhash2_lookup, udp4_lib_lookup2). New IPv4 sockets come first
/// in its lists, new IPv6 sockets with the option last.
#[rstest]
fn another_device_is_another_group(
    #[values(Tcp, Udp)] protocol: Protocol,
    #[values(LoopbackV4, AnyV4, LoopbackV6, AnyV6)] bound: Bound,
    #[values(false, true)] device_first: bool,
) {
    netns::isolated(|| {
        allow_data_in_syns();
        let group = |address, of_device| {
            let bind = Bind::new(address);
            let bind = if of_device { bind.device("lo") } else { bind };
            Member::bind(protocol, &bind, 2).unwrap()
        };
        let older = group(bound.address(), device_first);
        let newer = group(older[0].address(), !device_first);
        assert!(!are_one_group(&older[0], &newer[0]));
        let mut programs = [program(), program()];
        for (program, members) in programs.iter_mut().zip([&older, &newer]) {
            assert!(are_one_group(&members[0], &members[1]));
            program.store(0, &members[1]);
            program.attach(&members[0]);
        }
        let (winner, loser) = if bound.address().is_ipv4() { (1, 0) } else { (0, 1) };
        let order = Order::default();
        let to = bound.reached_at(older[0].address().port());
        let _client = Client::send(protocol, to, order.as_bytes()).unwrap();
        assert_eq!(receiver([&older, &newer][winner], order.as_bytes()), 1);
        assert_eq!(ready([&older, &newer][loser], Duration::ZERO), None);
        programs[winner].assert_only(Outcome::Selected, 1);
        programs[loser].assert_only(Outcome::Selected, 0);
    });
}

/// IPv6 sockets with and without IPv4 traffic form different groups.
#[rstest]
fn another_v6only_is_another_group(#[values(Tcp, Udp)] protocol: Protocol) {
    netns::isolated(|| {
        let both = Member::group(protocol, (Ipv6Addr::UNSPECIFIED, 0).into(), 2);
        let bind = Bind::new(both[0].address()).v6only(true);
        let only = Member::bind(protocol, &bind, 2).unwrap();
        assert!(are_one_group(&only[0], &only[1]));
        assert!(!are_one_group(&only[0], &both[0]));
    });
}

/// Shutting down a listener releases a port that the kernel chose for it, as for the first of a
/// group. Listening again, it gets another port and is alone (tcp_set_state).
#[rstest]
fn a_port_of_the_kernels_choice_is_lost_by_listening_again(
    #[values(LoopbackV4, AnyV4, LoopbackV6, AnyV6)] bound: Bound,
) {
    netns::isolated(|| {
        let members = Member::group(Tcp, bound.address(), 3);
        let address = members[0].address();
        for member in &members[..2] {
            shutdown(member, Shutdown::Both).unwrap();
            listen(member, BACKLOG).unwrap();
        }
        assert_ne!(members[0].address().port(), address.port());
        assert!(!are_one_group(&members[0], &members[2]));
        assert_eq!(members[1].address(), address);
        assert!(are_one_group(&members[1], &members[2]));
    });
}

/// Multipath TCP has groups, but refuses programs.
#[test]
fn multipath_tcp_refuses() {
    netns::isolated(|| {
        let mptcp = IpProtocol::from_raw(std::num::NonZero::new(262).unwrap());
        let flags = SocketFlags::CLOEXEC;
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(mptcp)).unwrap();
        sockopt::set_socket_reuseport(&socket, true).unwrap();
        let attaching = program().try_attach(&socket).unwrap_err();
        let detaching = SkReuseport::detach(&socket).unwrap_err();
        for error in [attaching, detaching] {
            assert_eq!(errno(&error), Some(Errno::OPNOTSUPP), "{error}");
        }
    });
}
