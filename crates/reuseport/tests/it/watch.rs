//! Following a group through everything that a server does to its sockets.

use std::fs::{File, Metadata};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use reuseport::group::GroupKey;
use reuseport::status::{GroupStatus, Steering};
use reuseport::watch::{Change, Watch};
use reuseport::{Attach, Host, Policy, Stop};
use rustix::fs::{FlockOperation, flock};
use rustix::net::{AddressFamily, SocketType, listen, shutdown, socket};
use sk_reuseport::net::Bind;
use test_support::server::Nginx;
use test_support::{bpffs, client, netns, wait};

fn alone<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    netns::isolated(|| {
        bpffs::private();
        test()
    })
}

fn key_at(host: &Host, protocol: &str, address: SocketAddr) -> GroupKey {
    host.find(&format!("{protocol}:{address}").parse().unwrap()).unwrap().key
}

/// Runs `body` while a watcher follows the group.
fn watched(key: &GroupKey, body: impl FnOnce(&Host, &Mutex<Vec<String>>)) {
    let stop = Stop::default();
    let program = Some(Policy::RoundRobin.into());
    let attach = Attach { program, stop: stop.clone(), ..Attach::default() };
    let (watch, _) = Watch::start(Host::open().unwrap(), key, attach).unwrap();
    let changes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let changes = &changes;
        let watcher = scope.spawn(move || {
            watch.run(|change: Change| changes.lock().unwrap().push(format!("{change:?}")))
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            body(&Host::open().unwrap(), changes);
        }));
        stop.set();
        watcher.join().unwrap().unwrap();
        if let Err(panic) = result {
            eprintln!("the watcher said: {:#?}", changes.lock().unwrap());
            std::panic::resume_unwind(panic);
        }
    });
}

fn steered(host: &Host, key: &GroupKey) -> Option<GroupStatus> {
    let status = host.status(key).ok()?;
    let ours = status.steering.selection().is_some();
    (ours && status.unsteered() == 0).then_some(status)
}

fn wait_for_members(host: &Host, key: &GroupKey, count: usize) {
    wait::until(&format!("{count} members are steered"), wait::BOUND, || {
        steered(host, key).is_some_and(|status| status.members.len() == count)
    });
}

/// Each request is answered by some worker; who, and how often.
fn answers(server: SocketAddr, requests: usize) -> Vec<usize> {
    let mut by_worker = std::collections::BTreeMap::new();
    for _ in 0..requests {
        *by_worker.entry(client::http_get(server)).or_insert(0) += 1;
    }
    by_worker.into_values().collect()
}

#[test]
fn nginx_reloaded_to_more_workers_and_to_fewer_and_restarted_is_steered_all_the_time() {
    alone(|| {
        let mut nginx = Nginx::start(2);
        let address = nginx.addr();
        let key = key_at(&Host::open().unwrap(), "tcp", address);
        watched(&key, |host, _| {
            assert_eq!(answers(address, 20), [10, 10]);
            nginx.reload(3);
            wait_for_members(host, &key, 3);
            assert_eq!(answers(address, 30), [10, 10, 10]);
            nginx.reload(1);
            wait_for_members(host, &key, 1);
            assert_eq!(answers(address, 10), [10]);
            nginx.restart();
            wait_for_members(host, &key, 1);
            assert_eq!(answers(address, 10), [10]);
        });
        assert_eq!(
            host_steering(&key),
            "round-robin",
            "what is attached stays when the watcher ends"
        );
    });
}

fn host_steering(key: &GroupKey) -> String {
    let steering = Host::open().unwrap().status(key).unwrap().steering;
    steering.policy().map_or_else(|| format!("{steering:?}"), |policy| policy.to_string())
}

