//! Listing groups: each test opens sockets in its own network namespace and looks for exactly
//! those.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::thread;

use crate::common::helper::Helper;
use crate::common::{
    BACKLOG, cookie, groups_here, local_address, only_group, owners, tcp, tcp_with, udp,
};
use reuseport::group::{Group, Member, Protocol};
use reuseport::id::Cookie;
use reuseport::{ErrorKind, Host};
use rustix::event::epoll;
use rustix::net::{self, AddressFamily, SocketType};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use sk_reuseport::Ebpf;
use sk_reuseport::programs::SkReuseport;
use test_support::netns::isolated;
use test_support::process::spawn;
use test_support::wait;

/// Waits until `look` finds a group of exactly these sockets, held by this process alone.
///
/// It has to wait, because until execve a child of another test has copies of all descriptors, and
/// the host lists it.
fn becomes_own(sockets: &[OwnedFd], look: impl Fn() -> Group) -> Group {
    let own = std::process::id();
    let expected: BTreeMap<_, _> =
        sockets.iter().map(|s| (cookie(s), vec![(own, s.as_raw_fd() as u32)])).collect();
    wait::until_some("a group of these sockets, held by this process alone", wait::BOUND, || {
        let group = look();
        (holders(&group) == expected).then_some(group)
    })
}

fn holders(group: &Group) -> BTreeMap<Cookie, Vec<(u32, u32)>> {
    let of = |member: &Member| member.holders.iter().map(|h| (h.pid, h.fd)).collect();
    group.members.iter().map(|m| (m.cookie.unwrap(), of(m))).collect()
}

/// One run of the walk over the kernel's tables writes no more than 260 records.
#[test]
fn a_list_of_more_sockets_than_one_run_writes_is_read_to_its_end() {
    isolated(|| {
        let first = tcp("127.0.0.1:0");
        let address = local_address(&first).to_string();
        let sockets: Vec<OwnedFd> =
            std::iter::once(first).chain((1..400).map(|_| tcp(&address))).collect();
        let group = only_group(&Host::open().unwrap());
        assert_eq!((group.members.len(), group.complete), (sockets.len(), true));
    });
}

#[test]
fn groups_of_every_kind_are_listed_with_their_addresses() {
    type Bind = fn(&str) -> OwnedFd;
    let v6only: Bind = |address| {
        tcp_with(address, |s| {
            net::sockopt::set_ipv6_v6only(s, true).unwrap();
        })
    };
    let cases: [(Bind, Protocol, &str, bool); 8] = [
        (|a| tcp(a), Protocol::Tcp, "127.0.0.1", false),
        (|a| tcp(a), Protocol::Tcp, "0.0.0.0", false),
        // inet6_bind sets IPV6_V6ONLY for every address but the wildcard.
        (|a| tcp(a), Protocol::Tcp, "[::1]", true),
        (|a| tcp(a), Protocol::Tcp, "[::]", false),
        (v6only, Protocol::Tcp, "[::]", true),
        (|a| udp(a), Protocol::Udp, "127.0.0.1", false),
        (|a| udp(a), Protocol::Udp, "0.0.0.0", false),
        (|a| udp(a), Protocol::Udp, "[::1]", true),
    ];
    isolated(|| {
        let host = Host::open().unwrap();
        for (bind, protocol, ip, v6only) in cases {
            for members in 1..=3 {
                let first = bind(&format!("{ip}:0"));
                let address = local_address(&first);
                let mut sockets = vec![first];
                sockets.extend((1..members).map(|_| bind(&address.to_string())));

                let group = becomes_own(&sockets, || only_group(&host));
                assert_eq!(group.key.protocol, protocol);
                assert_eq!(group.key.address, address);
                assert_eq!(group.key.v6only, v6only, "{ip}");
                assert_eq!(group.key.device, None);
                assert_eq!(group.key.uid, rustix::process::getuid().as_raw());
                assert_eq!(group.program, None);
                assert!(group.members.iter().all(|m| !m.holders[0].comm.is_empty()));
                drop(sockets);
                wait::until("the group to end", wait::BOUND, || groups_here(&host).is_empty());
            }
        }
    });
}

