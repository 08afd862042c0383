//! Looking and operating where the kernel's tables of sockets cannot be read, as before Linux 5.19: the walk
//! over descriptors says who is a member.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;

use reuseport::group::Group;
use reuseport::id::Netns;
use reuseport::watch::Watch;
use reuseport::{Attach, Balancer, Host, Policy, Stop, Unborrowable};
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{Shutdown, connect_unspec, shutdown, sockopt};
use sk_reuseport::fault::{Call, Verdict, intercept};
use test_support::netns::isolated;
use test_support::process::close;
use test_support::{InFlight, wait};

use crate::common::helper::Helper;
use crate::common::steering::steered;
use crate::common::world::{
    accept_all, alone, deal, is_steered, key_of, listeners, more, nothing_pinned, theirs, with,
};
use crate::common::{cookie, groups_here, local_address, owners, tcp, tcp_with, udp};

/// Runs `open`, which opens the host, on a kernel that refuses the program that reads the tables: it is
/// loaded second.
fn refused<T>(open: impl FnOnce() -> T) -> T {
    let mut programs = 0;
    let hook = move |call| {
        programs += usize::from(call == Call::BpfProgLoad);
        match call {
            Call::BpfProgLoad if programs > 1 => Verdict::Fail(Errno::INVAL.raw_os_error()),
            _ => Verdict::Allow,
        }
    };
    intercept(hook, open)
}

/// Runs `look` while the walk over the tables never begins, as where the kernel keeps listeners in another kind
/// of list: where it should begin does not reach the kernel. The program must not have run before.
fn not_begun<T>(look: impl FnOnce() -> T) -> T {
    let hook = |call| match call {
        Call::BpfMapUpdateElem => Verdict::Answer(0),
        _ => Verdict::Allow,
    };
    intercept(hook, look)
}

/// The groups of these namespaces, by what a walk over descriptors can see.
fn visible(groups: Vec<Group>, of: &[Netns]) -> Vec<Group> {
    let mut groups = groups;
    groups.retain(|group| of.contains(&group.key.netns));
    for group in &mut groups {
        group.members.retain(|member| member.unborrowable() != Some(Unborrowable::NoHolder));
        group.complete = true;
    }
    groups
}

fn join_multicast(socket: &OwnedFd) {
    let (group, any) = ("224.0.0.251".parse().unwrap(), "127.0.0.1".parse().unwrap());
    sockopt::set_ip_add_membership(socket, &group, &any).unwrap();
}

/// Sockets of every kind, in the calling thread's namespace.
fn every_kind() -> Vec<OwnedFd> {
    let mut all = Vec::new();
    // A program, and a connection that waits; the last one stops.
    let first = tcp("127.0.0.1:0");
    let address = local_address(&first);
    theirs("leave_it").attach(&first).unwrap();
    let others = [tcp(&address.to_string()), tcp(&address.to_string())];
    shutdown(&others[1], Shutdown::Both).unwrap();
    all.push(TcpStream::connect(address).unwrap().into());
    all.push(first);
    all.extend(others);
    // Both families on one port.
    let both = tcp("[::]:0");
    let only = tcp_with(&local_address(&both).to_string(), |socket| {
        sockopt::set_ipv6_v6only(socket, true).unwrap();
    });
    all.extend([both, only]);
    // Datagrams that wait, and that come unasked; one is connected, and one was.
    let first = udp("127.0.0.1:0");
    let address = local_address(&first);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let peer = client.local_addr().unwrap();
    client.send_to(&[0; 100], address).unwrap();
    join_multicast(&first);
    sockopt::set_socket_broadcast(&first, true).unwrap();
    for disconnects in [false, true] {
        let socket = udp(&address.to_string());
        rustix::net::connect(&socket, &peer).unwrap();
        if disconnects {
            connect_unspec(&socket).unwrap();
        }
        all.push(socket);
    }
    all.extend([first, client.into()]);
    all
}

#[test]
fn both_ways_to_list_members_find_the_same() {
    isolated(|| {
        let host = Host::open().unwrap();
        let here = host.own_netns().unwrap();
        let all = every_kind();
        let (there, others) = isolated(|| {
            let there = host.own_netns().unwrap();
            (there, every_kind())
        });
        let helper = Helper::holding(&all[1], "hold");
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let data = epoll::EventData::new_u64(0);
        epoll::add(&poll, &all[1], data, epoll::EventFlags::IN).unwrap();
        let hidden = InFlight::send(tcp(&local_address(&all[1]).to_string()));

        let namespaces = [here, there];
        let of = |groups: Vec<Group>| visible(groups, &namespaces);
        let without = refused(Host::open).unwrap();
        let unbegun = Host::open().unwrap();
        let mut last = (Vec::new(), Vec::new(), Vec::new());
        // Until execve, children of other tests have copies.
        let agree = wait::poll(wait::BOUND, || {
            last = (
                of(host.groups().unwrap()),
                of(without.groups().unwrap()),
                of(not_begun(|| unbegun.groups()).unwrap()),
            );
            (last.0 == last.1 && last.0 == last.2).then_some(())
        });
        assert!(agree.is_some(), "{last:#?}");
        let groups = last.0;
        assert_eq!(groups.len(), 8, "{groups:#?}");
        for group in groups {
            let of_host = |host: &Host| owners(host, &group.key);
            wait::until("the owners are the same", wait::BOUND, || {
                of_host(&host) == of_host(&without)
            });
        }
        // Only the tables show what no process holds.
        let complete = |groups: Vec<Group>| {
            let of_here = groups.into_iter().filter(|group| group.key.netns == here);
            of_here.map(|group| group.complete).collect::<Vec<_>>()
        };
        assert_eq!(complete(host.groups().unwrap()), [true; 4]);
        assert_eq!(complete(without.groups().unwrap()), [false; 4]);
        assert_eq!(complete(not_begun(|| unbegun.groups()).unwrap()), [false; 4]);
        close((hidden, others, helper));
    });
}

