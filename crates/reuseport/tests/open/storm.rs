//! All at once: threads that open connections and end them in every way, while members come and go,
//! groups are attached to and detached from, and somebody reads the counts all the time.

use std::io::Read as _;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use reuseport::net::{Bind, loopback};
use reuseport::{Balancer, ErrorKind, LeftOut, Policy};

use crate::{Scene, ends_at_zero_at, none_open, reset};

/// Turns of members that come and go.
const TURNS: usize = 60;

const MEMBERS: usize = 3;

/// Ends a connection in one way or another. Some wait for the other end.
fn end(mut stream: TcpStream, way: usize) {
    match way % 5 {
        0 => drop(stream),
        1 | 2 => reset(stream),
        3 => {
            let _ = stream.shutdown(Shutdown::Write);
            // A reset is an end, too.
            let _ = stream.read(&mut [0]);
        }
        _ => _ = stream.shutdown(Shutdown::Both),
    }
}

fn clients(at: SocketAddr, over: &AtomicBool, opened: &AtomicUsize) {
    let mut held = Vec::new();
    for turn in 0.. {
        if over.load(Relaxed) {
            return;
        }
        // While all members are gone, nobody listens.
        if let Ok(stream) = TcpStream::connect(at) {
            opened.fetch_add(1, Relaxed);
            stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
            match turn % 3 {
                0 => held.push(stream),
                _ => end(stream, turn),
            }
        }
        if held.len() > 20 {
            held.drain(..).enumerate().for_each(|(way, stream)| end(stream, way));
        }
    }
}

/// Accepts and ends what comes to a listener, until that is over. What waits then, nobody accepts.
fn serve(listener: &TcpListener, over: &AtomicBool, seed: usize) {
    let mut held = Vec::new();
    for turn in seed.. {
        if over.load(Relaxed) {
            return;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
                match turn % 3 {
                    0 => held.push(stream),
                    _ => end(stream, turn),
                }
            }
            Err(_) => thread::yield_now(),
        }
        if held.len() > 10 {
            held.drain(..).enumerate().for_each(|(way, stream)| end(stream, way));
        }
    }
}

/// A member that is served by a thread of its own. The listener closes some time after this is dropped.
struct Served(Arc<AtomicBool>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn storm(scene: &mut Scene, turns: usize) {
    let opened = AtomicUsize::new(0);
    let (scene, at) = (&*scene, scene.at);
    thread::scope(|scope| {
        let serving = |listener: TcpListener, seed| {
            let served = Served(Arc::default());
            let over = Arc::clone(&served.0);
            scope.spawn(move || serve(&listener, &over, seed));
            served
        };
        // These end also when something fails here.
        let over = Served(Arc::default());
        for _ in 0..2 {
            let (over, opened) = (Arc::clone(&over.0), &opened);
            scope.spawn(move || clients(at, &over, opened));
        }
        // This one stays, or the group would end.
        let _stays = serving(scene.members[0].try_clone().unwrap(), 0);
        let mut others = Vec::new();
        for turn in 0..turns {
            while others.len() < MEMBERS - 1 {
                let member = Bind::new(at).nonblocking(true).listeners(1).unwrap().remove(0);
                others.push(serving(member, turn));
            }
            change_everything(scene, turn);
            if turn % 10 != 9 {
                others.remove(turn % 2);
            }
        }
    });
    println!("{} connections", opened.into_inner());
    // What still waits is accepted, and ends.
    while scene.members[0].accept().is_ok() {}
    none_open();
    scene.attach();
    let pairs = scene.pairs(3);
    assert_eq!(scene.open(), [3]);
    drop(pairs);
}

fn change_everything(scene: &Scene, turn: usize) {
    let key = scene.host.group_of(&scene.members[0]).unwrap().key;
    let policy = Policy::ALL[turn % Policy::ALL.len()];
    let (balancer, attached) = Balancer::attach(&scene.host, &key, &policy.into()).unwrap();
    // Somebody may have closed meanwhile.
    let vanished = |out: &LeftOut| out.why.kind() == ErrorKind::Vanished;
    assert!(attached.changes.left_out.iter().all(vanished), "{attached:?}");
    let open = scene.open();
    assert!(open.iter().all(|open| *open < 10_000), "below zero: {open:?}");
    if turn % 10 == 9 {
        balancer.detach(&scene.host).unwrap();
    }
}

// Not on an emulated 6.1 yet: there, one connection of some 70,000 stays counted. Why is not known.
#[test]
fn slow_after_a_short_storm_nothing_is_open() {
    ends_at_zero_at(loopback(true), 1, |scene| storm(scene, TURNS / 4));
}

#[test]
fn slow_after_a_long_storm_nothing_is_open() {
    ends_at_zero_at(loopback(true), 1, |scene| storm(scene, TURNS * 4));
}