#[test]
fn requests_during_reloads_are_all_answered() {
    alone(|| {
        let mut nginx = Nginx::start(2);
        let address = nginx.addr();
        let key = key_at(&Host::open().unwrap(), "tcp", address);
        let (done, answered, failed) =
            (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let result = client::try_http_get(address);
                        let counter = if result.is_ok() { &answered } else { &failed };
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            watched(&key, |host, _| {
                for workers in [3, 2, 4, 3] {
                    nginx.reload(workers);
                    // Old workers keep their listeners until they end.
                    wait_for_members(host, &key, workers);
                }
            });
            done.store(true, Ordering::Relaxed);
        });
        let (answered, failed) = (answered.into_inner(), failed.into_inner());
        assert!(answered > 50, "{answered} answered");
        // A worker that ends closes its listener: what it had not accepted migrates to another
        // member, and the handshake that finishes at that very moment is what the kernel loses.
        assert!(failed * 200 <= answered, "{failed} failed, {answered} answered");
    });
}

#[test]
fn a_listener_that_stops_and_listens_again_is_steered_again() {
    alone(|| {
        let listeners =
            Bind::new("127.0.0.1:0".parse().unwrap()).nonblocking(true).listeners(2).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", address);
        watched(&key, |host, _| {
            // Not the first one: a port that the kernel chose is given back by a shutdown.
            shutdown(&listeners[1], rustix::net::Shutdown::Both).unwrap();
            wait_for_members(host, &key, 1);
            listen(&listeners[1], 64).unwrap();
            wait_for_members(host, &key, 2);
            let clients: Vec<_> =
                (0..10).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
            let accepted: Vec<usize> = listeners
                .iter()
                .map(|listener| std::iter::from_fn(|| listener.accept().ok()).count())
                .collect();
            assert_eq!(accepted, [5, 5]);
            drop(clients);
        });
    });
}

#[test]
fn udp_sockets_that_come_and_go_are_followed() {
    alone(|| {
        let bind = Bind::new("127.0.0.1:0".parse().unwrap());
        let mut sockets = bind.udp_sockets(2).unwrap();
        let address = sockets[0].local_addr().unwrap();
        let host = Host::open().unwrap();
        let key = key_at(&host, "udp", address);
        watched(&key, |host, changes| {
            sockets.extend(Bind::new(address).udp_sockets(2).unwrap());
            wait_for_members(host, &key, 4);
            let gone = sockets.remove(0);
            drop(gone);
            // Out of the group is not yet out of the table.
            wait::until("its slot is free", wait::BOUND, || {
                changes.lock().unwrap().iter().any(|change| change.contains("released: [Cookie"))
            });
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            for _ in 0..30 {
                client.send_to(b"datagram", address).unwrap();
            }
            let status = steered(host, &key).unwrap();
            let picks: Vec<u64> = status
                .members
                .iter()
                .map(|m| m.enrolment.as_ref().unwrap().picks.unwrap())
                .collect();
            assert_eq!(picks, [10, 10, 10]);
        });
    });
}

/// Somebody else here has the directory open that changes are locked by: he waits for the lock.
fn is_awaited(lock: &File) -> bool {
    let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let wanted = identity(lock.metadata().unwrap());
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let open = descriptors.filter_map(|fd| Some(identity(std::fs::metadata(fd.path()).ok()?)));
    open.filter(|identity| *identity == wanted).count() > 1
}