#[test]
fn a_v6only_socket_and_a_dual_stack_socket_are_two_groups() {
    isolated(|| {
        let both = tcp("[::]:0");
        let address = local_address(&both).to_string();
        let only = tcp_with(&address, |s| {
            net::sockopt::set_ipv6_v6only(s, true).unwrap();
        });
        let host = Host::open().unwrap();
        let find = |v6only| {
            let mut groups = groups_here(&host);
            groups.retain(|g| g.key.v6only == v6only);
            assert_eq!(groups.len(), 1, "{groups:#?}");
            groups.remove(0)
        };
        becomes_own(&[only], || find(true));
        becomes_own(&[both], || find(false));
    });
}

#[test]
fn unaccepted_connections_wait_and_accepted_ones_are_not_members() {
    isolated(|| {
        let host = Host::open().unwrap();
        let first = tcp("127.0.0.1:0");
        let address = local_address(&first);
        let second = tcp(&address.to_string());
        let clients: Vec<_> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();

        let waiting = |group: &Group| group.members.iter().map(|m| m.queue.waiting).sum::<u32>();
        // connect returns at the SYN-ACK, before the ACK completes the handshake.
        wait::until("20 connections to wait", wait::BOUND, || waiting(&only_group(&host)) == 20);
        let group = only_group(&host);
        assert!(group.members.iter().all(|m| m.queue.limit == BACKLOG as u32));
        assert!(group.members.iter().all(|m| m.queue.half_open == 0));

        let of_first = group.member(cookie(&first)).unwrap().queue.waiting;
        let listener = TcpListener::from(first);
        let accepted: Vec<_> = (0..of_first).map(|_| listener.accept().unwrap()).collect();
        let group = only_group(&host);
        assert_eq!(waiting(&group), 20 - of_first);
        assert_eq!(group.members.len(), 2, "accepted sockets are not members");
        drop((accepted, clients, second));
    });
}

#[test]
fn the_queue_of_a_udp_socket_is_counted_in_bytes() {
    isolated(|| {
        let host = Host::open().unwrap();
        let socket = UdpSocket::from(udp("127.0.0.1:0"));
        let address = socket.local_addr().unwrap();
        let queue = || only_group(&host).members[0].queue;
        assert_eq!((queue().waiting, queue().half_open), (0, 0));

        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..3 {
            client.send_to(&[0; 1000], address).unwrap();
        }
        let full = queue();
        assert!(full.waiting >= 3000 && full.waiting < full.limit, "{full:?}");
        let limit = net::sockopt::socket_recv_buffer_size(&socket).unwrap();
        assert_eq!(full.limit as usize, limit);

        for _ in 0..3 {
            socket.recv(&mut [0; 2000]).unwrap();
        }
        assert_eq!(queue().waiting, 0);
    });
}

#[test]
fn a_socket_that_sets_the_option_after_bind_is_not_a_member() {
    use net::sockopt::set_socket_reuseport;
    isolated(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        set_socket_reuseport(&listener, true).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        set_socket_reuseport(&socket, true).unwrap();
        assert_eq!(groups_here(&Host::open().unwrap()), []);
    });
}

#[test]
fn a_listener_that_is_shut_down_is_not_a_member() {
    isolated(|| {
        let host = Host::open().unwrap();
        let first = tcp("127.0.0.1:0");
        let second = tcp(&local_address(&first).to_string());
        // It has left its group, but its descriptor is open.
        net::shutdown(&first, net::Shutdown::Both).unwrap();
        becomes_own(&[second], || only_group(&host));
        wait::until("the group to end", wait::BOUND, || groups_here(&host).is_empty());
    });
}

