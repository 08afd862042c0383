//! Names: what `ls` prints finds its group again, in each verb, whatever has the same address.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::fchown;
use std::path::Path;

use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use serde_json::Value;
use sk_reuseport::net::Bind;
use test_support::{bpffs, netns};

use crate::common::{error, group, isolated, json, own_netns, pinned_groups, run, stdout};

fn at(address: &str, port: u16) -> SocketAddr {
    format!("{address}:{port}").parse().unwrap()
}

/// UDP sockets of this user. Two users may share an address with SO_REUSEADDR.
fn of_user(uid: u32, address: SocketAddr, count: usize) -> Vec<OwnedFd> {
    let socket = |_| {
        let (family, flags) = (AddressFamily::INET, SocketFlags::CLOEXEC);
        let socket = net::socket_with(family, SocketType::DGRAM, flags, None).unwrap();
        sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        sockopt::set_socket_reuseport(&socket, true).unwrap();
        fchown(&socket, Some(uid), None).unwrap();
        net::bind(&socket, &address).unwrap();
        socket
    };
    (0..count).map(socket).collect()
}

/// Sockets of which many are written alike.
struct Alike {
    port: u16,
    _tcp: Vec<TcpListener>,
    _udp: Vec<UdpSocket>,
    _users: Vec<OwnedFd>,
}

impl Alike {
    /// In the network namespace of the thread, where the port has to be free.
    fn new(port: u16) -> Self {
        let mut udp = Bind::new(at("0.0.0.0", port + 1)).device("lo").udp_sockets(2).unwrap();
        udp.extend(Bind::new(at("127.0.0.2", port)).udp_sockets(1).unwrap());
        let users = [of_user(0, at("127.0.0.1", port), 1), of_user(33, at("127.0.0.1", port), 2)];
        let mut tcp = Bind::new(at("127.0.0.1", port)).listeners(2).unwrap();
        for v6only in [false, true] {
            tcp.extend(Bind::new(at("[::]", port + 1)).v6only(v6only).listeners(2).unwrap());
        }
        Self { port, _tcp: tcp, _udp: udp, _users: users.into_iter().flatten().collect() }
    }

    fn names(&self) -> Vec<String> {
        let (port, next) = (self.port, self.port + 1);
        vec![
            format!("tcp:127.0.0.1:{port}"),
            format!("tcp:[::]:{next}"),
            format!("tcp:[::]:{next},v6only"),
            format!("udp:127.0.0.1:{port},uid=0"),
            format!("udp:127.0.0.1:{port},uid=33"),
            format!("udp:127.0.0.2:{port}"),
            format!("udp:0.0.0.0%lo:{next}"),
        ]
    }
}

/// The first column of `ls`.
fn listed() -> Vec<String> {
    let text = stdout(&["ls", "--netns", &own_netns()]);
    let first = |line: &str| line.split(' ').next().unwrap().to_owned();
    text.lines().skip(1).map(first).collect()
}

/// What `show --json` says of a group, without its name, and without what counts.
fn identity(name: &str) -> [Value; 5] {
    let group = json(&["show", name, "--json"]);
    ["protocol", "address", "uid", "v6only", "device"].map(|field| group[field].clone())
}

#[test]
fn what_ls_prints_finds_its_group_in_each_verb() {
    isolated(|| {
        let alike = Alike::new(3000);
        let names = alike.names();
        assert_eq!(listed(), names);
        let mut seen = std::collections::HashSet::new();
        for name in &names {
            let show = stdout(&["show", name]);
            assert_eq!(show.lines().next(), Some(name.as_str()));
            assert!(seen.insert(format!("{:?}", identity(name))), "{name} is another group");
            let text = stdout(&["attach", name, "--policy", "hash"]);
            assert!(text.starts_with(&format!("{name}: hash decides")), "{text}");
            assert!(text.contains(&format!("reuseport attach {name}\n")), "{text}");
            assert!(stdout(&["policy", name, "random"]).starts_with(&format!("{name}: random")));
            for arguments in [
                &["weight", name, "slot:0=2"][..],
                &["drain", name, "slot:0"],
                &["undrain", name, "slot:0"],
            ] {
                assert!(stdout(arguments).contains(&format!("{name}: slot:0")), "{arguments:?}");
            }
        }
        assert_eq!(pinned_groups(), names.len());
        for name in &names {
            assert!(stdout(&["detach", name]).contains(&format!("from {name}:")));
        }
        assert_eq!(pinned_groups(), 0);
    });
}

