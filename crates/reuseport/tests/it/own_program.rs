//! The program that docs/own-program.md shows works with nginx.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use reuseport::status::Steering;
use reuseport::{Attach, Balancer, Host, ObjectSpec};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use test_support::server::Nginx;

use crate::common::world::alone;

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
