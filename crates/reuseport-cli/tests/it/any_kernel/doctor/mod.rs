//! `doctor`: for each finding a group that has it, and one that has not.

mod host;

use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use rustix::event::epoll;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketType, bind, ipproto, listen, socket};
use serde_json::Value;
use sk_reuseport::net::Bind;
use test_support::InFlight;
use test_support::process::{close, output, output_undisturbed};
use test_support::wait::{BOUND, until};
use test_support::{bpffs, loopback, program, split};

use crate::common::{
    Holder, Running, command, error, group, isolated, json, own_netns, run, stdout,
};

/// What `doctor` prints for programs about a group. Its exit status has to fit.
fn examined(group: &str, more: &[&str]) -> Value {
    let arguments = [&["doctor", group, "--json"], more].concat();
    let output = output_undisturbed(&mut command(&arguments)).unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let unseen = found["groups"][0]["unseen"].as_array().unwrap().len();
    let is_fine = found["problems"] == 0 && found["advice"] == 0 && unseen == 0;
    assert_eq!(output.status.code(), Some(if is_fine { 0 } else { 3 }), "{found}");
    found["groups"][0].clone()
}

/// The findings about a group, by name.
fn found(group: &str) -> Vec<(String, Value)> {
    let examined = examined(group, &[]);
    let findings = examined["findings"].as_array().unwrap().iter();
    findings.map(|one| (one["finding"].as_str().unwrap().to_owned(), one.clone())).collect()
}

/// The finding of this name. It has its severity and what mends it, and the page has its section.
fn finding(group: &str, name: &str) -> Option<Value> {
    let (_, found) = found(group).into_iter().find(|(found, _)| found == name)?;
    assert_eq!(found["page"], format!("docs/findings.md#{name}"));
    assert!(!found["mend"].as_str().unwrap().is_empty(), "{found}");
    Some(found)
}

/// That the group has the finding, of this severity, and that its text and what mends it have these words.
#[track_caller]
fn has(group: &str, name: &str, severity: &str, text: &str, mend: &str) {
    let Some(found) = finding(group, name) else { panic!("{group} has no {name}") };
    assert_eq!(found["severity"], severity, "{found}");
    assert!(found["text"].as_str().unwrap().contains(text), "{found}");
    assert!(found["mend"].as_str().unwrap().contains(mend), "{found}");
}

#[track_caller]
fn has_not(group: &str, names: &[&str]) {
    for (name, found) in found(group) {
        assert!(!names.contains(&&*name), "{found}");
    }
}

/// An epoll instance that watches the listener.
fn watched(socket: impl AsFd) -> OwnedFd {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let data = epoll::EventData::new_u64(0);
    epoll::add(&epoll, socket, data, epoll::EventFlags::IN).unwrap();
    epoll
}

fn attach(group: &str) {
    stdout(&["attach", group, "--policy", "round-robin"]);
}

#[test]
fn a_group_without_a_fault_is_fine_and_that_is_said() {
    isolated(|| {
        let (listeners, group) = group(2);
        let _watched: Vec<_> = listeners.iter().map(watched).collect();
        attach(&group);
        let mut watcher = Running::start(&["attach", &group, "--watch"]);
        watcher.read_until("decides among");
        assert_eq!(found(&group), []);
        let text = stdout(&["doctor", &group]);
        assert_eq!(text, "1 group, 0 findings\n");
        watcher.interrupt();
        has(&group, "no-watcher", "advice", "no process follows it", "--watch`, as a service");
        assert_eq!(found(&group).len(), 1);
    });
}

