//! The programs that docs/own-program.md shows work: with nginx, and for workers that are known by number.

#[path = "../../examples/by_network.rs"]
#[allow(dead_code, reason = "its main function")]
mod by_network;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use reuseport::status::Steering;
use reuseport::{Attach, Balancer, Host, ObjectSpec};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use test_support::process::close;
use test_support::server::Nginx;
use test_support::wait;

use crate::common::world::{accept_all, alone, listeners, more};

const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bpf/by_source.bpf.o");

#[test]
fn each_client_of_nginx_keeps_its_worker() {
    alone(|| {
        let nginx = Nginx::start(2);
        let host = Host::open().unwrap();
        let key = host.find(&format!("tcp:{}", nginx.addr()).parse().unwrap()).unwrap().key;
        let object = ObjectSpec::new(OBJECT);
        let attach = Attach::from(object);
        let (balancer, attached) = Balancer::attach(&host, &key, &attach).unwrap();
        assert_eq!(attached.changes.enrolled.len(), 2);
        assert_eq!(
            host.status(&key).unwrap().steering,
            Steering::Ours(reuseport::Program::Object(()))
        );

        let mut workers = BTreeSet::new();
        for client in 2..10 {
            let client = Ipv4Addr::new(127, 0, 0, client);
            // The hash of the kernel includes the port, and would pass this once in 2^72 runs.
            let answers: BTreeSet<String> = (0..10).map(|_| get(client, nginx.addr())).collect();
            assert_eq!(answers.len(), 1, "{client} was answered by {answers:?}");
            workers.extend(answers);
        }
        assert_eq!(workers.len(), 2, "clients go to different workers");
        balancer.detach().unwrap();
        assert_eq!(host.status(&key).unwrap().steering, Steering::KernelHash);
    });
}

/// The worker that answers a request from this address.
fn get(client: Ipv4Addr, server: SocketAddr) -> String {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from((client, 0))).unwrap();
    connect(&socket, &server).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// What the example `by_network` promises: a worker is known by its number, whatever slot it has.
#[test]
fn a_network_keeps_its_worker_over_restarts_in_any_order() {
    alone(|| {
        let mut workers = listeners(3);
        let address = workers[0].local_addr().unwrap();
        by_network::attach(&workers).unwrap();
        by_network::route_to("127.1.0.0".parse().unwrap(), 16, 1).unwrap();
        by_network::route_to("127.1.2.0".parse().unwrap(), 24, 2).unwrap();
        let reached = |workers: &[TcpListener]| {
            ["127.1.0.7", "127.1.2.7"].map(|client| worker_of(client.parse().unwrap(), workers))
        };
        for _ in 0..4 {
            assert_eq!(reached(&workers), [1, 2]);
        }

        // The server restarts, and its workers listen in another order.
        close(std::mem::take(&mut workers));
        let mut restarted = more(address, 3);
        restarted.rotate_left(1);
        let balancer = by_network::attach(&restarted).unwrap();
        for _ in 0..4 {
            assert_eq!(reached(&restarted), [1, 2]);
        }

        // One of them restarts alone, and joins.
        close(vec![restarted.remove(1)]);
        restarted.insert(1, more(address, 1).remove(0));
        let host = Host::open().unwrap();
        Balancer::attach(&host, balancer.key(), &Attach::default()).unwrap();
        by_network::register(&balancer, &restarted).unwrap();
        for _ in 0..4 {
            assert_eq!(reached(&restarted), [1, 2]);
        }
    });
}

/// The worker that accepts a connection of this client.
fn worker_of(client: Ipv4Addr, workers: &[TcpListener]) -> usize {
    let server = workers[0].local_addr().unwrap();
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from((client, 0))).unwrap();
    connect(&socket, &server).unwrap();
    let mut accepted = None;
    wait::until("a worker accepts", wait::BOUND, || {
        accepted = workers.iter().position(|worker| accept_all(worker) > 0);
        accepted.is_some()
    });
    accepted.unwrap()
}
