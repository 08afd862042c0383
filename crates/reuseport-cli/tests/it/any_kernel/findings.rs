//! What `ls`, `show`, `attach` and `drain` say about groups that are not as most are.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::thread;

use rustix::event::epoll;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{AddressFamily, SocketType, bind, ipproto, listen, socket};
use serde_json::{Value, json as value};
use sk_reuseport::net::Bind;
use test_support::loopback;
use test_support::process::{close, output};
use test_support::server::Nginx;
use test_support::wait::{BOUND, until, until_some};

use crate::common::stdout_undisturbed;
use crate::common::{Holder, Running, error, group, isolated, json, own_netns, run, stdout};

fn listed() -> String {
    stdout(&["ls", "--netns", &own_netns()])
}

/// The finding of this name about a group.
fn finding(group: &str, name: &str) -> Option<Value> {
    let shown = json(&["show", group, "--json"]);
    let findings = shown["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["finding"] == name).cloned()
}

/// `cookie:N` of the members, in the order of `show`.
fn names(group: &str) -> Vec<String> {
    let shown = json(&["show", group, "--json"]);
    let members = shown["members"].as_array().unwrap();
    members.iter().map(|member| format!("cookie:{}", member["cookie"])).collect()
}

#[test]
fn one_socket_of_several_processes_is_said_to_be_nothing_to_choose_among() {
    isolated(|| {
        let (mut listeners, group) = group(1);
        let text = stdout_undisturbed(&["show", &group]);
        assert!(text.contains("1 socket: nothing to choose among until there are more"), "{text}");

        let threads = [(); 2].map(|()| watched(&listeners[0]));
        let text = stdout_undisturbed(&["ls", "--netns", &own_netns()]);
        let expected =
            "1 socket, which several epoll instances or threads wait for: nothing to choose";
        assert!(text.contains(&format!("{group}: {expected}")), "{text}");
        drop(threads);

        let holder = Holder::of(listeners[0].try_clone().unwrap());
        let expected = "1 socket, held by 2 processes: nothing to choose among; the server must bind \
                        one per worker, each with SO_REUSEPORT set before bind";
        let ls = stdout_undisturbed(&["ls", "--netns", &own_netns()]);
        assert!(ls.contains(&format!("{group}: {expected}")), "{ls}");
        for verb in ["show", "attach"] {
            let text = stdout_undisturbed(&[verb, &group]);
            assert!(text.contains(expected), "{verb}: {text}");
        }
        let found = finding(&group, "one-socket").unwrap();
        assert_eq!(found["members"], value!([]));

        let address = listeners[0].local_addr().unwrap();
        listeners.extend(Bind::new(address).listeners(1).unwrap());
        assert_eq!(finding(&group, "one-socket"), None);
        drop(holder);
    });
}

/// What a call says that finds no group, once it names what is expected: until execve, a child of another test
/// holds all sockets of this process, too.
fn refused(arguments: &[&str], expected: &str) -> String {
    until_some(expected, BOUND, || Some(error(1, arguments)).filter(|text| text.contains(expected)))
}

#[test]
fn sockets_in_no_group_are_named_with_their_holder_and_the_remedy() {
    isolated(|| {
        let plain = TcpListener::bind(loopback(false)).unwrap();
        let address = plain.local_addr().unwrap();
        let udp = UdpSocket::bind(address).unwrap();
        let (tcp, pid) = (format!("tcp:{address}"), std::process::id());
        let there = format!("{pid} has {tcp}, bound with SO_REUSEADDR, not with SO_REUSEPORT");
        for verb in ["show", "attach", "detach"] {
            let text = refused(&[verb, &tcp], &there);
            assert!(!text.contains("udp:"), "{verb}: {text}");
            assert!(text.contains("hint: the server must bind one socket per worker"), "{text}");
        }
        let udp_too = format!("{pid} has udp:{address}, bound without SO_REUSEPORT");
        let text = refused(&["show", &format!(":{}", address.port())], &udp_too);
        assert!(text.contains(&format!(" has {tcp}, ")), "{text}");

        let mut watcher = Running::start(&["attach", &tcp, "--watch"]);
        let said = watcher.read_until("waiting for");
        assert!(said.contains("; now ") && said.contains(&format!(" has {tcp}, ")), "{said}");
        watcher.interrupt();

        close((plain, udp));
        let text = error(1, &["show", &tcp]);
        assert!(text.contains("`reuseport ls` shows every group"), "{text}");
    });
}

#[test]
fn an_mptcp_listener_in_no_group_is_named_as_one() {
    isolated(|| {
        let mptcp = Some(ipproto::MPTCP);
        let Ok(listener) = socket(AddressFamily::INET, SocketType::STREAM, mptcp) else {
            return;
        };
        bind(&listener, &loopback(false)).unwrap();
        listen(&listener, 8).unwrap();
        let listener = TcpListener::from(listener);
        let text = error(1, &["show", &format!(":{}", listener.local_addr().unwrap().port())]);
        assert!(text.contains(", an MPTCP listener, bound without SO_REUSEPORT"), "{text}");
        assert!(text.contains("and let the server listen without MPTCP"), "{text}");
        close(listener);
    });
}

#[test]
fn members_that_nothing_waits_for_are_named_until_something_does() {
    isolated(|| {
        let (listeners, group) = group(2);
        let clients: Vec<_> = (0..3)
            .map(|_| TcpStream::connect(listeners[0].local_addr().unwrap()).unwrap())
            .collect();
        let found = finding(&group, "unwaited").unwrap();
        assert_eq!(found["members"], value!(names(&group)));
        let text = stdout(&["show", &group]);
        let expected =
            "at this moment, and 3 connections are queued there; their processes are busy, or";
        assert!(text.contains(expected), "{text}");
        let ls = listed();
        assert!(ls.contains("3 connections are queued where nothing waits at this moment"), "{ls}");

        // By epoll, and in poll(2).
        let watching = watched(&listeners[0]);
        let found = finding(&group, "unwaited").unwrap();
        assert_eq!(found["members"].as_array().unwrap().len(), 1);
        drop(clients);
        while_accepting(&listeners[1], || {
            until("a thread waits in accept", BOUND, || finding(&group, "unwaited").is_none());
        });
        drop(watching);
    });
}

/// An epoll instance that watches the listener.
fn watched(listener: &TcpListener) -> OwnedFd {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let data = epoll::EventData::new_u64(0);
    epoll::add(&epoll, listener, data, epoll::EventFlags::IN).unwrap();
    epoll
}

/// Runs `test` while a thread accepts connections at the listener.
fn while_accepting(listener: &TcpListener, test: impl FnOnce()) {
    let address = listener.local_addr().unwrap();
    let accepting = listener.try_clone().unwrap();
    let (done, until_done) = std::sync::mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        while let Ok((client, _)) = accepting.accept() {
            drop(client);
            if until_done.try_recv().is_ok() {
                return;
            }
        }
    });
    test();
    done.send(()).unwrap();
    while !thread.is_finished() {
        let _ = TcpStream::connect(address);
    }
    thread.join().unwrap();
}

