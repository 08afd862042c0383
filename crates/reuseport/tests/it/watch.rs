//! Following a group while its sockets come and go.

use std::fs::{File, Metadata};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use reuseport::group::GroupKey;
use reuseport::status::Steering;
use reuseport::watch::Watch;
use reuseport::{Attach, ErrorKind, GroupSpec, Host, Policy, Stop};
use rustix::fs::{FlockOperation, flock};
use rustix::net::sockopt::set_socket_reuseport;
use rustix::net::{AddressFamily, SocketType, bind, listen, shutdown, socket};
use rustix::thread::CapabilitySet;
use sk_reuseport::net::Bind;
use test_support::process::close;
use test_support::server::Nginx;
use test_support::{client, netns, wait};

use crate::common::cookie;
use crate::common::rights::{capable_of, present};
use crate::common::steering::{answers, followed, picks, steered, watching};
use crate::common::world::{alone, key_at};

/// Makes requests, and counts the answers of each worker.
fn answers_by_worker(server: SocketAddr, requests: usize) -> Vec<usize> {
    answers(server, requests).into_values().collect()
}

#[test]
fn the_full_status_of_all_groups_has_the_owners_and_watchers_of_each() {
    alone(|| {
        let nginx = Nginx::start(2);
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", nginx.addr());
        let in_full = || {
            let all = host.statuses_in_full().unwrap();
            all.into_iter().find(|status| status.group.key == key).unwrap()
        };
        followed(&key, |_| {
            let status = in_full();
            let owners: Vec<u32> =
                status.members.iter().filter_map(|member| member.owner).collect();
            assert_eq!(owners.len(), 2, "{status:?}");
            assert!(owners.iter().all(|owner| nginx.worker_pids().contains(owner)), "{owners:?}");
            let watcher = status.watcher.unwrap();
            assert_eq!(watcher.pid, Some(std::process::id()));
            assert_eq!(Some(watcher), host.status(&key).unwrap().watcher);
        });
        assert_eq!(in_full().watcher, None);
    });
}

