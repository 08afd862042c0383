//! Packets that netfilter looks up before they are delivered: with TPROXY, and by the match "socket". The program
//! then sees them from the IP header on, and perhaps several times.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;

use reuseport::{Host, Policy};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use test_support::feature::{self, require};
use test_support::process::output;
use test_support::wait::{self, BOUND};
use test_support::{nft, program};

use crate::common::segment::{ACK, Segment, Sender};
use crate::common::steered::Steered;
use crate::common::world::{accept_all, alone, counter, more, python_with};

const MEMBERS: usize = 3;

/// Connections, a multiple of the members.
const TIMES: usize = 12;

/// The second byte of each IPv4 source stands in the IP header where the flags stand in the TCP header: no SYN,
/// SYN, no SYN, SYN with ACK.
const SOURCES: [(&str, &str); 5] = [
    ("10.9.0.1", "203.0.113.1"),
    ("10.2.0.1", "203.0.113.1"),
    ("192.168.7.1", "203.0.113.1"),
    ("172.18.0.1", "203.0.113.1"),
    ("fd00:0:2::1", "2001:db8::1"),
];

/// The port that clients connect to.
const PORT: u16 = 80;

fn ip(arguments: &str) {
    let output = output(Command::new(program("ip")).args(arguments.split(' '))).unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Transparent listeners, to which all connections to an address without a socket are taken.
struct Proxy {
    listeners: Vec<TcpListener>,
    source: IpAddr,
    to: SocketAddr,
}

impl Proxy {
    fn new(source: &str, to: &str) -> Self {
        let source: IpAddr = source.parse().unwrap();
        let to = SocketAddr::new(to.parse().unwrap(), PORT);
        let (any, family, option, bits) = match source {
            IpAddr::V4(_) => ("0.0.0.0:0", "ip", "0, 19", 32),
            IpAddr::V6(_) => ("[::]:0", "ip6", "41, 75", 128),
        };
        let mut listeners = more(any.parse().unwrap(), MEMBERS);
        listeners.sort_by_key(|listener| rustix::net::sockopt::socket_cookie(listener).unwrap());
        for listener in &listeners {
            let script = format!("import socket; socket.socket(fileno=0).setsockopt({option}, 1)");
            python_with(listener, &script);
        }
        ip(&format!("addr add {source}/{bits} dev lo"));
        ip(&format!("route add local {}/{bits} dev lo", to.ip()));
        let port = listeners[0].local_addr().unwrap().port();
        nft::add(&format!(
            "table {family} t {{ chain pre {{ type filter hook prerouting priority mangle;
             {family} daddr {} tcp dport {PORT} tproxy to :{port} accept;
             }}
             }}",
            to.ip()
        ));
        Self { listeners, source, to }
    }

    fn steered<'a>(&self, host: &'a Host, policy: Policy) -> Steered<'a> {
        let at = self.listeners[0].local_addr().unwrap();
        Steered::new(host, "tcp", at, policy)
    }

    /// A connection from the source.
    fn connect(&self) -> TcpStream {
        let family = if self.to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let client: OwnedFd =
            socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        bind(&client, &SocketAddr::new(self.source, 0)).unwrap();
        connect(&client, &self.to).unwrap();
        client.into()
    }

    /// Connections, accepted at once, by the member that accepted them.
    fn deal(&self) -> Vec<usize> {
        deal(&self.listeners, || self.connect())
    }
}

fn deal(listeners: &[TcpListener], connect: impl Fn() -> TcpStream) -> Vec<usize> {
    let mut dealt = vec![0; listeners.len()];
    for number in 1..=TIMES {
        let _client = connect();
        wait::until("the connection is accepted", BOUND, || {
            for (count, listener) in dealt.iter_mut().zip(listeners) {
                *count += accept_all(listener);
            }
            dealt.iter().sum::<usize>() == number
        });
    }
    dealt
}

