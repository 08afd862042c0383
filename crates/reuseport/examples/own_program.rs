//! Your own eBPF program decides for your own listeners.
//!
//!     cargo run -p reuseport --example own_program -- [OBJECT [ADDRESS:PORT [LISTENERS]]]
//!
//! The library finds the group, fills the program's socket array and attaches the program. The default
//! OBJECT is `tests/bpf/by_source.bpf.o`, which docs/own-program.md explains: it sends all connections from
//! one client address to the same one of two listeners. Each listener answers with its number:
//!
//!     for i in 1 2 3; do curl --interface 127.0.0.2 http://127.0.0.1:8080/; done
//!
//! ^C shows how many connections each listener accepted, detaches and exits. It needs root, or CAP_BPF,
//! CAP_PERFMON and write access to /sys/fs/bpf.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use reuseport::net::Bind;
use reuseport::{Balancer, Host, ObjectSpec};

pub(crate) type Result<T = (), E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

pub(crate) const BY_SOURCE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bpf/by_source.bpf.o");

fn main() -> Result {
    let mut arguments = std::env::args().skip(1);
    let object = arguments.next().unwrap_or_else(|| BY_SOURCE.to_owned()).into();
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned()).parse()?;
    let listeners = arguments.next().unwrap_or_else(|| "2".to_owned()).parse()?;
    run(object, address, listeners)
}

/// Serves until ^C.
pub(crate) fn run(path: PathBuf, address: SocketAddr, listeners: usize) -> Result {
    let listeners = Bind::new(address).listeners(listeners)?;

    // An object with several programs or several maps for sockets needs their names here.
    let object = ObjectSpec::new(path);
    let host = Host::open()?;
    let group = host.group_of(listeners.first().ok_or("no listeners")?)?;
    let (balancer, attached) = Balancer::attach(&host, &group.key, &object.into())?;

    for out in attached.changes.left_out {
        eprintln!("a listener gets nothing: {}", out.why.report());
    }
    let accepted: Vec<Arc<AtomicU64>> = listeners.iter().map(|_| Arc::default()).collect();
    for ((number, listener), accepted) in listeners.iter().enumerate().zip(&accepted) {
        let (listener, accepted) = (listener.try_clone()?, Arc::clone(accepted));
        thread::Builder::new().name(format!("listener {number}")).spawn(move || {
            serve(number, &listener, &accepted);
        })?;
    }
    println!("listening on {}", group.key.address);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(tokio::signal::ctrl_c())?;

    // Picks are counted for policies only. Your own program may count in its own maps.
    for ((number, listener), accepted) in listeners.iter().enumerate().zip(&accepted) {
        let stats = balancer.stats()?;
        let slot = stats.of(listener).and_then(|member| member.slot).ok_or("it has no slot")?;
        let accepted = accepted.load(Ordering::Relaxed);
        println!("listener {number} in slot {slot}: {accepted} accepted");
    }
    balancer.detach()?;
    Ok(())
}

/// A minimal web server: one request at a time, any request.
fn serve(number: usize, listener: &TcpListener, accepted: &AtomicU64) {
    loop {
        let answered = listener.accept().and_then(|(mut stream, _)| {
            accepted.fetch_add(1, Ordering::Relaxed);
            // A silent client must not block the others.
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            let _request = stream.read(&mut [0; 4096])?;
            let body = format!("listener {number}\n");
            write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        });
        if let Err(error) = answered {
            eprintln!("listener {number}: {error}");
        }
    }
}
