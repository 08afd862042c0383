//! Binding sockets so that they form a group.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;

use rustix::net::sockopt;
use sk_reuseport::Ebpf;
use sk_reuseport::net::Bind;
use sk_reuseport::programs::SkReuseport;
use test_support::loopback;
use test_support::netns;
use test_support::wait::BOUND;

use crate::fixtures::*;

/// Whether two sockets are in one group: a program attached through one is detached through the
/// other.
fn are_one_group(one: impl AsFd, other: impl AsFd) -> bool {
    let mut ebpf = Ebpf::load(SELECT).unwrap();
    loaded(&mut ebpf, "select_socket").attach(&one).unwrap();
    let same = SkReuseport::detach(other).is_ok();
    if !same {
        SkReuseport::detach(one).unwrap();
    }
    same
}

#[test]
fn with_port_0_all_get_the_same_port() {
    netns::isolated(|| {
        for v6 in [false, true] {
            let listeners = Bind::new(loopback(v6)).listeners(5).unwrap();
            let address = listeners[0].local_addr().unwrap();
            assert_ne!(address.port(), 0);
            assert_eq!(address.is_ipv6(), v6);
            for listener in &listeners {
                assert_eq!(listener.local_addr().unwrap(), address);
                assert!(are_one_group(&listeners[0], listener));
            }
            let sockets = Bind::new(loopback(v6)).udp_sockets(5).unwrap();
            let address = sockets[0].local_addr().unwrap();
            for socket in &sockets {
                assert_eq!(socket.local_addr().unwrap(), address);
                assert!(are_one_group(&sockets[4], socket));
            }
        }
    });
}

#[test]
fn they_accept_and_receive() {
    netns::isolated(|| {
        let listeners = Bind::new(loopback(true)).listeners(2).unwrap();
        connect(&listeners);
        UdpGroup::new(2).send(b"x");
    });
}

#[test]
fn no_sockets_are_bound_for_a_count_of_0() {
    assert!(Bind::new(loopback(false)).listeners(0).unwrap().is_empty());
    assert!(Bind::new(loopback(false)).udp_sockets(0).unwrap().is_empty());
}

#[test]
fn sockets_that_differ_in_v6only_are_bound_as_asked() {
    netns::isolated(|| {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        for (v6only, reachable) in [(true, false), (false, true)] {
            let listeners = Bind::new(any).v6only(v6only).listeners(2).unwrap();
            assert_eq!(sockopt::ipv6_v6only(&listeners[1]).unwrap(), v6only);
            let mut v4 = loopback(false);
            v4.set_port(listeners[0].local_addr().unwrap().port());
            assert_eq!(TcpStream::connect(v4).is_ok(), reachable);
        }
        // IPv4 sockets ignore it.
        Bind::new(loopback(false)).v6only(true).udp_sockets(1).unwrap();
    });
}

#[test]
fn a_device_makes_a_separate_group() {
    netns::isolated(|| {
        let everywhere = Bind::new(loopback(false)).udp_sockets(1).unwrap();
        let address = everywhere[0].local_addr().unwrap();
        let on_lo = Bind::new(address).device("lo").udp_sockets(2).unwrap();
        assert_eq!(sockopt_device(&on_lo[1]), "lo");
        assert!(are_one_group(&on_lo[0], &on_lo[1]));
        assert!(!are_one_group(&everywhere[0], &on_lo[0]));
        // The kernel prefers sockets that are bound to the device.
        UdpSocket::bind(loopback(false)).unwrap().send_to(b"x", address).unwrap();
        assert_eq!(
            ready(&[&everywhere[0], &on_lo[0], &on_lo[1]], BOUND).map(|i| i > 0),
            Some(true)
        );
    });
}

/// The device that a socket is bound to, according to ss(8).
fn sockopt_device(socket: &UdpSocket) -> String {
    let port = socket.local_addr().unwrap().port();
    let output = std::process::Command::new(test_support::program("ss"))
        .args(["-Hunl", &format!("sport = :{port}")])
        .output()
        .unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    let address = listed
        .lines()
        .find_map(|line| line.split_whitespace().find_map(|word| word.strip_prefix("127.0.0.1%")));
    let (device, _) = address.expect("a device").split_once(':').unwrap();
    device.to_owned()
}

#[test]
fn a_device_that_does_not_exist_is_refused() {
    netns::isolated(|| {
        // The kernel would unbind the socket for an empty name, and truncate one that is too long.
        for device in ["nothing0", "", "lo-is-not-the-name-of-this-one"] {
            let error = Bind::new(loopback(false)).device(device).listeners(1).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NODEV.raw_os_error()));
        }
    });
}

#[test]
fn the_backlog_is_how_many_connections_may_wait() {
    netns::isolated(|| {
        let listeners = Bind::new(loopback(false)).backlog(3).listeners(1).unwrap();
        assert_eq!(backlog(&listeners[0]), 3);
        let listeners = Bind::new(loopback(false)).listeners(1).unwrap();
        assert!(backlog(&listeners[0]) > 1000);
    });
}

/// The backlog of a listener, according to ss(8).
fn backlog(listener: &TcpListener) -> u32 {
    let port = listener.local_addr().unwrap().port();
    let output = std::process::Command::new(test_support::program("ss"))
        .args(["-Htnl", &format!("sport = :{port}")])
        .output()
        .unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    listed.split_whitespace().nth(2).expect("a Send-Q").parse().unwrap()
}

#[test]
fn close_on_exec_and_blocking_are_as_asked() {
    netns::isolated(|| {
        let is_nonblocking = |socket: &TcpListener| {
            rustix::fs::fcntl_getfl(socket).unwrap().contains(rustix::fs::OFlags::NONBLOCK)
        };
        let usual = &Bind::new(loopback(false)).listeners(1).unwrap()[0];
        assert!(is_close_on_exec(usual.as_fd()));
        assert!(!is_nonblocking(usual));
        let bind = Bind::new(loopback(false)).close_on_exec(false).nonblocking(true);
        let inherited = &bind.listeners(1).unwrap()[0];
        assert!(!is_close_on_exec(inherited.as_fd()));
        assert!(is_nonblocking(inherited));
        assert!(!is_close_on_exec(bind.udp_sockets(1).unwrap()[0].as_fd()));
    });
}

#[test]
fn an_address_in_use_leaves_nothing_behind() {
    netns::isolated(|| {
        let taken = TcpListener::bind(loopback(false)).unwrap();
        let address = taken.local_addr().unwrap();
        let error = Bind::new(address).listeners(3).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        drop(taken);
        // It would fail if `Bind` had left a socket.
        once_closed(|| TcpListener::bind(address).is_ok());
    });
}

#[test]
fn another_users_group_is_not_joined() {
    netns::isolated(|| {
        let listeners = Bind::new(loopback(false)).listeners(1).unwrap();
        let bind = Bind::new(listeners[0].local_addr().unwrap());
        bind.listeners(1).unwrap();
        let user = rustix::process::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        let error = bind.listeners(1).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    });
}

#[test]
fn an_address_of_another_host_is_refused() {
    netns::isolated(|| {
        let foreign = SocketAddr::new(IpAddr::from([192, 0, 2, 1]), 0);
        let error = Bind::new(foreign).udp_sockets(1).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrNotAvailable);
    });
}