#[test]
fn an_ambiguous_name_lists_what_can_be_pasted_and_parts_may_be_left_out() {
    isolated(|| {
        let alike = Alike::new(3000);
        let names = alike.names();
        let refused = error(2, &["show", ":3000"]);
        assert!(
            refused.starts_with("reuseport: `:3000` matches 4 groups\nhint: name one of them:\n")
        );
        let candidates: Vec<&str> =
            refused.lines().skip(2).map(|line| line.trim().split(' ').next().unwrap()).collect();
        assert_eq!(candidates.len(), 4);
        for candidate in candidates {
            assert!(names.iter().any(|name| name == candidate), "{refused}");
            stdout(&["show", candidate]);
        }
        assert!(refused.lines().all(|line| line.len() <= 80), "{refused}");
        let refused = error(2, &["attach", "tcp::3001"]);
        let choice = "hint: name one of them: tcp:[::]:3001 or tcp:[::]:3001,v6only\n";
        assert!(refused.ends_with(choice), "{refused}");
        for (less, name) in [
            (":3000,uid=33", &names[4]),
            ("udp::3001,dev=lo", &names[6]),
            (":3001,dev=1", &names[6]),
            (":3001,v6only", &names[2]),
            ("tcp::3000", &names[0]),
            ("tcp:[::ffff:127.0.0.1]:3000", &names[0]),
        ] {
            assert_eq!(stdout(&["show", less]).lines().next(), Some(name.as_str()), "{less}");
        }
        // A policy's parameter is no part of a group.
        assert!(!run(&["show", ":3000,comm=nginx"]).status.success());
    });
}

#[test]
fn groups_of_several_namespaces_are_told_apart_and_devices_have_names_in_all_of_them() {
    isolated(|| {
        let own = Alike::new(3100);
        netns::isolated(|| {
            let other = Alike::new(3100);
            let netns = own_netns();
            assert_eq!(listed(), other.names());
            // As a reader in the first namespace sees them.
            let outside = |arguments: &[&str]| {
                let output = std::thread::scope(|scope| {
                    let inside = || netns::isolated(|| run(arguments));
                    scope.spawn(inside).join().unwrap()
                });
                (output.status.code(), String::from_utf8(output.stdout).unwrap())
            };
            let (code, text) = outside(&["ls", "--json", "--netns", &netns]);
            assert_eq!(code, Some(0));
            let groups: Vec<Value> = serde_json::from_str(&text).unwrap();
            assert_eq!(groups.len(), own.names().len());
            for group in &groups {
                let name = group["group"].as_str().unwrap();
                assert!(name.contains(&format!(",netns={netns}")), "{name}");
                if name.contains('%') {
                    assert_eq!(group["device"]["name"], "lo");
                    assert!(name.starts_with("udp:0.0.0.0%lo:3101,"), "{name}");
                }
                let (code, shown) = outside(&["show", name, "--json"]);
                let shown: Value = serde_json::from_str(&shown).unwrap();
                assert_eq!((code, &shown["group"]), (Some(0), &group["group"]));
                assert_eq!(shown["netns"].to_string(), netns);
            }
            let both = outside(&["show", "tcp:127.0.0.1:3100", "--json", "--all"]).1;
            let both: Vec<Value> = serde_json::from_str(&both).unwrap();
            assert!(both.len() >= 2, "{both:?}");
        });
    });
}

