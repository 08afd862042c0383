//! The demo's server: blocking workers with one listener each on one address, as in many servers. A
//! worker answers one connection after the other; one worker hangs again and again.
//!
//! Work is sleep: it takes a worker's time and no CPU, so the demo measures the balancing and not
//! the competition for the machine's cores.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sk_reuseport::net::Bind;

/// How long a worker waits for the one byte of a request before it turns to the next connection.
const PATIENCE: Duration = Duration::from_secs(1);

/// One worker's behaviour.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorkerSpec {
    /// How long an answer takes.
    pub(crate) service: Duration,
    /// How it hangs, if it does.
    pub(crate) hang: Option<Hang>,
}

/// How a worker hangs: it answers, and then does nothing for a while, as while it waits for a disk
/// or collects garbage.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hang {
    /// From the end of one hang to the beginning of the next.
    pub(crate) every: Duration,
    /// How long.
    pub(crate) lasts: Duration,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    workers: Vec<Worker>,
    stop: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Worker {
    listener: Arc<TcpListener>,
    accepted: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts one worker for each of `workers`, on a port that the kernel chooses.
    ///
    /// # Errors
    ///
    /// If sockets or threads cannot be created.
    pub(crate) fn start(workers: &[WorkerSpec]) -> io::Result<Self> {
        let any = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
        let listeners = Bind::new(any).listeners(workers.len())?;
        let address = listeners[0].local_addr()?;
        let mut server =
            Self { address, workers: Vec::new(), stop: Arc::new(AtomicBool::new(false)) };
        for (index, (listener, spec)) in listeners.into_iter().zip(workers).enumerate() {
            let listener = Arc::new(listener);
            let accepted = Arc::new(AtomicU64::new(0));
            let thread = thread::Builder::new().name(format!("worker-{index}")).spawn({
                let (listener, accepted) = (Arc::clone(&listener), Arc::clone(&accepted));
                let (spec, stop) = (*spec, Arc::clone(&server.stop));
                move || serve(index as u8, &listener, spec, &accepted, &stop)
            })?;
            server.workers.push(Worker { listener, accepted, thread: Some(thread) });
        }
        Ok(server)
    }

    /// Where clients connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections each worker accepted since it started.
    pub(crate) fn accepted(&self) -> Vec<u64> {
        self.workers.iter().map(|w| w.accepted.load(Ordering::Relaxed)).collect()
    }

    /// Each worker's listener, in the order of the workers.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = &TcpListener> {
        self.workers.iter().map(|w| &*w.listener)
    }
}

/// Stops the workers and waits for them.
impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in &mut self.workers {
            // Shutting down a listener makes a blocked accept() fail with EINVAL
            // (inet_shutdown() in net/ipv4/af_inet.c, TCP_LISTEN). Nothing to do if it fails.
            let _ = rustix::net::shutdown(&*worker.listener, rustix::net::Shutdown::Both);
            if let Some(thread) = worker.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

fn serve(
    index: u8,
    listener: &TcpListener,
    spec: WorkerSpec,
    accepted: &AtomicU64,
    stop: &AtomicBool,
) {
    let mut hung = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        // A waiting connection was closed, descriptors ran out, or the server stops: pause, so that
        // none of these becomes a busy loop.
        let Ok((connection, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        accepted.fetch_add(1, Ordering::Relaxed);
        // The load generator counts clients that gave up.
        let _ = answer(index, connection, spec);
        if let Some(hang) = spec.hang.filter(|hang| hung.elapsed() >= hang.every) {
            thread::sleep(hang.lasts);
            hung = Instant::now();
        }
    }
}

/// One byte in, the work, the worker's number out.
fn answer(index: u8, mut connection: TcpStream, spec: WorkerSpec) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.read_exact(&mut [0])?;
    thread::sleep(spec.service);
    connection.write_all(&[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(address: SocketAddr) -> usize {
        let mut connection = TcpStream::connect(address).unwrap();
        connection.write_all(&[0]).unwrap();
        let mut answer = [0];
        connection.read_exact(&mut answer).unwrap();
        usize::from(answer[0])
    }

    #[test]
    fn a_worker_answers_with_its_number_and_counts_what_it_accepted() {
        let spec = WorkerSpec { service: Duration::from_micros(10), hang: None };
        let server = Server::start(&[spec; 3]).unwrap();
        let mut answered = vec![0; 3];
        for _ in 0..60 {
            answered[ask(server.address())] += 1;
        }
        assert_eq!(server.accepted(), answered);
        assert_eq!(answered.iter().sum::<u64>(), 60);
    }

    #[test]
    fn a_server_that_is_dropped_frees_its_port() {
        let server =
            Server::start(&[WorkerSpec { service: Duration::ZERO, hang: None }; 2]).unwrap();
        let address = server.address();
        drop(server);
        let error = TcpStream::connect(address).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