#[test]
fn findings_are_silenced_by_name_for_all_groups_or_one() {
    isolated(|| {
        let (listeners, one) = group(2);
        let (others, two) = group(2);
        let _watched: Vec<_> = listeners.iter().chain(&others).map(watched).collect();
        let names = |silence: &[&str]| {
            let netns = own_netns();
            let arguments = [&["doctor", "--json", "--netns", &*netns], silence].concat();
            let output = run(&arguments);
            let found: Value = serde_json::from_slice(&output.stdout).unwrap();
            let groups = found["groups"].as_array().unwrap();
            let of = |group: &Value| group["findings"].as_array().unwrap().len();
            let silenced = found["silenced"].as_u64().unwrap();
            (output.status.code(), groups.iter().map(of).sum::<usize>(), silenced)
        };
        assert_eq!(names(&[]), (Some(3), 2, 0));
        assert_eq!(names(&["--silence", "no-migration"]), (Some(0), 0, 2));
        let of_one = format!("drops,no-migration@{one},netns={}", own_netns());
        assert_eq!(names(&["--silence", &of_one]), (Some(3), 1, 1));
        let other = format!("no-migration@{two}");
        assert_eq!(names(&["--silence", &of_one, "--silence", &other]), (Some(0), 0, 2));
        assert_eq!(examined(&one, &["--silence", "no-migration"])["silenced"][0], "no-migration");
        let text = stdout(&["doctor", &one, "--silence", "no-migration"]);
        assert_eq!(text, "1 group, 0 findings, 1 silenced\n");
    });
}

#[test]
fn what_was_asked_for_has_to_exist() {
    isolated(|| {
        let (_listeners, one) = group(2);
        let text = error(1, &["doctor", "tcp:127.0.0.1:1"]);
        assert!(text.contains("no group matches `tcp:127.0.0.1:1`"), "{text}");
        error(1, &["doctor", &one, "tcp:127.0.0.1:1"]);
        error(2, &["doctor", "--netns", "no-such-namespace"]);
        let text = error(2, &["doctor", &one, "--silence", "no-watchers,drop"]);
        assert!(text.contains("did you mean `no-watcher`?"), "{text}");
        let text = error(2, &["doctor", "--silence", "drops@:80,netns=no-such-namespace"]);
        assert!(text.contains("no network namespace is named"), "{text}");
    });
}

#[test]
fn a_program_that_is_lost_or_replaced_or_has_its_state_elsewhere_is_told() {
    isolated(|| {
        let (listeners, group) = group(2);
        attach(&group);
        has_not(&group, &["program-lost", "program-replaced", "state-elsewhere"]);
        replace_program(&listeners[0]);
        let force = format!("`reuseport attach {group} --force`");
        has(&group, "program-replaced", "problem", "in place of ours", &force);

        let address = listeners[0].local_addr().unwrap();
        close(listeners);
        let _again = Bind::new(address).listeners(2).unwrap();
        let again = format!("`reuseport attach {group}`");
        has(&group, "program-lost", "problem", "the kernel's hash decides", &again);
        // What it says helps.
        attach(&group);
        has_not(&group, &["program-lost"]);
        stdout(&["detach", &group]);
        has_not(&group, &["program-lost"]);

        let elsewhere = Path::new(bpffs::PATH).join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let mut attach = Command::new(cargo_bin!("reuseport"));
        attach.args(["attach", &group]).env("REUSEPORT_BPFFS", elsewhere);
        assert!(output(&mut attach).unwrap().status.success());
        has(&group, "state-elsewhere", "problem", "pinned elsewhere", "REUSEPORT_BPFFS");
    });
}

/// Attaches a classic program, which gives everything to the first member (SO_ATTACH_REUSEPORT_CBPF).
fn replace_program(listener: &TcpListener) {
    const SCRIPT: &str = "import ctypes, socket, struct\n\
        code = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0))\n\
        s = socket.socket(fileno=0)\n\
        s.setsockopt(socket.SOL_SOCKET, 51, struct.pack('HxxxxxxQ', 1, ctypes.addressof(code)))";
    set(listener, SCRIPT);
}

/// Runs a script of Python that has the socket as descriptor 0.
fn set(socket: impl AsFd, script: &str) {
    let stdin = socket.as_fd().try_clone_to_owned().unwrap();
    let mut python = Command::new(program("python3"));
    let set = output(python.args(["-c", script]).stdin(stdin)).unwrap();
    assert!(set.status.success(), "{set:?}");
}