#[test]
fn several_groups_in_one_call_and_all_that_match() {
    isolated(|| {
        let alike = Alike::new(3000);
        let names = alike.names();
        let (tcp, udp) = (names[0].as_str(), names[4].as_str());
        let text = stdout(&["attach", tcp, udp, "--policy", "round-robin"]);
        assert!(text.contains(&format!("{tcp}: round")) && text.contains(&format!("{udp}: round")));
        assert_eq!(text.matches("While these are open").count(), 1, "{text}");
        let both = json(&["show", tcp, udp, "--json"]);
        assert_eq!((&both[0]["group"], &both[1]["group"]), (&tcp.into(), &udp.into()));
        assert!(stdout(&["show", tcp, udp]).contains(&format!("\n\n{udp}\n")));
        let text = stdout(&["policy", tcp, udp, "random"]);
        assert_eq!(text, format!("{tcp}: random decides\n{udp}: random decides\n"));

        let text = stdout(&["weight", tcp, udp, "slot:0=3", "slot:1=2"]);
        assert_eq!(text.lines().count(), 4, "{text}");
        // It is a member of one of them.
        let cookie = both[1]["members"][1]["cookie"].to_string();
        let member = format!("cookie:{cookie}");
        let text = stdout(&["drain", tcp, udp, &member]);
        assert!(
            text.starts_with(&format!("{udp}: slot:1 ")) && text.lines().count() == 1,
            "{text}"
        );
        let text = stdout(&["undrain", tcp, udp, &member, "--netns", &own_netns()]);
        assert!(text.starts_with(&format!("{udp}: slot:1 ")), "{text}");
        assert!(error(1, &["drain", tcp, udp, "slot:9"]).contains("slot:9"));
        assert!(error(2, &["drain", tcp, udp]).contains("no MEMBER is given"));
        assert!(error(2, &["policy", tcp, udp]).contains("no POLICY is given"));
        assert!(error(2, &["policy", tcp, "hash", "random"]).contains("more than one POLICY"));

        // Those to which nothing is attached are passed over.
        let netns = own_netns();
        let all = |verb: &str, rest: &[&str]| {
            stdout(&[&[verb, ":3000", "--all", "--netns", &netns], rest].concat())
        };
        assert_eq!(all("policy", &["hash"]).lines().count(), 2);
        assert_eq!(all("drain", &["slot:0", "--wait", "5s"]).lines().count(), 2);
        assert_eq!(all("detach", &[]).lines().count(), 2);
        let none = error(1, &["detach", ":3000", "--all", "--netns", &netns]);
        assert!(none.contains("no program of this tool"), "{none}");
        assert_eq!(pinned_groups(), 0);
    });
}

#[test]
fn an_unknown_namespace_is_not_one_without_groups() {
    isolated(|| {
        let empty = own_netns();
        assert!(stdout(&["ls", "--netns", &empty]).starts_with("no groups"));
        let (_listeners, group) = group(1);
        stdout(&["show", &group]);
        assert!(!Path::new(bpffs::PATH).join("reuseport").exists(), "looking creates nothing");
        error(1, &["show", &format!(":80,netns={empty}")]);
        for arguments in [
            &["ls", "--netns", "12"][..],
            &["ls", "--json", "--netns", "12"],
            &["show", ":80", "--netns", "12"],
            &["attach", ":80,netns=12"],
            &["attach", ":80,netns=12", "--watch"],
            &["detach", ":80,netns=12", "--all"],
        ] {
            let refused = error(2, arguments);
            assert!(refused.contains("there is no network namespace 12:"), "{refused}");
        }
        let unknown = error(2, &["show", ":80,netns=no-such"]);
        assert!(unknown.contains("no network namespace is named `no-such`"), "{unknown}");
        let twice = error(2, &["show", ":80,netns=12", "--netns", &empty]);
        assert!(twice.contains("which --netns names"), "{twice}");
    });
}
