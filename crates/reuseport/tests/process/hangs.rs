//! A worker that stops accepting, under least-loaded and load from all CPUs at once: at most two
//! connections reach it while another member's queue is empty.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::common::world::alone;
use crate::in_turn;
use reuseport::net::{Bind, loopback};
use reuseport::policy::LeastLoaded;
use reuseport::{Balancer, Host, Policy, Stats};
use rustix::net::{Shutdown, shutdown, sockopt};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use test_support::wait::{self, BOUND};

const MEMBERS: usize = 8;

/// Fewer than there are members that accept, so that at every moment one's queue is empty.
const CLIENTS: usize = MEMBERS - 2;

/// After which nobody will answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// How many a hanging member may get: one that comes when its queue is as empty as all others, and
/// one whose SYN another CPU sees at the same moment.
const AT_MOST: u64 = 2;

/// Accepts and answers until the listener is shut down.
fn serve(listener: &TcpListener) {
    while let Ok((mut stream, _)) = listener.accept() {
        // Of a client that is gone nothing is wanted.
        let _ = stream.write_all(b"x");
    }
}

/// One connection after the other, each answered before the next one. Those that reach a member which
/// hangs wait there until it is over.
fn ask(at: SocketAddr, over: &AtomicBool, answered: &AtomicUsize) {
    let mut hanging = Vec::new();
    while !over.load(Relaxed) {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(wait::scaled(PATIENCE))).unwrap();
        if stream.read(&mut [0]).is_ok_and(|bytes| bytes == 1) {
            answered.fetch_add(1, Relaxed);
            // No port is taken for a minute.
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

/// Ends the threads that accept, also because something failed.
impl Drop for Listeners {
    fn drop(&mut self) {
        self.0.iter().for_each(|listener| _ = shutdown(listener, Shutdown::Both));
    }
}

/// Serves with all members but `hanging`, while clients on all CPUs ask so often.
fn hang(hanging: usize, requests: usize) -> (Stats, Vec<u64>) {
    let listeners = Listeners(Bind::new(loopback(false)).listeners(MEMBERS).unwrap());
    let at = listeners.0[0].local_addr().unwrap();
    let host = Host::open().unwrap();
    let key = host.group_of(&listeners.0[0]).unwrap().key;
    let least_loaded = Policy::LeastLoaded(LeastLoaded::DEFAULT);
    let (balancer, attached) = Balancer::attach(&host, &key, &least_loaded.into()).unwrap();
    assert!(attached.degraded.is_none(), "{attached:?}");
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
        let stats = balancer.stats(&host).unwrap();
        over.store(true, Relaxed);
        let of = |listener| stats.of(listener).unwrap().picks.unwrap();
        let picks = listeners.0.iter().map(of).collect();
        (stats, picks)
    })
}

#[test]
fn who_hangs_gets_two_at_most_whatever_comes_from_all_cpus() {
    in_turn(|| alone(every_number_of_hanging_members));
}

fn every_number_of_hanging_members() {
    for hanging in [1, 3] {
        let (stats, picks) = hang(hanging, 3_000);
        assert!(picks[..hanging].iter().all(|picks| *picks <= AT_MOST), "{picks:?}");
        assert!(picks[hanging..].iter().all(|picks| *picks > 3_000 / 20), "{picks:?}");
        assert_eq!(stats.count("fallback_kernel"), Some(0));
    }
}
