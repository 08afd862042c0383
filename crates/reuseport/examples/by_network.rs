//! This source network goes to that worker, whatever slot it has.
//!
//!     cargo run -p reuseport --example by_network -- ADDRESS:PORT WORKERS [NETWORK/BITS=WORKER]...
//!     cargo run -p reuseport --example by_network -- 127.0.0.1:8080 3 127.0.0.2/32=2 127.1.0.0/16=1
//!
//! The program is `tests/bpf/by_network.bpf.c`, which docs/own-program.md explains. A worker is known by its
//! number. The program finds its socket through two tables of its own: networks to workers, which this example
//! fills from the command line, and workers to indices, which it fills when the sockets have theirs. Both are
//! pinned, so the networks stay over a restart; the indices are written again. Each worker answers with its number:
//!
//!     curl --interface 127.0.0.2 http://127.0.0.1:8080/
//!
//! ^C detaches and exits. It needs root, or CAP_BPF, CAP_PERFMON and write access to /sys/fs/bpf.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::Duration;

use reuseport::net::Bind;
use reuseport::{Balancer, Host, ObjectSpec};
use sk_reuseport::maps::lpm_trie::Key;
use sk_reuseport::maps::{HashMap, LpmTrie, Map, MapData};

pub(crate) type Result<T = (), E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

pub(crate) const BY_NETWORK: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bpf/by_network.bpf.o");

/// Where maps are pinned by their names.
const PINS: &str = "/sys/fs/bpf";

fn main() -> Result {
    const USAGE: &str = "by_network ADDRESS:PORT WORKERS [NETWORK/BITS=WORKER]...";

    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or(USAGE)?.parse()?;
    let count = arguments.next().ok_or(USAGE)?.parse()?;
    let workers = Bind::new(address).listeners(count)?;
    let balancer = attach(&workers)?;
    for route in arguments {
        let (network, worker) = route.split_once('=').ok_or(USAGE)?;
        let (network, bits) = network.split_once('/').ok_or(USAGE)?;
        route_to(network.parse()?, bits.parse()?, worker.parse()?)?;
    }
    for (number, worker) in workers.iter().enumerate() {
        let worker = worker.try_clone()?;
        thread::spawn(move || serve(number, &worker));
    }
    println!("listening on {}", workers.first().ok_or("no workers")?.local_addr()?);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(tokio::signal::ctrl_c())?;
    balancer.detach()?;
    Ok(())
}

/// Attaches the program, and tells it where each worker is.
pub(crate) fn attach(workers: &[TcpListener]) -> Result<Balancer> {
    let host = Host::open()?;
    let group = host.group_of(workers.first().ok_or("no workers")?)?;
    let object = ObjectSpec::new(BY_NETWORK);
    let (balancer, _) = Balancer::attach(&host, &group.key, &object.into())?;
    register(&balancer, workers)?;
    Ok(balancer)
}

/// Writes the index of each worker's socket. To be called whenever members have come or gone.
pub(crate) fn register(balancer: &Balancer, workers: &[TcpListener]) -> Result {
    let mut indices: HashMap<_, u32, u32> = pinned("workers")?.try_into()?;
    let stats = balancer.stats()?;
    for (number, worker) in (0u32..).zip(workers) {
        let slot = stats.of(worker).and_then(|member| member.slot).ok_or("it has no slot")?;
        indices.insert(number, slot.index(), 0)?;
    }
    Ok(())
}

/// Sends the clients of a network to a worker.
pub(crate) fn route_to(network: IpAddr, bits: u32, worker: u32) -> Result {
    let mut networks: LpmTrie<_, [u8; 16], u32> = pinned("networks")?.try_into()?;
    let (address, bits) = match network {
        IpAddr::V4(address) => (address.to_ipv6_mapped(), bits + 96),
        IpAddr::V6(address) => (address, bits),
    };
    networks.insert(&Key::new(bits, address.octets()), worker, 0)?;
    Ok(())
}

fn pinned(name: &str) -> Result<Map> {
    Ok(Map::from_map_data(MapData::from_pin(Path::new(PINS).join(name))?)?)
}

/// A minimal web server: one request at a time, any request.
fn serve(number: usize, worker: &TcpListener) {
    loop {
        let answered = worker.accept().and_then(|(mut stream, _)| {
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            let _request = stream.read(&mut [0; 4096])?;
            let body = format!("worker {number}\n");
            write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        });
        if let Err(error) = answered {
            eprintln!("worker {number}: {error}");
        }
    }
}
