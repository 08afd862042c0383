//! A UDP echo server with N threads, one socket for each, under a policy from the command line.
//!
//!     cargo run -p reuseport --example udp_echo -- POLICY [ADDRESS:PORT [SOCKETS]]
//!
//! POLICY is one that `reuseport attach` accepts: `hash`, `source`, `round-robin`, `payload:0:4`. Each
//! datagram comes back prefixed with the number of the socket that received it. With `payload:0:4`,
//! datagrams that begin with the same four bytes reach the same socket, from any sender:
//!
//!     for i in $(seq 5); do echo "abcd $i" | nc -u -w1 127.0.0.1 9000; done
//!
//! ^C shows each socket's picks, detaches and exits. It needs root, or CAP_BPF, CAP_PERFMON and write access
//! to /sys/fs/bpf.

use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::thread;

use reuseport::net::Bind;
use reuseport::{Balancer, Host, Policy};

pub(crate) type Result<T = (), E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

fn main() -> Result {
    let mut arguments = std::env::args().skip(1);
    let policy = arguments.next().ok_or("name a policy: hash, round-robin, payload:0:4, ...")?;
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:9000".to_owned()).parse()?;
    let sockets = arguments.next().unwrap_or_else(|| "4".to_owned()).parse()?;
    run(policy.parse()?, address, sockets)
}

/// Serves until ^C.
pub(crate) fn run(policy: Policy, address: SocketAddr, sockets: usize) -> Result {
    let sockets = Bind::new(address).udp_sockets(sockets)?;

    let host = Host::open()?;
    let group = host.group_of(sockets.first().ok_or("no sockets")?)?;
    let (balancer, attached) = Balancer::attach(&host, &group.key, &policy.into())?;

    for lost in &attached.degraded {
        eprintln!("{lost}");
    }
    for (number, socket) in sockets.iter().enumerate() {
        let socket = socket.try_clone()?;
        thread::Builder::new().name(format!("socket {number}")).spawn(move || {
            if let Err(error) = echo(number, &socket) {
                eprintln!("socket {number} failed: {error}");
            }
        })?;
    }
    println!("listening on {}, {policy} decides", group.key.address);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(tokio::signal::ctrl_c())?;

    let stats = balancer.stats()?;
    for (number, socket) in sockets.iter().enumerate() {
        let of = stats.of(socket).ok_or("a socket left the group")?;
        println!("socket {number}: {} picks", of.picks.unwrap_or(0));
    }
    println!("payload_short: {}", stats.count("payload_short").unwrap_or(0));
    balancer.detach()?;
    Ok(())
}

fn echo(number: usize, socket: &UdpSocket) -> Result {
    let mut datagram = [0; 65_535];
    loop {
        let (length, client) = socket.recv_from(&mut datagram)?;
        let mut answer = format!("{number} ").into_bytes();
        answer.extend(&datagram[..length]);
        // A client that cannot be answered must not end the service for the others.
        if let Err(error) = socket.send_to(&answer, client) {
            eprintln!("socket {number} cannot answer {client}: {error}");
        }
    }
}
