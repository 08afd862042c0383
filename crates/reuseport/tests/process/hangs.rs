//! A worker that stops accepting, under least-loaded and load from all CPUs: while another member
//! has an empty queue, it gets at most two connections.

use crate::common::traffic::by_slot;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::common::world::alone;
use crate::with_all_cpus;
use reuseport::net::Bind;
use reuseport::policy::LeastLoaded;
use reuseport::{Balancer, Host, Policy, Stats};
use rustix::net::{Shutdown, shutdown, sockopt};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use test_support::loopback;
use test_support::wait::{self, BOUND};

const MEMBERS: usize = 8;

/// Fewer than the members that accept, so that one of them always has an empty queue.
const CLIENTS: usize = MEMBERS - 2;

/// When a client gives up waiting for an answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// How many connections a hanging member may get: one while its queue is as empty as the others,
/// and one whose SYN another CPU handles at the same time.
const AT_MOST: u64 = 2;

/// Accepts and answers until the listener is shut down.
fn serve(listener: &TcpListener) {
    while let Ok((mut stream, _)) = listener.accept() {
        // The client may have gone.
        let _ = stream.write_all(b"x");
    }
}

/// Makes connections, each answered before the next one. Those that reach a hanging member wait
/// there until the end.
fn ask(at: SocketAddr, over: &AtomicBool, answered: &AtomicUsize) {
    let mut hanging = Vec::new();
    while !over.load(Relaxed) {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(wait::scaled(PATIENCE))).unwrap();
        if stream.read(&mut [0]).is_ok_and(|bytes| bytes == 1) {
            answered.fetch_add(1, Relaxed);
            // Closing with RST leaves no TIME_WAIT, which would keep the port for a minute.
            sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        } else {
            hanging.push(stream);
        }
    }
}

/// The CPUs that the process may run on.
fn cpus() -> Vec<usize> {
    let allowed = sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect()
}

fn on_cpu(cpu: usize) {
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one).unwrap();
}

struct Listeners(Vec<TcpListener>);

/// Ends the threads that accept, even if the test fails.
impl Drop for Listeners {
    fn drop(&mut self) {
        self.0.iter().for_each(|listener| _ = shutdown(listener, Shutdown::Both));
    }
}

/// Serves with all members but the first `hanging`, until clients on all CPUs have got `requests`
/// answers.
fn hang(hanging: usize, requests: usize) -> (Stats, Vec<u64>) {
    let listeners = Listeners(by_slot(Bind::new(loopback(false)).listeners(MEMBERS).unwrap()));
    let at = listeners.0[0].local_addr().unwrap();
    let host = Host::open().unwrap();
    let key = host.group_of(&listeners.0[0]).unwrap().key;
    let least_loaded = Policy::LeastLoaded(LeastLoaded::DEFAULT);
    let (balancer, attached) = Balancer::attach(&host, &key, &least_loaded.into()).unwrap();
    assert!(attached.degraded.is_empty(), "{attached:?}");
    let (over, answered, cpus) = (AtomicBool::new(false), AtomicUsize::new(0), cpus());
    thread::scope(|scope| {
        let (over, answered) = (&over, &answered);
        let serving: Vec<TcpListener> = (0..MEMBERS)
            .filter(|member| *member >= hanging)
            .map(|member| listeners.0[member].try_clone().unwrap())
            .collect();
        let listeners = listeners;
        for listener in serving {
            scope.spawn(move || serve(&listener));
        }
        for client in 0..CLIENTS.min(MEMBERS - hanging - 1) {
            let cpu = cpus[client % cpus.len()];
            scope.spawn(move || {
                on_cpu(cpu);
                ask(at, over, answered);
            });
        }
        wait::until("all are answered", BOUND, || answered.load(Relaxed) >= requests);
        let stats = balancer.stats().unwrap();
        over.store(true, Relaxed);
        let of = |listener| stats.of(listener).unwrap().picks.unwrap();
        let picks = listeners.0.iter().map(of).collect();
        (stats, picks)
    })
}

#[test]
fn a_hanging_member_gets_at_most_two_connections_from_all_cpus() {
    with_all_cpus(|| alone(some_members_hang));
}

fn some_members_hang() {
    for hanging in [1, 3] {
        let (stats, picks) = hang(hanging, 3_000);
        assert!(picks[..hanging].iter().all(|picks| *picks <= AT_MOST), "{picks:?}");
        assert!(picks[hanging..].iter().all(|picks| *picks > 3_000 / 20), "{picks:?}");
        assert_eq!(stats.count("fallback_kernel"), Some(0));
    }
}
