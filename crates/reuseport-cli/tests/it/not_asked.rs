//! Datagrams of which no program is asked: the command does not claim to decide on them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use sk_reuseport::net::Bind;
use test_support::process::output;
use test_support::program;

use crate::common::{isolated, json, run, stdout};

const MULTICAST: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

/// Two UDP sockets, and their group's name.
fn sockets(at: &str) -> (Vec<UdpSocket>, String) {
    let at: SocketAddr = at.parse().unwrap();
    let sockets = Bind::new(at).udp_sockets(2).unwrap();
    for socket in &sockets {
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    }
    let name = format!("udp:{}", sockets[0].local_addr().unwrap());
    (sockets, name)
}

fn not_asked(group: &str) -> Value {
    json(&["show", group, "--json"])["not_asked"].clone()
}

/// Each of the sockets gets each multicast datagram, drained or not, and the program sees none.
#[test]
fn multicast_datagrams_reach_a_drained_member_and_the_command_says_so() {
    isolated(|| {
        let (sockets, group) = sockets("0.0.0.0:0");
        let port = sockets[0].local_addr().unwrap().port();
        let plain = stdout(&["attach", &group, "--policy", "round-robin"]);
        assert!(!plain.contains("are not dealt"), "{plain}");
        assert_eq!(not_asked(&group), json!([]));
        let drained = stdout(&["drain", &group, "slot:0", "--wait=5"]);
        assert!(drained.ends_with("drained\n"), "{drained}");
        stdout(&["undrain", &group, "slot:0"]);

        for socket in &sockets {
            socket.join_multicast_v4(&MULTICAST, &Ipv4Addr::LOCALHOST).unwrap();
        }
        let text = stdout(&["attach", &group]);
        assert!(text.contains("multicast datagrams are not dealt"), "{text}");
        let text = stdout(&["show", &group]);
        assert!(text.contains("multicast datagrams are not dealt"), "{text}");
        assert_eq!(not_asked(&group), json!(["multicast"]));

        let text = stdout(&["drain", &group, "slot:0"]);
        assert!(text.contains("multicast datagrams still reach it"), "{text}");
        let waited = run(&["drain", &group, "slot:0", "--wait=5"]);
        assert_eq!(waited.status.code(), Some(3), "{waited:?}");
        let error = String::from_utf8(waited.stderr).unwrap();
        assert!(error.contains("multicast datagrams still reach slot:0"), "{error}");
        assert!(!String::from_utf8(waited.stdout).unwrap().ends_with("drained\n"));

        // They do.
        let route = "route add 224.0.0.0/4 dev lo".split(' ');
        assert!(output(Command::new(program("ip")).args(route)).unwrap().status.success());
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..5 {
            sender.send_to(b"x", (MULTICAST, port)).unwrap();
        }
        for socket in &sockets {
            (0..5).for_each(|_| assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 1));
        }
        let counters = &json(&["show", &group, "--json"])["counters"];
        assert_eq!(counters["picks"], 0, "{counters}");
    });
}

#[test]
fn each_kind_is_told_from_the_sockets_options() {
    let transparent = |socket: &UdpSocket, option: &str| {
        let script = format!("import socket; socket.socket(fileno=0).setsockopt({option}, 1)");
        let stdin = socket.as_fd().try_clone_to_owned().unwrap();
        let python = output(Command::new(program("python3")).args(["-c", &script]).stdin(stdin));
        assert!(python.unwrap().status.success());
    };
    isolated(|| {
        let (v4, group) = sockets("127.0.0.1:0");
        v4[1].set_broadcast(true).unwrap();
        assert_eq!(not_asked(&group), json!(["broadcast"]));
        transparent(&v4[0], "0, 19");
        assert_eq!(not_asked(&group), json!(["broadcast", "transparent"]));
        let text = stdout(&["attach", &group]);
        assert!(text.contains("datagrams through TPROXY are not dealt"), "{text}");

        let (v6, group) = sockets("[::]:0");
        assert_eq!(not_asked(&group), json!([]));
        let all_dns: Ipv6Addr = "ff02::fb".parse().unwrap();
        v6[0].join_multicast_v6(&all_dns, 1).unwrap();
        assert_eq!(not_asked(&group), json!(["multicast"]));
        transparent(&v6[0], "41, 75");
        assert_eq!(not_asked(&group), json!(["multicast", "transparent"]));

        // A socket that is bound to the address gets nothing else, joined or not.
        let (_bound, group) = sockets("224.0.0.251:0");
        assert_eq!(not_asked(&group), json!(["multicast"]));
    });
}
