//! What is seen of members: who waits for them, what they lost, and where their processes come from. And of sockets
//! that are in no group.

use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use reuseport::finding::Finding;
use reuseport::group::{Group, Origin};
use reuseport::{ErrorKind, Host};
use rustix::event::epoll;
use test_support::netns::isolated;
use test_support::process::{close, spawn};
use test_support::{loopback, wait};

use crate::common::helper::Helper;
use crate::common::{cookie, local_address, only_group, tcp, udp};

/// How many wait for the member that is this socket.
fn waiters(host: &Host, socket: impl AsFd) -> Option<u32> {
    only_group(host).member(cookie(socket)).unwrap().waiters
}

/// Whether the status names the member as one that nothing waits for.
fn is_unwaited(host: &Host, socket: impl AsFd) -> bool {
    let status = host.status(&only_group(host).key).unwrap();
    let name = format!("cookie:{}", cookie(socket));
    status.findings.iter().any(
        |finding| matches!(finding, Finding::Unwaited { members, .. } if members.contains(&name)),
    )
}

#[test]
fn who_waits_for_a_member_is_seen() {
    isolated(|| {
        let host = Host::open().unwrap();
        let first = tcp("127.0.0.1:0");
        let second = tcp(&local_address(&first).to_string());
        assert_eq!(waiters(&host, &first), Some(0));
        assert!(is_unwaited(&host, &first) && is_unwaited(&host, &second));

        let watch = |epoll: &OwnedFd| {
            let data = epoll::EventData::new_u64(0);
            epoll::add(epoll, &first, data, epoll::EventFlags::IN).unwrap();
        };
        let two = [(); 2].map(|()| epoll::create(epoll::CreateFlags::CLOEXEC).unwrap());
        watch(&two[0]);
        assert_eq!(waiters(&host, &first), Some(1), "as long as it is registered");
        assert!(!is_unwaited(&host, &first) && is_unwaited(&host, &second));
        watch(&two[1]);
        assert_eq!(waiters(&host, &first), Some(2));
        close(two);
        wait::until("nothing watches it", wait::BOUND, || waiters(&host, &first) == Some(0));

        let listener = TcpListener::from(second.try_clone().unwrap());
        let accepting = thread::spawn(move || listener.accept().map(drop));
        wait::until("a thread is in accept", wait::BOUND, || waiters(&host, &second) == Some(1));
        assert!(!is_unwaited(&host, &second));
        // The kernel's hash chooses. What the first one gets waits: no more than fits its queue.
        for _ in 0..64 {
            drop(TcpStream::connect(local_address(&first)).unwrap());
        }
        accepting.join().unwrap().unwrap();
    });
}

#[test]
fn a_thread_that_wakes_during_the_look_is_no_crowd() {
    // One of a thousand meets a thread that wakes.
    const LOOKS: usize = 1000;

    isolated(|| {
        let host = Host::open().unwrap();
        let socket = udp("127.0.0.1:0");
        let address = local_address(&socket);
        let reading = UdpSocket::from(socket.try_clone().unwrap());
        let done = AtomicBool::new(false);
        let seen: Vec<Option<u32>> = thread::scope(|scope| {
            let read = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    reading.recv(&mut [0; 8]).unwrap();
                }
            });
            scope.spawn(move || {
                let sender = UdpSocket::bind(loopback(false)).unwrap();
                while !read.is_finished() {
                    sender.send_to(b"q", address).unwrap();
                    thread::yield_now();
                }
            });
            let seen = (0..LOOKS).map(|_| waiters(&host, &socket)).collect();
            done.store(true, Ordering::Relaxed);
            seen
        });
        let most = seen.into_iter().flatten().max();
        assert!(most <= Some(1), "{most:?}");
    });
}

#[test]
fn who_waits_for_a_udp_socket_is_seen_too() {
    isolated(|| {
        let host = Host::open().unwrap();
        let socket = udp("127.0.0.1:0");
        assert_eq!(waiters(&host, &socket), Some(0));
        let address = local_address(&socket);
        let reading = UdpSocket::from(socket.try_clone().unwrap());
        let reading = thread::spawn(move || reading.recv(&mut [0; 8]));
        wait::until("a thread reads", wait::BOUND, || waiters(&host, &socket) == Some(1));
        UdpSocket::bind(loopback(false)).unwrap().send_to(b"q", address).unwrap();
        assert_eq!(reading.join().unwrap().unwrap(), 1);
    });
}