#[test]
fn the_same_address_in_two_namespaces_is_two_groups() {
    let inode = || fs::metadata("/proc/thread-self/ns/net").unwrap().ino() as u32;
    isolated(|| {
        let here = tcp("127.0.0.1:0");
        let address = local_address(&here).to_string();
        let outside = inode();
        isolated(|| {
            let there = tcp(&address);
            let host = Host::open().unwrap();
            let own = host.own_netns().unwrap();
            assert_eq!(own.inode, inode());
            let groups = host.groups().unwrap();
            let find = |inode| groups.iter().find(|g| g.key.netns.inode == inode).unwrap();
            assert_ne!(find(outside).key.netns.cookie, own.cookie);
            assert_eq!(find(own.inode).key.to_string(), format!("tcp:{address}"));
            assert_eq!(find(outside).key.to_string(), format!("tcp:{address},netns={outside}"));
            assert_eq!(holders(find(outside)).keys().collect::<Vec<_>>(), [&cookie(&here)]);
            assert_eq!(holders(find(own.inode)).keys().collect::<Vec<_>>(), [&cookie(&there)]);
        });
    });
}

#[test]
fn the_device_of_a_group_is_named_in_whatever_namespace_it_is() {
    isolated(|| {
        // A link-local address binds the socket to the device (inet6_bind).
        let mut ip = Command::new(test_support::program("ip"));
        ip.args(["address", "add", "fe80::1/64", "dev", "lo", "nodad"]);
        assert!(spawn(&mut ip).unwrap().wait().unwrap().success());
        let bound = tcp("[fe80::1%1]:0");

        let host = Host::open().unwrap();
        let group = only_group(&host);
        let device = group.key.device.clone().unwrap();
        assert_eq!((device.index, device.name.as_deref()), (1, Some("lo")));
        let port = local_address(&bound).port();
        assert_eq!(group.key.to_string(), format!("tcp:[fe80::1]%lo:{port}"));

        let inode = group.key.netns.inode;
        let seen_from_outside = isolated(|| host.groups().unwrap());
        let outside = seen_from_outside.iter().find(|g| g.key.netns.inode == inode).unwrap();
        assert_eq!(outside.key, group.key);
    });
}

#[test]
fn every_process_with_the_socket_is_a_holder() {
    isolated(|| {
        let host = Host::open().unwrap();
        let socket = tcp("127.0.0.1:0");
        let helper = Helper::holding(&socket, "hold");

        let mut expected = vec![(std::process::id(), socket.as_raw_fd() as u32), (helper.pid(), 0)];
        expected.sort_unstable();
        wait::until("both processes to be its holders", wait::BOUND, || {
            holders(&only_group(&host)) == BTreeMap::from([(cookie(&socket), expected.clone())])
        });

        helper.kill();
        becomes_own(&[socket], || only_group(&host));
    });
}

#[test]
fn the_owner_is_the_process_that_watches_the_socket_with_epoll() {
    isolated(|| {
        let host = Host::open().unwrap();
        let first = tcp("127.0.0.1:0");
        let second = tcp(&local_address(&first).to_string());
        // It has to wait for children of other tests, as [`becomes_own`] does.
        let become_owners = |expected: &[(Cookie, u32)]| {
            let expected = expected.iter().copied().collect::<HashMap<_, _>>();
            wait::until(&format!("owners {expected:?}"), wait::BOUND, || {
                owners(&host, &only_group(&host).key) == expected
            });
        };
        become_owners(&[]);

        let own = std::process::id();
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let watch = |socket: &OwnedFd| {
            epoll::add(&poll, socket, epoll::EventData::new_u64(0), epoll::EventFlags::IN).unwrap();
        };
        watch(&first);
        become_owners(&[(cookie(&first), own)]);

        // Another process owns the other socket, although this process holds it too.
        let helper = Helper::holding(&second, "watch");
        let both = [(cookie(&first), own), (cookie(&second), helper.pid())];
        become_owners(&both);

        // Two processes watch it, so it has no owner.
        watch(&second);
        become_owners(&[(cookie(&first), own)]);

        helper.kill();
        become_owners(&[(cookie(&first), own), (cookie(&second), own)]);
        drop(poll);
        become_owners(&[]);
    });
}