#[test]
fn a_udp_socket_that_comes_and_goes_while_the_watcher_is_busy_leaves_no_slot_behind() {
    alone(|| {
        let bind = Bind::new("127.0.0.1:0".parse().unwrap());
        let mut sockets = bind.udp_sockets(3).unwrap();
        let address = sockets[0].local_addr().unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let key = key_at(&Host::open().unwrap(), "udp", address);
        watched(&key, |host, changes| {
            wait_for_members(host, &key, 3);
            // The watcher sees that one is gone, and waits for us.
            let lock = File::open("/sys/fs/bpf/reuseport").unwrap();
            flock(&lock, FlockOperation::LockExclusive).unwrap();
            drop(sockets.remove(0));
            wait::until("the watcher waits", wait::BOUND, || is_awaited(&lock));
            // Now one comes, which it takes in by the way; and it is gone before it looks again.
            let new = Bind::new(address).nonblocking(true).udp_sockets(1).unwrap().remove(0);
            drop(lock);
            let start = Instant::now();
            while new.recv(&mut [0; 8]).is_err() {
                client.send_to(b"datagram", address).unwrap();
                assert!(start.elapsed() < wait::scaled(wait::BOUND), "it is not steered");
            }
            drop(new);
            wait::until("both slots are free", wait::BOUND, || {
                let changes = changes.lock().unwrap();
                let released = changes.iter().filter_map(|c| Some(c.split_once("released: [")?.1));
                let cookies = released.filter_map(|rest| Some(rest.split_once(']')?.0));
                cookies.map(|cookies| cookies.matches("Cookie").count()).sum::<usize>() == 2
            });
        });
    });
}

#[test]
fn a_socket_of_another_group_on_the_same_port_disturbs_nothing() {
    alone(|| {
        let listeners = Bind::new("127.0.0.1:0".parse().unwrap()).listeners(2).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", address);
        watched(&key, |host, _| {
            let elsewhere = SocketAddr::from(([127, 0, 0, 2], address.port()));
            let others = Bind::new(elsewhere).listeners(2).unwrap();
            let lonely = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            drop((others, lonely));
            assert!(steered(host, &key).is_some_and(|status| status.members.len() == 2));
        });
    });
}

#[test]
fn a_watcher_does_not_undo_a_detach() {
    alone(|| {
        let listeners = Bind::new("127.0.0.1:0".parse().unwrap()).listeners(2).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", address);
        let program = Some(Policy::Hash.into());
        let attach = Attach { program, ..Attach::default() };
        let (watch, _) = Watch::start(Host::open().unwrap(), &key, attach).unwrap();
        thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut told = Vec::new();
                watch.run(|change| told.push(format!("{change:?}"))).unwrap();
                told
            });
            reuseport::detach(&host, &key).unwrap();
            // A newcomer is what makes a watcher act.
            let _third = Bind::new(address).listeners(1).unwrap();
            let told = watcher.join().unwrap();
            assert_eq!(told.last().map(String::as_str), Some("Detached"), "{told:?}");
        });
        assert_eq!(host.status(&key).unwrap().steering, Steering::KernelHash);
    });
}

#[test]
fn what_was_chosen_outlives_a_restart_of_the_server() {
    alone(|| {
        let bind = Bind::new("127.0.0.1:0".parse().unwrap());
        let listeners = bind.listeners(2).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let key = key_at(&Host::open().unwrap(), "tcp", address);
        let stop = Stop::default();
        // Neither of them what a group gets by itself.
        let program = Some(Policy::Hash.into());
        let attach = Attach { program, slots: Some(100), stop: stop.clone(), ..Attach::default() };
        let (watch, _) = Watch::start(Host::open().unwrap(), &key, attach).unwrap();
        thread::scope(|scope| {
            let watcher = scope.spawn(|| watch.run(|_| {}));
            drop(listeners);
            let host = Host::open().unwrap();
            wait::until("the group is gone", wait::BOUND, || host.status(&key).is_err());
            let _again = Bind::new(address).listeners(3).unwrap();
            wait_for_members(&host, &key, 3);
            assert_eq!(host_steering(&key), "hash");
            stop.set();
            watcher.join().unwrap().unwrap();
        });
    });
}

#[test]
fn datagrams_open_no_connections() {
    alone(|| {
        let sockets = Bind::new("127.0.0.1:0".parse().unwrap()).udp_sockets(2).unwrap();
        let key = key_at(&Host::open().unwrap(), "udp", sockets[0].local_addr().unwrap());
        watched(&key, |host, _| {
            let status = steered(host, &key).unwrap();
            let open = |m: &reuseport::status::MemberStatus| m.enrolment.as_ref().unwrap().open;
            assert!(status.members.iter().all(|member| open(member).is_none()));
        });
    });
}