#[test]
fn nginx_is_steered_through_reloads_and_a_restart() {
    alone(|| {
        let mut nginx = Nginx::start(2);
        let address = nginx.addr();
        let key = key_at(&Host::open().unwrap(), "tcp", address);
        followed(&key, |group| {
            assert_eq!(answers_by_worker(address, 20), [10, 10]);
            nginx.reload(3);
            group.settled(3);
            assert_eq!(answers_by_worker(address, 30), [10, 10, 10]);
            nginx.reload(1);
            group.settled(1);
            assert_eq!(answers_by_worker(address, 10), [10]);
            nginx.restart();
            group.settled(1);
            assert_eq!(answers_by_worker(address, 10), [10]);
        });
        assert_eq!(
            host_steering(&key),
            "round-robin",
            "the policy stays attached when the watcher ends"
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
            followed(&key, |group| {
                for workers in [3, 2, 4, 3] {
                    nginx.reload(workers);
                    // Old workers keep their listeners until they end.
                    group.settled(workers);
                }
            });
            done.store(true, Ordering::Relaxed);
        });
        let (answered, failed) = (answered.into_inner(), failed.into_inner());
        assert!(answered > 50, "{answered} answered");
        // A worker that ends closes its listener. Waiting connections migrate to another member;
        // the kernel loses only a handshake that completes at that very moment.
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
        followed(&key, |group| {
            // Not the first listener: a shutdown releases a port that the kernel chose.
            shutdown(&listeners[1], rustix::net::Shutdown::Both).unwrap();
            group.settled(1);
            listen(&listeners[1], 64).unwrap();
            group.settled(2);
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
        followed(&key, |group| {
            sockets.extend(Bind::new(address).udp_sockets(2).unwrap());
            group.settled(4);
            close(sockets.remove(0));
            // It leaves the table later than the group.
            wait::until("its slot is free", wait::BOUND, || {
                group.reports().iter().any(|change| change.contains("released: [Cookie"))
            });
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            for _ in 0..30 {
                client.send_to(b"datagram", address).unwrap();
            }
            let status = group.status();
            assert_eq!(picks(&status), [10, 10, 10]);
        });
    });
}

/// Whether another thread has the locked directory open, and so waits for the lock.
fn is_awaited(lock: &File) -> bool {
    let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let wanted = identity(lock.metadata().unwrap());
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let open = descriptors.filter_map(|fd| Some(identity(std::fs::metadata(fd.path()).ok()?)));
    open.filter(|identity| *identity == wanted).count() > 1
}

#[test]
fn the_slot_of_a_udp_socket_that_closes_while_the_watcher_is_busy_is_freed() {
    alone(|| {
        let bind = Bind::new("127.0.0.1:0".parse().unwrap());
        let mut sockets = bind.udp_sockets(3).unwrap();
        let address = sockets[0].local_addr().unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let key = key_at(&Host::open().unwrap(), "udp", address);
        followed(&key, |group| {
            group.settled(3);
            // The watcher notices the closed socket, and waits for the lock.
            let lock = File::open("/sys/fs/bpf/reuseport").unwrap();
            flock(&lock, FlockOperation::LockExclusive).unwrap();
            close(sockets.remove(0));
            wait::until("the watcher waits", wait::BOUND, || is_awaited(&lock));
            // The watcher also enrols a socket that opens now, and that closes before its next
            // look.
            let new = Bind::new(address).nonblocking(true).udp_sockets(1).unwrap().remove(0);
            drop(lock);
            group.has_enrolled(cookie(&new));
            wait::until("it gets datagrams", wait::BOUND, || {
                client.send_to(b"datagram", address).unwrap();
                new.recv(&mut [0; 8]).is_ok()
            });
            close(new);
            wait::until("both slots are free", wait::BOUND, || {
                let reports = group.reports();
                let released = reports.iter().filter_map(|c| Some(c.split_once("released: [")?.1));
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
        followed(&key, |group| {
            let elsewhere = SocketAddr::from(([127, 0, 0, 2], address.port()));
            let others = Bind::new(elsewhere).listeners(2).unwrap();
            let lonely = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            drop((others, lonely));
            assert_eq!(group.status().members.len(), 2);
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
        let attach = Attach::from(Policy::Hash);
        let (watch, _) = Watch::start(Host::open().unwrap(), &key, attach).unwrap();
        thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut reported = Vec::new();
                watch.run(|change| reported.push(format!("{change:?}"))).unwrap();
                reported
            });
            reuseport::detach(&host, &key).unwrap();
            // A new member wakes the watcher.
            let _third = Bind::new(address).listeners(1).unwrap();
            let reported = watcher.join().unwrap();
            assert_eq!(reported.last().map(String::as_str), Some("Detached"), "{reported:?}");
        });
        assert_eq!(host.status(&key).unwrap().steering, Steering::KernelHash);
    });
}

#[test]
fn the_chosen_policy_and_slots_survive_a_restart_of_the_server() {
    alone(|| {
        let bind = Bind::new("127.0.0.1:0".parse().unwrap());
        let listeners = bind.listeners(2).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let key = key_at(&Host::open().unwrap(), "tcp", address);
        let stop = Stop::default();
        // Neither is a default.
        let attach = Attach::from(Policy::Hash).slots(100).stop(stop.clone());
        let (watch, _) = Watch::start(Host::open().unwrap(), &key, attach).unwrap();
        thread::scope(|scope| {
            let watcher = scope.spawn(|| watch.run(|_| {}));
            close(listeners);
            let host = Host::open().unwrap();
            wait::until("the group is gone", wait::BOUND, || host.status(&key).is_err());
            let _again = Bind::new(address).listeners(3).unwrap();
            wait::until("three members are steered", wait::BOUND, || {
                steered(&host, &key).is_some_and(|status| status.members.len() == 3)
            });
            assert_eq!(host_steering(&key), "hash");
            stop.set();
            watcher.join().unwrap().unwrap();
        });
    });
}

#[test]
fn udp_members_have_no_open_connections() {
    alone(|| {
        let sockets = Bind::new("127.0.0.1:0".parse().unwrap()).udp_sockets(2).unwrap();
        let key = key_at(&Host::open().unwrap(), "udp", sockets[0].local_addr().unwrap());
        followed(&key, |group| {
            let status = group.status();
            let open = |m: &reuseport::status::MemberStatus| m.enrolment.as_ref().unwrap().open;
            assert!(status.members.iter().all(|member| open(member).is_none()));
        });
    });
}

#[test]
fn one_watcher_follows_many_groups_and_one_that_fails_keeps_none_of_the_others_waiting() {
    alone(|| {
        let bind = Bind::new("127.0.0.1:0".parse().unwrap());
        let (restarting, full) = (bind.listeners(2).unwrap(), bind.listeners(2).unwrap());
        let datagrams = bind.udp_sockets(2).unwrap();
        let addresses = [restarting[0].local_addr(), full[0].local_addr()].map(Result::unwrap);
        let udp = datagrams[0].local_addr().unwrap();
        let host = Host::open().unwrap();
        let keys = [
            key_at(&host, "tcp", addresses[0]),
            key_at(&host, "tcp", addresses[1]),
            key_at(&host, "udp", udp),
        ];
        let stop = Stop::default();
        let mut watch = Watch::new(Host::open().unwrap(), stop.clone()).unwrap();
        for key in &keys {
            let slots = (*key == keys[1]).then_some(2);
            let attach = Attach::default().slots(slots);
            assert_eq!(watch.add(key, attach).unwrap().changes.enrolled.len(), 2);
        }
        let twice = watch.add(&keys[0], Attach::default()).unwrap_err();
        assert_eq!(twice.kind(), ErrorKind::Invalid);
        watching(watch, &stop, |reports| {
            let said = |what: &str| {
                let reports = reports.lock().unwrap();
                reports.iter().filter(|report| report.contains(what)).count()
            };
            // There is no third slot.
            let third = Bind::new(addresses[1]).listeners(1).unwrap();
            wait::until("a failure is reported", wait::BOUND, || said("Failed") == 1);
            close(restarting);
            wait::until("one is gone", wait::BOUND, || said("Gone") == 1);
            let _again = Bind::new(addresses[0]).listeners(3).unwrap();
            let _more = Bind::new(udp).udp_sockets(1).unwrap();
            for key in [&keys[0], &keys[2]] {
                wait::until("three members are steered", wait::BOUND, || {
                    steered(&host, key).is_some_and(|status| status.members.len() == 3)
                });
            }
            assert!(steered(&host, &keys[1]).is_none(), "the third one has no slot");
            assert_eq!(said("Failed"), 1, "it is reported once");
            close(third);
            // It leaves the group, and a detached group is followed no more.
            wait::until("two are steered", wait::BOUND, || steered(&host, &keys[1]).is_some());
            reuseport::detach(&host, &keys[1]).unwrap();
            let _fourth = Bind::new(addresses[1]).listeners(1).unwrap();
            wait::until("its end is reported", wait::BOUND, || said("Detached") == 1);
            let _fourth = Bind::new(addresses[0]).listeners(1).unwrap();
            wait::until("four members are steered", wait::BOUND, || {
                steered(&host, &keys[0]).is_some_and(|status| status.members.len() == 4)
            });
            assert_eq!(host.status(&keys[1]).unwrap().steering, Steering::KernelHash);
        });
    });
}

#[test]
fn a_watcher_that_starts_before_the_server_attaches_when_it_comes() {
    alone(|| {
        for protocol in ["tcp", "udp"] {
            let bind = |address| {
                let bind = Bind::new(address);
                let sockets = |name| match name {
                    "tcp" => {
                        bind.listeners(2).map(|all| all.into_iter().map(OwnedFd::from).collect())
                    }
                    _ => {
                        bind.udp_sockets(2).map(|all| all.into_iter().map(OwnedFd::from).collect())
                    }
                };
                let sockets: Vec<OwnedFd> = sockets(protocol).unwrap();
                sockets
            };
            let address = SocketAddr::from(([127, 0, 0, 1], 8053));
            let spec: GroupSpec = format!("{protocol}:{address}").parse().unwrap();
            let stop = Stop::default();
            let mut watch = Watch::new(Host::open().unwrap(), stop.clone()).unwrap();
            let wanted = spec.clone();
            let find = move |host: &Host| {
                Some((host.find(&wanted).ok()?.key, Attach::from(Policy::Random)))
            };
            watch.wait_for(&spec, find).unwrap();
            let host = Host::open().unwrap();
            watching(watch, &stop, |reports| {
                let is_steered = || {
                    let status = host.status(&host.find_steered(&spec).ok()?.key).ok()?;
                    let policy = status.steering.policy()?;
                    (policy == Policy::Random && status.unsteered() == 0).then_some(status)
                };
                let sockets = bind(address);
                wait::until("it is steered", wait::BOUND, || is_steered().is_some());
                // It is followed like any other.
                close(sockets);
                wait::until("it is gone", wait::BOUND, || {
                    reports.lock().unwrap().iter().any(|report| report.ends_with(": Gone"))
                });
                let _again = bind(address);
                wait::until("it is steered again", wait::BOUND, || is_steered().is_some());
            });
        }
    });
}

/// One of these is enough.
const TELLS_OF_BINDS: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::SYS_ADMIN);

#[test]
fn without_the_right_to_be_told_of_binds_udp_sockets_are_followed_too() {
    alone(|| {
        let sockets = Bind::new("127.0.0.1:0".parse().unwrap()).udp_sockets(2).unwrap();
        let address = sockets[0].local_addr().unwrap();
        let key = key_at(&Host::open().unwrap(), "udp", address);
        capable_of(present() - TELLS_OF_BINDS, || {
            followed(&key, |group| {
                group.settled(2);
                let new = Bind::new(address).udp_sockets(1).unwrap();
                group.settled(3);
                close(new);
                group.settled(2);
            });
        });
    });
}

#[test]
fn udp_sockets_of_another_network_namespace_are_followed_with_events_and_without() {
    alone(|| {
        let rights = [present(), present() - TELLS_OF_BINDS];
        for rights in rights {
            // A socket stays in the namespace in which it was made.
            let (mut sockets, new) = netns::isolated(|| {
                let any = "127.0.0.1:0".parse().unwrap();
                let new = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
                set_socket_reuseport(&new, true).unwrap();
                (Bind::new(any).udp_sockets(2).unwrap(), new)
            });
            let address = sockets[0].local_addr().unwrap();
            let key = key_at(&Host::open().unwrap(), "udp", address);
            capable_of(rights, || {
                followed(&key, |group| {
                    group.settled(2);
                    bind(&new, &address).unwrap();
                    group.settled(3);
                    close(sockets.remove(0));
                    group.settled(2);
                });
            });
        }
    });
}