#[test]
fn full_queues_and_what_they_lost_are_named() {
    isolated(|| {
        let members = Bind::new(loopback(false)).udp_sockets(2).unwrap();
        for member in &members {
            set_socket_recv_buffer_size(member, 4096).unwrap();
        }
        let address = members[0].local_addr().unwrap();
        let group = format!("udp:{address}");
        assert_eq!(finding(&group, "drops"), None);
        // One flow: the kernel's hash gives all of it to one member.
        let client = UdpSocket::bind(loopback(false)).unwrap();
        (0..100).for_each(|_| assert_eq!(client.send_to(&[0; 500], address).unwrap(), 500));
        let found = finding(&group, "drops").unwrap();
        let lost = found["members"].as_array().unwrap();
        assert_eq!(lost.len(), 1, "{found}");
        let text = found["text"].as_str().unwrap();
        assert!(
            text.contains(" at cookie:") && text.contains("the kernel's hash gives all"),
            "{text}"
        );
        let shown = json(&["show", &group, "--json"]);
        let drops: Vec<u64> = shown["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["drops"].as_u64().unwrap())
            .collect();
        let received = |socket: &UdpSocket| {
            socket.set_nonblocking(true).unwrap();
            let datagrams = std::iter::from_fn(|| socket.recv(&mut [0; 600]).ok());
            datagrams.count() as u64
        };
        let received: u64 = members.iter().map(received).sum();
        assert_eq!(drops.iter().sum::<u64>() + received, 100, "{drops:?}");
    });
}

#[test]
fn an_accept_queue_that_is_full_is_listed() {
    isolated(|| {
        let listeners = Bind::new(loopback(false)).backlog(1).listeners(2).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let group = format!("tcp:{address}");
        stdout(&["attach", &group, "--policy", "round-robin"]);
        let clients: Vec<_> = (0..4).map(|_| TcpStream::connect(address).unwrap()).collect();
        until("all wait", BOUND, || listed().contains(&format!("{group}: 2 queues are full")));
        let text = stdout(&["show", &group]);
        assert!(text.contains(" are full: the kernel drops what comes there"), "{text}");
        drop(clients);
    });
}

#[test]
fn members_of_different_programs_are_told_apart() {
    isolated(|| {
        let (mut listeners, group) = group(3);
        let stranger = Holder::of(listeners.pop().unwrap());
        let text = stdout_undisturbed(&["show", &group]);
        let pid = stranger.pid().replace("pid:", "sleep ");
        let expected = "its sockets belong to processes that run different files: ";
        assert!(text.contains(expected) && text.contains(&format!("{pid} (1 socket")), "{text}");
        assert!(text.contains(&format!(" {} (2 sockets)", std::process::id())), "{text}");
        for arguments in [&["ls", "--netns", &own_netns()][..], &["attach", &group]] {
            let text = stdout_undisturbed(arguments);
            assert!(text.contains(expected), "{text}");
        }
        let shown = json(&["show", &group, "--json"]);
        let holders = &shown["members"][0]["holders"][0];
        assert!(holders["server_pid"].is_u64() && holders["server_started"].is_u64(), "{holders}");
    });
}

#[test]
fn one_flow_under_a_keyed_policy_is_explained() {
    isolated(|| {
        let members = Bind::new(loopback(false)).nonblocking(true).udp_sockets(3).unwrap();
        let address = members[0].local_addr().unwrap();
        let group = format!("udp:{address}");
        stdout(&["attach", &group, "--policy", "hash"]);
        let client = UdpSocket::bind(loopback(false)).unwrap();
        // A full queue would be passed over.
        let ask = |_| {
            assert_eq!(client.send_to(b"q", address).unwrap(), 1);
            members.iter().for_each(|member| drop(member.recv(&mut [0; 8])));
        };
        (0..1000).for_each(ask);
        let found = finding(&group, "one-sided").unwrap();
        assert_eq!(found["members"].as_array().unwrap().len(), 1);
        let text = found["text"].as_str().unwrap();
        assert!(
            text.contains("got 100% of the recent picks: hash gives all datagrams from"),
            "{text}"
        );
        stdout(&["policy", &group, "round-robin"]);
        (0..1000).for_each(ask);
        assert_eq!(finding(&group, "one-sided"), None);
    });
}

#[test]
fn connections_that_have_sent_nothing_are_named_where_accepting_is_deferred() {
    isolated(|| {
        let (listeners, group) = group(2);
        listeners.iter().for_each(defer_accepting);
        stdout(&["attach", &group, "--policy", "round-robin"]);
        let address = listeners[0].local_addr().unwrap();
        let clients: Vec<_> = (0..4).map(|_| TcpStream::connect(address).unwrap()).collect();
        let expected = "2 connections have not sent anything yet, and the server defers accepting \
                        (TCP_DEFER_ACCEPT)";
        let waited = run(&["drain", &group, "slot:0", "--wait=1s"]);
        assert_eq!(waited.status.code(), Some(3), "{waited:?}");
        for text in [waited.stdout, waited.stderr] {
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains(expected) && !text.contains("half-open"), "{text}");
        }
        let shown = json(&["show", &group, "--json"]);
        assert_eq!(shown["members"][0]["defers_accept"], true);
        // The last packet of each handshake counts as dropped, and is no loss.
        assert_eq!(finding(&group, "drops"), None);
        drop(clients);
    });
}

/// Sets TCP_DEFER_ACCEPT, which rustix does not have.
fn defer_accepting(listener: &TcpListener) {
    const SCRIPT: &str = "import socket; socket.socket(fileno=0).setsockopt(\
                          socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 600)";
    let listener: OwnedFd = listener.try_clone().unwrap().into();
    let set = output(Command::new("python3").args(["-c", SCRIPT]).stdin(listener)).unwrap();
    assert!(set.status.success(), "{set:?}");
}

#[test]
fn a_server_that_is_known_is_told_its_directive() {
    isolated(|| {
        let nginx = Nginx::start_serving(&["127.0.0.1:PORT"], 2, false, "return 204;".into());
        let text = error(1, &["attach", &format!("tcp:{}", nginx.addr())]);
        assert!(text.contains(": nginx ") && text.contains(" (and 2 more) has tcp:"), "{text}");
        assert!(
            text.contains("\nhint: one socket per worker takes, for nginx: `listen ... reu"),
            "{text}"
        );
    });
}
