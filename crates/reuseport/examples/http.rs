//! A web server with N workers under the policy least-loaded. Each worker is a thread with its own tokio
//! runtime and listener.
//!
//!     cargo run -p reuseport --example http -- [ADDRESS:PORT [WORKERS]]
//!
//! `/` returns the number of the worker. `/slow` blocks its worker's thread for a second, as a blocking
//! handler does; meanwhile the other workers get the new connections.
//!
//!     curl http://127.0.0.1:8080/slow & for i in $(seq 20); do curl http://127.0.0.1:8080/; done
//!
//! Every two seconds, and at the end, it shows each worker's picks. ^C detaches and exits. It needs root, or
//! CAP_BPF, CAP_PERFMON and write access to /sys/fs/bpf.

use std::convert::Infallible;
use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use reuseport::net::Bind;
use reuseport::{Balancer, Host, Policy};

pub(crate) type Result<T = (), E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The duration of `/slow`.
const SLOW: Duration = Duration::from_secs(1);
/// The interval at which picks are shown.
const SHOW_EVERY: Duration = Duration::from_secs(2);

fn main() -> Result {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned()).parse()?;
    let workers = arguments.next().unwrap_or_else(|| "4".to_owned()).parse()?;
    run(address, workers)
}

/// Serves until ^C.
pub(crate) fn run(address: SocketAddr, workers: usize) -> Result {
    let listeners = Bind::new(address).nonblocking(true).listeners(workers)?;

    // The default policy for TCP is least-loaded.
    let host = Host::open()?;
    let group = host.group_of(listeners.first().ok_or("no workers")?)?;
    let least_loaded = Policy::default_for(group.key.protocol);
    let (balancer, attached) = Balancer::attach(&host, &group.key, &least_loaded.into())?;

    for lost in &attached.degraded {
        eprintln!("{lost}");
    }
    for (worker, listener) in listeners.iter().enumerate() {
        let listener = listener.try_clone()?;
        let name = format!("worker {worker}");
        thread::Builder::new().name(name).spawn(move || {
            if let Err(error) = serve(worker, listener) {
                eprintln!("worker {worker} failed: {error}");
            }
        })?;
    }
    println!("listening on {}, {least_loaded} decides", group.key.address);
    let result = show_until_interrupted(&balancer, &listeners);
    // Otherwise the pinned state would stay until the next operation on any group.
    balancer.detach()?;
    result
}

/// A runtime for this thread alone.
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// One worker.
fn serve(worker: usize, listener: TcpListener) -> Result {
    runtime()?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Too many open descriptors, for example: wait, and let the other workers accept.
                    eprintln!("worker {worker} cannot accept: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(worker, request));
                let io = TokioIo::new(stream);
                if let Err(error) = http1::Builder::new().serve_connection(io, service).await {
                    eprintln!("worker {worker}: {error}");
                }
            });
        }
    })
}

async fn answer(
    worker: usize,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/slow" {
        // Not tokio's sleep, which would let this thread handle other requests.
        thread::sleep(SLOW);
    }
    Ok(Response::new(Full::from(format!("worker {worker}\n"))))
}

fn show_until_interrupted(balancer: &Balancer, listeners: &[TcpListener]) -> Result {
    runtime()?.block_on(async {
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        loop {
            let interrupt = tokio::time::timeout(SHOW_EVERY, &mut interrupted).await;
            show(balancer, listeners)?;
            if let Ok(result) = interrupt {
                return Ok(result?);
            }
        }
    })
}

fn show(balancer: &Balancer, listeners: &[TcpListener]) -> Result {
    let stats = balancer.stats()?;
    for (worker, listener) in listeners.iter().enumerate() {
        let of = stats.of(listener).ok_or("a worker left the group")?;
        let (picks, open) = (of.picks.unwrap_or(0), of.open.unwrap_or(0));
        println!("worker {worker}: {picks} picks, {} waiting, {open} open", of.queue.waiting);
    }
    println!();
    Ok(())
}
