//! What tells of UDP sockets. As root, on a host with cgroup2.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;

use sk_reuseport::fault::{Call, Verdict, intercept};
use sk_reuseport::net::Bind;
use test_support::{bpffs, loopback, netns, wait};

use super::*;
use crate::host::Host;
use crate::kernel::borrow::cookie_of;
use crate::pins::bpffs::Root;

fn own_netns() -> Netns {
    Host::open().unwrap().own_netns().unwrap()
}

fn udp(netns: Netns, address: SocketAddr) -> Port {
    Port { protocol: Protocol::Udp, netns: netns.cookie, port: address.port() }
}

fn bound(address: SocketAddr) -> (impl AsFd, SocketAddr) {
    let socket = Bind::new(address).udp_sockets(1).unwrap().remove(0);
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn next(source: &mut Source) -> Vec<Event> {
    let deadline = Instant::now() + wait::scaled(wait::BOUND);
    source.wait(&Stop::default(), Some(deadline), None).unwrap().0
}

fn tells_that_it_came(source: &mut Source, of: Port, socket: impl AsFd) {
    let events = next(source);
    let [Event::Came { port, cookie, .. }] = events[..] else { panic!("{events:?}") };
    assert_eq!((port, cookie), (of, cookie_of(socket).unwrap()));
}

#[test]
fn an_event_tells_that_a_udp_socket_was_bound_in_any_network_namespace() {
    netns::isolated(|| {
        let mut source = Source::open(own_netns()).unwrap();
        let mut told = |ipv6| {
            let (_first, address) = bound(loopback(ipv6));
            let port = udp(own_netns(), address);
            source.add(port).unwrap();
            assert_eq!((source.interval(port), source.traces_binds), (REGULARLY, Some(true)));
            // Nothing is listed.
            source.udp_ports.clear();
            let (second, _) = bound(address);
            tells_that_it_came(&mut source, port, &second);
        };
        told(false);
        told(true);
        netns::isolated(|| told(false));
    });
}

#[test]
fn without_the_right_to_be_told_the_sockets_are_listed() {
    netns::isolated(|| {
        let mut source = Source::open(own_netns()).unwrap();
        let (first, address) = bound(loopback(false));
        let port = udp(own_netns(), address);
        let mut links = 0;
        // The second program of the cgroup is refused.
        let refuse = move |call| {
            links += usize::from(call == Call::BpfLinkCreate);
            match call {
                Call::BpfLinkCreate if links == 2 => {
                    Verdict::Fail(rustix::io::Errno::PERM.raw_os_error())
                }
                _ => Verdict::Allow,
            }
        };
        intercept(refuse, || source.add(port)).unwrap();
        assert_eq!(source.traces_binds, Some(false));
        assert_eq!(next(&mut source), [Event::Changed { port }]);
        let (second, _) = bound(address);
        assert_eq!(next(&mut source), [Event::Changed { port }]);
        drop((first, second));
        assert_eq!(next(&mut source), [Event::Changed { port }]);
        let elsewhere = Port { netns: 1, ..port };
        assert_eq!(source.interval(elsewhere), WITHOUT_EVENTS);
    });
}

#[test]
fn where_events_tell_of_sockets_that_come_those_that_leave_are_listed() {
    netns::isolated(|| {
        let mut source = Source::open(own_netns()).unwrap();
        let (first, address) = bound(loopback(false));
        let port = udp(own_netns(), address);
        source.add(port).unwrap();
        assert_eq!(source.take().unwrap(), [], "it is there");
        drop(first);
        assert_eq!(next(&mut source), [Event::Changed { port }]);
    });
}

#[test]
fn listeners_that_come_are_told_for_all_namespaces_and_that_connections_come_for_a_group() {
    netns::isolated(|| {
        let mut source = Source::open(own_netns()).unwrap();
        let first = Bind::new(loopback(false)).listeners(1).unwrap().remove(0);
        let address = first.local_addr().unwrap();
        source.add(source.expected_port(Protocol::Tcp, address.port())).unwrap();
        let port =
            Port { protocol: Protocol::Tcp, netns: own_netns().cookie, port: address.port() };
        let second = Bind::new(address).listeners(1).unwrap().remove(0);
        tells_that_it_came(&mut source, port, &second);
        // Nothing is told of connections to groups that are not there yet.
        let before = TcpStream::connect(address).unwrap();
        assert_eq!(source.take().unwrap(), []);
        source.add(port).unwrap();
        let connection = TcpStream::connect(address).unwrap();
        assert_eq!(next(&mut source), [Event::Busy { port }]);
        // And no more for a while.
        let another = TcpStream::connect(address).unwrap();
        assert_eq!(source.take().unwrap(), []);
        drop((before, connection, another));
    });
}

#[test]
fn directories_of_groups_that_come_and_go_are_told() {
    netns::isolated(|| {
        bpffs::private();
        let host = Host::open().unwrap();
        let first = Bind::new(loopback(false)).listeners(2).unwrap().remove(0);
        let address = first.local_addr().unwrap();
        let group = host.groups().unwrap().into_iter().find(|g| g.key.address == address).unwrap();
        let key = group.key.name_only();
        let mut source = Source::open(own_netns()).unwrap();
        source.add(Port::of(&key)).unwrap();
        let root = Root::create(host.place()).unwrap();
        root.make_groups().unwrap();
        assert!(source.add_pins(host.place(), &key));
        let directory = root.groups().join(directory_name(&key));
        fs::create_dir(&directory).unwrap();
        let told = next(&mut source);
        assert!(told.contains(&Event::Changed { port: Port::of(&key) }), "{told:?}");
        fs::remove_dir(directory).unwrap();
        let told = next(&mut source);
        assert!(told.contains(&Event::Changed { port: Port::of(&key) }), "{told:?}");
    });
}
