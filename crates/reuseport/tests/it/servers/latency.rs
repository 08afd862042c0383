//! How long it takes until a new socket is steered. These tests print times and assert nothing
//! about them, so run them by hand on an idle machine:
//!
//! ```text
//! cargo test --release -p reuseport --test it servers::latency -- --ignored --nocapture --test-threads 1
//! ```
//!
//! For a socket of the test, the time runs from just before it is opened until it gets its first
//! connection or datagram of a continuous stream. For a server that restarts, the time runs from
//! when all its sockets exist, which another thread polls, until the watcher reports that all are
//! steered (about a grace period after they are).

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use reuseport::Host;
use sk_reuseport::net::Bind;
use test_support::server::{Haproxy, Nginx, Transport, Unbound};
use test_support::wait;

use crate::common::steering::{Followed, cookies, followed};
use crate::common::world::{alone, key_at};

const ROUNDS: usize = 30;

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |index: usize| times[index].as_secs_f64() * 1e3;
    let (median, last) = (at(times.len() / 2), times.len() - 1);
    println!(
        "{what}: median {median:.1} ms, min {:.1} ms, max {:.1} ms, {} times",
        at(0),
        at(last),
        times.len()
    );
}

#[test]
#[ignore = "measures: see the head of the file"]
fn a_walk_over_the_host() {
    let host = Host::open().unwrap();
    let walk = |_| {
        let start = Instant::now();
        host.groups().unwrap();
        start.elapsed()
    };
    report("walk over the host", (0..ROUNDS).map(walk).collect());
}

fn bind() -> Bind {
    Bind::new("127.0.0.1:0".parse().unwrap()).nonblocking(true)
}

#[test]
#[ignore = "measures: see the head of the file"]
fn a_listener() {
    alone(|| {
        let old = bind().listeners(2).unwrap();
        let address = old[0].local_addr().unwrap();
        let key = key_at(&Host::open().unwrap(), "tcp", address);
        followed(&key, |group| {
            let times = (0..ROUNDS).map(|_| {
                group.settled(2);
                let start = Instant::now();
                let new = Bind::new(address).nonblocking(true).listeners(1).unwrap().remove(0);
                loop {
                    drop(TcpStream::connect(address).unwrap());
                    if new.accept().is_ok() {
                        break start.elapsed();
                    }
                    old.iter().for_each(|listener| drop(listener.accept()));
                }
            });
            report("TCP listener", times.collect());
        });
    });
}

#[test]
#[ignore = "measures: see the head of the file"]
fn a_udp_socket() {
    alone(|| {
        let old = bind().udp_sockets(2).unwrap();
        let address = old[0].local_addr().unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let key = key_at(&Host::open().unwrap(), "udp", address);
        followed(&key, |group| {
            let times = (0..ROUNDS).map(|_| {
                group.settled(2);
                let start = Instant::now();
                let new = Bind::new(address).nonblocking(true).udp_sockets(1).unwrap().remove(0);
                loop {
                    client.send_to(b"?", address).unwrap();
                    if new.recv(&mut [0]).is_ok() {
                        break start.elapsed();
                    }
                    old.iter().for_each(|socket| drop(socket.recv(&mut [0])));
                }
            });
            report("UDP socket", times.collect());
        });
    });
}

/// The inodes of the sockets that listen on an IPv4 port or are bound to it.
fn inodes(transport: Transport, port: u16) -> BTreeSet<u64> {
    let (table, state) = match transport {
        Transport::Tcp => ("tcp", "0A"),
        Transport::Udp => ("udp", "07"),
    };
    let table = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
    let port = format!(":{port:04X}");
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields[1].ends_with(&port) && fields[3] == state).then(|| fields[9].parse().unwrap())
    };
    table.lines().skip(1).filter_map(inode).collect()
}

/// Waits until as many other sockets exist as before. Returns the last moment at which some were
/// still missing, so that the measured time is too long rather than too short.
fn replaced(transport: Transport, port: u16, old: &BTreeSet<u64>) -> Instant {
    let start = Instant::now();
    let mut missing = start;
    loop {
        let looked = Instant::now();
        let now = inodes(transport, port);
        if now.len() == old.len() && now.is_disjoint(old) {
            return missing;
        }
        missing = looked;
        assert!(start.elapsed() < wait::scaled(wait::BOUND), "{now:?} instead of {old:?}");
        thread::yield_now();
    }
}

fn restarts(
    group: &Followed<'_>,
    (transport, address): (Transport, SocketAddr),
    sockets: usize,
    mut restart: impl FnMut(),
) -> Vec<Duration> {
    let round = |_| {
        let members = cookies(&group.settled(sockets)).into_iter().collect();
        let old = inodes(transport, address.port());
        let there = thread::scope(|scope| {
            let there = scope.spawn(|| replaced(transport, address.port(), &old));
            restart();
            there.join().unwrap()
        });
        group.replaced(&members, sockets).saturating_duration_since(there)
    };
    (0..ROUNDS).map(round).collect()
}

#[test]
#[ignore = "measures: see the head of the file"]
fn an_nginx_that_restarts() {
    alone(|| {
        let mut nginx = Nginx::start(2);
        let address = nginx.addr();
        let key = key_at(&Host::open().unwrap(), "tcp", address);
        followed(&key, |group| {
            let times = restarts(group, (Transport::Tcp, address), 2, || nginx.restart());
            report("nginx, 2 workers, full restart", times);
        });
    });
}

#[test]
#[ignore = "measures: see the head of the file"]
fn a_haproxy_that_restarts() {
    alone(|| {
        let mut haproxy = Haproxy::start(4);
        let address = haproxy.addr();
        let key = key_at(&Host::open().unwrap(), "tcp", address);
        followed(&key, |group| {
            let times = restarts(group, (Transport::Tcp, address), 4, || haproxy.restart());
            report("HAProxy, 4 threads, full restart", times);
        });
    });
}

#[test]
#[ignore = "measures: see the head of the file"]
fn an_unbound_that_restarts() {
    alone(|| {
        let mut unbound = Unbound::start(2);
        let address = unbound.addr();
        let key = key_at(&Host::open().unwrap(), "udp", address);
        followed(&key, |group| {
            let times = restarts(group, (Transport::Udp, address), 2, || unbound.restart());
            report("unbound, 2 threads, full restart", times);
        });
    });
}