#[test]
fn members_that_get_nothing_are_told_with_what_adds_them() {
    isolated(|| {
        let (mut listeners, group) = group(2);
        attach(&group);
        has_not(&group, &["joined-later", "undecided", "none-active"]);
        let address = listeners[0].local_addr().unwrap();
        let late = Bind::new(address).listeners(1).unwrap();
        let again = format!("`reuseport attach {group}` adds");
        has(&group, "joined-later", "problem", "joined after `attach`", &again);
        assert_eq!(
            finding(&group, "joined-later").unwrap()["members"].as_array().unwrap().len(),
            1
        );

        stdout(&["weight", &group, "slot:0=0", "slot:1=0"]);
        let weight = format!("`reuseport weight {group} slot:0=1`");
        has(&group, "none-active", "problem", "no member is active with a weight", &weight);
        stdout(&["drain", &group, "slot:1"]);
        let undrain = format!("`reuseport undrain {group} slot:1`");
        has(&group, "none-active", "problem", "no member is active", &undrain);

        close(listeners.drain(..));
        let attach = format!("`reuseport attach {group}` gives");
        has(&group, "undecided", "problem", "has no member to select", &attach);
        has_not(&group, &["joined-later"]);
        drop(late);
    });
}

#[test]
fn members_that_cannot_be_enrolled_are_told_before_and_after_attaching() {
    isolated(|| {
        let (mut listeners, group) = group(3);
        has_not(&group, &["hidden-member", "mptcp"]);
        let hidden = InFlight::send(listeners.pop().unwrap());
        has(&group, "hidden-member", "advice", "`attach` can give it no slot", "io_uring");
        let address = listeners[0].local_addr().unwrap();
        let mptcp = mptcp(address.port());
        if let Some(mptcp) = &mptcp {
            has(&group, "mptcp", "advice", "an MPTCP listener", "--partial` steers the others");
            mptcp.as_fd();
        }
        assert_eq!(run(&["attach", &group, "--partial"]).status.code(), Some(3));
        has(
            &group,
            "hidden-member",
            "problem",
            "it has no slot and gets nothing",
            "this on the host",
        );
        if mptcp.is_some() {
            has(&group, "mptcp", "problem", "it has no slot and gets nothing", "without MPTCP");
        }
        drop(hidden);
    });
}

/// An MPTCP listener on a port of 127.0.0.1 with SO_REUSEPORT; None where the kernel has none.
fn mptcp(port: u16) -> Option<OwnedFd> {
    let listener = socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::MPTCP)).ok()?;
    rustix::net::sockopt::set_socket_reuseport(&listener, true).unwrap();
    bind(&listener, &std::net::SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    listen(&listener, 512).unwrap();
    Some(listener)
}

#[test]
fn udp_sockets_that_left_their_group_and_groups_of_one_name_are_told() {
    isolated(|| {
        let sockets = Bind::new(loopback(false)).udp_sockets(2).unwrap();
        let address = sockets[0].local_addr().unwrap();
        let group = format!("udp:{address}");
        has_not(&group, &["connected-udp", "split"]);
        for socket in &sockets {
            set_socket_reuseaddr(socket, true).unwrap();
        }
        // It sets the option after bind.
        let late = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
        set_socket_reuseaddr(&late, true).unwrap();
        bind(&late, &address).unwrap();
        has_not(&group, &["connected-udp"]);
        rustix::net::sockopt::set_socket_reuseport(&late, true).unwrap();
        has(&group, "connected-udp", "problem", "in no group, and free to take", "bind new ones");
        close(late);
        has_not(&group, &["connected-udp"]);
        let peer = UdpSocket::bind(loopback(false)).unwrap();
        let per_client = Bind::new(address).udp_sockets(1).unwrap().remove(0);
        per_client.connect(peer.local_addr().unwrap()).unwrap();
        has(
            &group,
            "connected-udp",
            "advice",
            "1 UDP socket on its address is connected",
            "binds its",
        );

        let (members, leaver) = split::before_split("0.0.0.0".parse().unwrap(), 2);
        let port = members[0].local_addr().unwrap().port();
        let second = split::split_off(leaver);
        let all = run(&["doctor", &format!("udp:0.0.0.0:{port}"), "--all", "--json"]);
        let all: Value = serde_json::from_slice(&all.stdout).unwrap();
        let severity = |group: &Value| {
            let findings = group["findings"].as_array().unwrap().iter();
            let split = findings.filter(|one| one["finding"] == "split");
            split.map(|one| one["severity"].as_str().unwrap().to_owned()).collect::<String>()
        };
        let groups = all["groups"].as_array().unwrap();
        assert_eq!(groups.iter().map(severity).collect::<Vec<_>>(), ["problem", "advice"]);
        drop((members, second));
    });
}