#[test]
fn a_group_is_steered_through_its_descriptors_alone() {
    alone(|| {
        let mut all = listeners(3);
        let host = refused(Host::open).unwrap();
        let key = key_of(&host, &all[0]);
        assert!(!host.refresh(&key).unwrap().complete);
        is_steered(&host, &key, &all);

        // One comes and one goes.
        all.extend(more(key.address, 1));
        let gone = cookie(&all[0]);
        close(all.remove(0));
        let (balancer, attached) = Balancer::attach(&host, &key, &Attach::default()).unwrap();
        assert_eq!(attached.changes.released, [gone]);
        assert_eq!(attached.changes.enrolled, [cookie(&all[2])]);
        is_steered(&host, &key, &all);
        Balancer::attach(&host, &key, &with(Policy::Hash)).unwrap();
        assert_eq!(host.status(&key).unwrap().steering.policy(), Some(Policy::Hash));
        is_steered(&host, &key, &all);

        // One that no process holds is not listed. It keeps its slot and gets what is its.
        let last = all.pop().unwrap();
        let known = cookie(&last);
        let hidden = InFlight::send(last);
        wait::until("it is not listed", wait::BOUND, || {
            host.refresh(&key).unwrap().member(known).is_none()
        });
        let (_, attached) = Balancer::attach(&host, &key, &Attach::default()).unwrap();
        assert!(attached.changes.is_empty(), "{attached:?}");
        let clients: Vec<_> = (0..6).map(|_| TcpStream::connect(key.address).unwrap()).collect();
        all.push(TcpListener::from(hidden.receive()));
        let mut accepted = [0; 3];
        wait::until("all connections are accepted", wait::BOUND, || {
            accepted.iter_mut().zip(&all).for_each(|(count, one)| *count += accept_all(one));
            accepted.iter().sum::<usize>() == clients.len()
        });
        assert_eq!(accepted, [2, 2, 2]);
        balancer.detach().unwrap();
        assert!(nothing_pinned());
    });
}

#[test]
fn a_group_of_datagrams_is_steered_through_its_descriptors_alone() {
    alone(|| {
        let bind = |address: SocketAddr| UdpSocket::from(udp(&address.to_string()));
        let first = bind("127.0.0.1:0".parse().unwrap());
        let address = first.local_addr().unwrap();
        let sockets = [first, bind(address), bind(address)];
        sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        let host = refused(Host::open).unwrap();
        let group = groups_here(&refused(Host::open).unwrap()).remove(0);
        let attach = with(Policy::RoundRobin);
        let (balancer, attached) = Balancer::attach(&host, &group.key, &attach).unwrap();
        assert_eq!(attached.changes.enrolled.len(), 3);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        (0..30).for_each(|_| assert_eq!(client.send_to(b"q", address).unwrap(), 1));
        let received =
            |socket: &UdpSocket| std::iter::from_fn(|| socket.recv_from(&mut [0; 4]).ok()).count();
        assert_eq!(sockets.each_ref().map(received), [10, 10, 10]);
        balancer.detach().unwrap();
        assert!(nothing_pinned());
    });
}

#[test]
fn a_watcher_follows_a_group_through_its_descriptors_alone() {
    alone(|| {
        let mut all = listeners(2);
        let host = Host::open().unwrap();
        let key = key_of(&host, &all[0]);
        let stop = Stop::default();
        let attach = with(Policy::RoundRobin).stop(stop.clone());
        let (watch, _) = Watch::start(refused(Host::open).unwrap(), &key, attach).unwrap();
        thread::scope(|scope| {
            let watcher = scope.spawn(|| watch.run(drop));
            for _ in 0..2 {
                all.extend(more(key.address, 1));
                wait::until("the newcomer is enrolled", wait::BOUND, || {
                    steered(&host, &key).is_some_and(|status| status.members.len() == 3)
                });
                close(all.remove(0));
                wait::until("it is shared by two", wait::BOUND, || {
                    steered(&host, &key).is_some_and(|status| status.members.len() == 2)
                });
            }
            wait::until("both are dealt to", wait::BOUND, || deal(&all, 10) == [5, 5]);
            stop.set();
            watcher.join().unwrap().unwrap();
        });
    });
}