#[test]
fn the_attached_program_is_listed_with_its_id_and_name() {
    isolated(|| {
        let host = Host::open().unwrap();
        let socket = tcp("127.0.0.1:0");
        let mut object = Ebpf::load(include_bytes!("../bpf/leave_it.bpf.o")).unwrap();
        let program: &mut SkReuseport = object.program_mut("leave_it").unwrap().try_into().unwrap();
        program.load().unwrap();
        program.attach(&socket).unwrap();

        let attached = only_group(&host).program.unwrap();
        assert_eq!(attached.id, Some(program.info().unwrap().id()));
        assert_eq!(attached.name, "leave_it");

        SkReuseport::detach(&socket).unwrap();
        assert_eq!(only_group(&host).program, None);
    });
}

#[test]
fn an_unbound_socket_with_a_program_is_not_a_member() {
    isolated(|| {
        let mut object = Ebpf::load(include_bytes!("../bpf/leave_it.bpf.o")).unwrap();
        let program: &mut SkReuseport = object.program_mut("leave_it").unwrap().try_into().unwrap();
        program.load().unwrap();
        let unbound = [SocketType::STREAM, SocketType::DGRAM].map(|kind| {
            let socket = net::socket(AddressFamily::INET, kind, None).unwrap();
            net::sockopt::set_socket_reuseport(&socket, true).unwrap();
            program.attach(&socket).unwrap();
            socket
        });
        assert_eq!(groups_here(&Host::open().unwrap()), []);
        drop(unbound);
    });
}

#[test]
fn many_members_are_each_listed_once() {
    isolated(|| {
        // More records than one read returns: the kernel hands them out in pieces of 32 KiB.
        let first = udp("127.0.0.1:0");
        let address = local_address(&first).to_string();
        let mut sockets = vec![first];
        sockets.extend((1..700).map(|_| udp(&address)));
        let host = Host::open().unwrap();
        becomes_own(&sockets, || only_group(&host));
    });
}

#[test]
fn a_holder_is_identified_by_its_pid_in_the_namespace_of_the_host() {
    isolated(|| {
        let socket = tcp("127.0.0.1:0");
        let helper = Helper::in_pid_namespace(&socket, "look");
        // Inside, it has pid 1 and lists only itself: holders are listed by the namespace of the
        // reader.
        assert_eq!(helper.said(), "sees [1]");

        // The helper, its parent unshare, and this process.
        let host = Host::open().unwrap();
        let pids = wait::until_some("three holders", wait::BOUND, || {
            Some(only_group(&host).pids()).filter(|pids| pids.len() == 3)
        });
        assert!(pids.contains(&std::process::id()) && pids.contains(&helper.pid()), "{pids:?}");
        let inside = pids.iter().find(|p| ![std::process::id(), helper.pid()].contains(p)).unwrap();
        let status = fs::read_to_string(format!("/proc/{inside}/status")).unwrap();
        assert!(status.contains(&format!("PPid:\t{}\n", helper.pid())), "{status}");
    });
}

#[test]
fn missing_capabilities_are_named() {
    let without = |dropped: CapabilitySet| {
        // A thread has its own capabilities.
        thread::spawn(move || {
            let mut sets = capabilities(None).unwrap();
            sets.effective -= dropped | CapabilitySet::SYS_ADMIN;
            set_capabilities(None, sets).unwrap();
            Host::open().unwrap_err()
        })
        .join()
        .unwrap()
    };
    let none = without(CapabilitySet::BPF | CapabilitySet::PERFMON);
    assert_eq!(none.kind(), ErrorKind::Denied, "{none}");
    assert!(none.report().to_string().contains("missing here: CAP_BPF and CAP_PERFMON"), "{none}");
    let no_perfmon = without(CapabilitySet::PERFMON);
    assert_eq!(no_perfmon.kind(), ErrorKind::Denied, "{no_perfmon}");
    assert!(no_perfmon.report().to_string().contains("missing here: CAP_PERFMON"), "{no_perfmon}");
}

#[test]
fn cap_bpf_and_cap_perfmon_are_enough() {
    isolated(|| {
        let socket = tcp("127.0.0.1:0");
        let mut sets = capabilities(None).unwrap();
        sets.effective = CapabilitySet::BPF | CapabilitySet::PERFMON;
        sets.permitted = sets.effective;
        set_capabilities(None, sets).unwrap();
        let host = Host::open().unwrap();
        becomes_own(&[socket], || only_group(&host));
    });
}