#[test]
fn which_limit_makes_an_accept_queue_short_is_told() {
    isolated(|| {
        let bind = |backlog| {
            let listeners = Bind::new(loopback(false)).backlog(backlog).listeners(2).unwrap();
            let name = format!("tcp:{}", listeners[0].local_addr().unwrap());
            (listeners, name)
        };
        let (_enough, group) = bind(512);
        has_not(&group, &["small-backlog"]);
        let (listeners, group) = bind(7);
        let theirs = "limited to 7 connections, and the kernel drops what comes to a full one: the server asked";
        has(&group, "small-backlog", "advice", theirs, "backlog=N");
        attach(&group);
        let address = listeners[0].local_addr().unwrap();
        let clients: Vec<_> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
        until("they wait", BOUND, || {
            finding(&group, "small-backlog").is_some_and(|one| one["severity"] == "problem")
        });
        has(&group, "small-backlog", "problem", "and 4 of 7 are taken", "backlog");
        drop(clients);

        fs::write("/proc/sys/net/core/somaxconn", "9").unwrap();
        let (_limited, group) = bind(512);
        let kernel = "net.core.somaxconn allows no more than 9";
        has(&group, "small-backlog", "advice", kernel, "`sysctl net.core.somaxconn=4096`");
        // A look from another network namespace reads the same.
        let text = test_support::netns::isolated(|| {
            let netns = format!("{group},netns={}", own_netns_of(&group));
            finding(&netns, "small-backlog").unwrap()["text"].as_str().unwrap().to_owned()
        });
        assert!(text.contains(kernel), "{text}");
    });
}

/// The inode number of the network namespace that this group is in.
fn own_netns_of(group: &str) -> u64 {
    json(&["show", group, "--json"])["netns"].as_u64().unwrap()
}

#[test]
fn connections_that_the_kernel_would_reset_are_advised_of() {
    isolated(|| {
        let (_listeners, group) = group(2);
        let sysctl = "`sysctl net.ipv4.tcp_migrate_req=1`";
        has(&group, "no-migration", "advice", "tcp_migrate_req is 0", sysctl);
        fs::write("/proc/sys/net/ipv4/tcp_migrate_req", "1").unwrap();
        has_not(&group, &["no-migration"]);
        fs::write("/proc/sys/net/ipv4/tcp_migrate_req", "0").unwrap();
        attach(&group);
        has_not(&group, &["no-migration"]);
        let sockets = Bind::new(loopback(false)).udp_sockets(2).unwrap();
        has_not(&format!("udp:{}", sockets[0].local_addr().unwrap()), &["no-migration"]);
    });
}

#[test]
fn open_connections_that_are_not_counted_are_told() {
    isolated(|| {
        let (_listeners, group) = group(2);
        stdout(&["attach", &group, "--policy", "least-loaded"]);
        has_not(&group, &["uncounted", "queues-unread"]);
        fs::remove_file(Path::new(bpffs::PATH).join("reuseport/host/count_open")).unwrap();
        let attach = format!("`reuseport attach {group}`");
        has(&group, "uncounted", "advice", "are not attached", &attach);
    });
}

#[test]
fn datagrams_and_connections_that_come_in_other_ways_are_told() {
    isolated(|| {
        let sockets = Bind::new(loopback(false)).udp_sockets(2).unwrap();
        let group = format!("udp:{}", sockets[0].local_addr().unwrap());
        has_not(&group, &["multicast", "broadcast", "tproxy"]);
        let localhost = std::net::Ipv4Addr::LOCALHOST;
        sockets[0].join_multicast_v4(&"224.0.0.251".parse().unwrap(), &localhost).unwrap();
        sockets[1].set_broadcast(true).unwrap();
        set(&sockets[1], TRANSPARENT);
        has(&group, "multicast", "advice", "copies each datagram to every", "IP_MULTICAST_ALL");
        has(&group, "broadcast", "advice", "has SO_BROADCAST", "unicast");
        has(&group, "tproxy", "advice", "the kernel's hash chooses", "TPROXY");

        let (listeners, group) = self::group(2);
        has_not(&group, &["tproxy"]);
        set(&listeners[1], TRANSPARENT);
        has(&group, "tproxy", "advice", "twice for one packet", "own-program.md");
        assert_eq!(finding(&group, "tproxy").unwrap()["members"].as_array().unwrap().len(), 1);
    });
}