#[test]
fn what_a_udp_socket_lost_is_counted() {
    isolated(|| {
        let host = Host::open().unwrap();
        let socket = udp("127.0.0.1:0");
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
        let drops = || only_group(&host).members[0].drops;
        assert_eq!(drops(), 0);
        let client = UdpSocket::bind(loopback(false)).unwrap();
        let address = local_address(&socket);
        (0..100).for_each(|_| assert_eq!(client.send_to(&[0; 500], address).unwrap(), 500));
        let socket = UdpSocket::from(socket);
        socket.set_nonblocking(true).unwrap();
        let received = std::iter::from_fn(|| socket.recv(&mut [0; 600]).ok()).count();
        assert!(received < 100);
        assert_eq!(drops() as usize, 100 - received);
    });
}

/// Where the only holder with this pid comes from.
fn origin(group: &Group, pid: u32) -> Origin {
    let mut holders = group.members.iter().flat_map(|member| &member.holders);
    holders.find(|holder| holder.pid == pid).unwrap().origin.unwrap()
}

/// A process that holds a socket and nothing else.
fn sleep_with(socket: OwnedFd) -> Child {
    let child = spawn(Command::new("sleep").arg("600").stdin(socket)).unwrap();
    // A parent goes on before its child has the memory of its new program (exec_mmap in fs/exec.c).
    let file = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).ok();
    let own = file(std::process::id());
    wait::until("the child runs another file", wait::BOUND, || {
        file(child.id()).is_some_and(|theirs| Some(theirs) != own)
    });
    child
}

#[test]
fn processes_of_one_server_have_the_same_origin() {
    isolated(|| {
        let host = Host::open().unwrap();
        let socket = tcp("127.0.0.1:0");
        let child = Helper::holding(&socket, "hold");
        let mut stranger = sleep_with(socket.try_clone().unwrap());
        let group = only_group(&host);
        let own = std::process::id();
        let ours = origin(&group, own);
        assert_eq!(origin(&group, child.pid()), ours, "it runs this binary");
        assert_eq!(ticks(ours.started), began(ours.first.unwrap()));
        let theirs = origin(&group, stranger.id());
        assert_ne!(theirs.binary, ours.binary);
        let (first, started) = (theirs.first, ticks(theirs.started));
        assert_eq!((first, started), (Some(stranger.id()), began(stranger.id())));
        assert!(theirs.started >= ours.started);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    });
}

/// In the precision of /proc: `USER_HZ` is 100.
fn ticks(time: Duration) -> u128 {
    time.as_millis() / 10
}

/// When a process began.
fn began(pid: u32) -> u128 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(19).unwrap().parse().unwrap()
}

#[test]
fn an_error_names_the_sockets_that_are_there_in_no_group() {
    isolated(|| {
        let host = Host::open().unwrap();
        let listener = TcpListener::bind(loopback(false)).unwrap();
        let name = format!("tcp:{}", listener.local_addr().unwrap());
        let spec = name.parse().unwrap();
        for find in [Host::find, Host::find_steered] {
            let pid = std::process::id();
            let there =
                format!(" {pid} has {name}, bound with SO_REUSEADDR, not with SO_REUSEPORT");
            // Until execve, a child of another test holds it, too.
            let text = wait::until_some(&there, wait::BOUND, || {
                let error = find(&host, &spec).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotFound);
                let error = host.explain(error, &spec);
                Some(error.report().to_string()).filter(|text| text.contains(&there))
            });
            assert!(text.starts_with(&format!("no group matches `{name}`: ")), "{text}");
        }
        assert!(host.groups().unwrap().iter().all(|group| group.key.to_string() != name));
        close(listener);
        let error = host.find(&spec).unwrap_err();
        let text = host.explain(error, &spec).report().to_string();
        assert!(text.ends_with("; `reuseport ls` shows every group"), "{text}");
    });
}