#[test]
fn with_tproxy_a_syn_is_a_pick_in_every_policy() {
    if !require(&feature::SOCKET_RULES) {
        return;
    }
    for (source, to) in SOURCES {
        alone(|| {
            let proxy = Proxy::new(source, to);
            let host = Host::open().unwrap();
            for policy in Policy::ALL {
                let steered = proxy.steered(&host, *policy);
                let dealt = proxy.deal();
                let what = format!("{policy} from {source}: {dealt:?}");
                match policy.to_string().as_str() {
                    "round-robin" | "least-loaded" => {
                        assert_eq!(dealt, [TIMES / MEMBERS; MEMBERS], "{what}");
                    }
                    "source" => assert!(dealt.contains(&TIMES), "{what}"),
                    _ => {}
                }
                steered.assert_counters(&[("picks", TIMES as u64)]);
                let picks: Vec<_> =
                    (0..MEMBERS).map(|slot| steered.picks_of(slot) as usize).collect();
                assert_eq!(picks, dealt, "{what}");
                steered.detach();
            }
        });
    }
}

/// IPv4 options, and an IPv6 extension header, stand before the TCP header.
#[test]
fn with_tproxy_headers_of_other_lengths_are_read() {
    if !require(&feature::SOCKET_RULES) {
        return;
    }
    // IP_OPTIONS, four times "no operation"; IPV6_DSTOPTS, six bytes of padding.
    let options = ["0, 4, b'\\1\\1\\1\\1'", "41, 59, b'\\0\\0\\1\\4\\0\\0\\0\\0'"];
    for ((source, to), options) in [SOURCES[0], SOURCES[4]].into_iter().zip(options) {
        alone(|| {
            let proxy = Proxy::new(source, to);
            let host = Host::open().unwrap();
            let steered = proxy.steered(&host, Policy::RoundRobin);
            let family = if proxy.to.is_ipv4() { "AF_INET" } else { "AF_INET6" };
            let script = format!(
                "import socket
for _ in range({TIMES}):
    client = socket.socket(socket.{family})
    client.setsockopt({options})
    client.bind(('{source}', 0))
    client.connect(('{to}', {PORT}))"
            );
            let client = output(Command::new(program("python3")).args(["-c", &script])).unwrap();
            assert!(client.status.success(), "{}", String::from_utf8_lossy(&client.stderr));
            let dealt: Vec<_> = proxy.listeners.iter().map(accept_all).collect();
            assert_eq!(dealt, [TIMES / MEMBERS; MEMBERS]);
            steered.assert_counters(&[("picks", TIMES as u64)]);
        });
    }
}

/// Rules that only ask whether there is a socket: twice before the packet is delivered.
#[test]
fn a_packet_that_rules_look_up_counts_once_and_takes_one_turn() {
    if !require(&feature::SOCKET_RULES) {
        return;
    }
    for at in ["127.0.0.1:0", "[::1]:0"] {
        alone(|| {
            let listeners = more(at.parse().unwrap(), MEMBERS);
            let at = listeners[0].local_addr().unwrap();
            nft::add(&format!(
                "table inet t {{
                 chain pre {{ type filter hook prerouting priority mangle;
                 tcp dport {0} socket transparent 0 counter;
                 }}
                 chain in {{ type filter hook input priority 0;
                 tcp dport {0} socket transparent 0 counter;
             }}
             }}",
                at.port()
            ));
            let host = Host::open().unwrap();
            let steered = Steered::new(&host, "tcp", at, Policy::RoundRobin);
            let dealt = deal(&listeners, || TcpStream::connect(at).unwrap());
            assert_eq!(dealt, [TIMES / MEMBERS; MEMBERS]);
            assert_eq!(steered.cursor(), TIMES as u64);
            let picks: u64 = (0..MEMBERS).map(|slot| steered.picks_of(slot)).sum();
            assert_eq!(picks, TIMES as u64);
            let looked_up_again = 2 * TIMES as u64;
            let repeated = ("repeated", looked_up_again);
            steered.assert_counters(&[("picks", TIMES as u64), repeated]);

            Sender::new(at).send(&Segment::new(ACK));
            wait::until("the stray is looked up", BOUND, || {
                counter(&steered.status(), "repeated") == looked_up_again + 2
            });
            assert_eq!(counter(&steered.status(), "stray"), 1);
        });
    }
}