const TRANSPARENT: &str = "import socket; socket.socket(fileno=0).setsockopt(0, 19, 1)";

#[test]
fn what_show_points_out_is_told_with_what_mends_it() {
    isolated(|| {
        let (mut listeners, group) = group(3);
        let epolls: Vec<_> = listeners.iter().map(watched).collect();
        let all =
            ["one-socket", "several-servers", "unwaited", "several-wait", "queue-full", "drops"];
        has_not(&group, &all);
        let second = watched(&listeners[0]);
        has(&group, "several-wait", "advice", "several epoll instances", "socket of its own");
        close((second, epolls));
        let address = listeners[0].local_addr().unwrap();
        has(&group, "unwaited", "advice", "no epoll instance", "`reuseport show");
        let clients: Vec<_> = (0..9).map(|_| TcpStream::connect(address).unwrap()).collect();
        has(&group, "unwaited", "problem", "9 connections are queued", "restart the worker");
        drop(clients);

        let stranger = Holder::of(listeners.pop().unwrap());
        has(&group, "several-servers", "problem", "run different files", "does not belong there");
        drop(stranger);
        listeners.truncate(1);
        has(&group, "one-socket", "advice", "nothing to choose among", "a socket for each worker");
        let shared = Holder::of(listeners[0].try_clone().unwrap());
        has(&group, "one-socket", "problem", "held by 2 processes", "before bind");
        drop(shared);
    });
}

#[test]
fn full_queues_and_what_they_lost_are_told_with_the_limit_of_the_buffer() {
    isolated(|| {
        let members = Bind::new(loopback(false)).udp_sockets(2).unwrap();
        for member in &members {
            set_socket_recv_buffer_size(member, 4096).unwrap();
        }
        let address = members[0].local_addr().unwrap();
        let group = format!("udp:{address}");
        let client = UdpSocket::bind(loopback(false)).unwrap();
        (0..100).for_each(|_| assert_eq!(client.send_to(&[0; 500], address).unwrap(), 500));
        let attach = format!("`reuseport attach {group}`");
        has(&group, "drops", "advice", " at cookie:", &attach);
        let full = found(&group).into_iter().any(|(name, _)| name == "queue-full");
        if full {
            has(&group, "queue-full", "problem", "the kernel drops", "SO_RCVBUF");
        }

        let listeners = Bind::new(loopback(false)).backlog(1).listeners(2).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let group = format!("tcp:{address}");
        attach_round_robin_and_fill(&group, address);
        has(&group, "queue-full", "problem", "are full", "a larger backlog");
        has_not(&group, &["small-backlog"]);
    });
}

fn attach_round_robin_and_fill(group: &str, address: std::net::SocketAddr) {
    attach(group);
    let clients: Vec<_> = (0..4).map(|_| TcpStream::connect(address).unwrap()).collect();
    until("all wait", BOUND, || {
        let shown = json(&["show", group, "--json"]);
        let members = shown["members"].as_array().unwrap();
        members.iter().all(|member| member["queue"] == 2)
    });
    // The kernel keeps what waits although its clients have gone.
    drop(clients);
}

#[test]
fn one_flow_under_a_keyed_policy_is_told() {
    isolated(|| {
        let members = Bind::new(loopback(false)).nonblocking(true).udp_sockets(3).unwrap();
        let address = members[0].local_addr().unwrap();
        let group = format!("udp:{address}");
        stdout(&["attach", &group, "--policy", "hash"]);
        has_not(&group, &["one-sided"]);
        let client = UdpSocket::bind(loopback(false)).unwrap();
        for _ in 0..1000 {
            assert_eq!(client.send_to(b"q", address).unwrap(), 1);
            members.iter().for_each(|member| drop(member.recv(&mut [0; 8])));
        }
        let policy = format!("`reuseport policy {group} round-robin`");
        has(&group, "one-sided", "advice", "got 100% of the recent picks", &policy);
    });
}
