//! The servers start, answer, reload, restart, and leave no process behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use test_support::client::{dns_query, http_get, try_dns_query, try_http_get};
use test_support::load;
use test_support::netns::isolated;
use test_support::server::{Daemon, Haproxy, Nginx, Transport, Unbound, bound_sockets, free_port};
use test_support::wait;

fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// The numbers in the answers to 50 requests: the hash of the kernel reaches each of a few workers.
fn answerers(addr: std::net::SocketAddr) -> BTreeSet<u32> {
    (0..50).map(|_| http_get(addr).trim().parse().expect("a number")).collect()
}

#[test]
fn every_nginx_worker_answers_with_its_pid() {
    isolated(|| {
        let nginx = Nginx::start(3);
        let workers = nginx.worker_pids();
        assert_eq!(workers.len(), 3);
        assert_eq!(answerers(nginx.addr()), workers.iter().copied().collect());
        assert_eq!(bound_sockets(nginx.master_pid(), Transport::Tcp, nginx.port()), 3);

        let pids = [workers, vec![nginx.master_pid()]].concat();
        drop(nginx);
        assert!(!pids.into_iter().any(exists), "nginx left processes behind");
    });
}

#[test]
fn nginx_reloads_to_more_and_to_fewer_workers() {
    isolated(|| {
        let mut nginx = Nginx::start(2);
        let master = nginx.master_pid();
        for workers in [3, 1] {
            let before = nginx.worker_pids();
            nginx.reload(workers);
            let now = nginx.worker_pids();
            assert_eq!((nginx.master_pid(), now.len()), (master, workers));
            assert!(now.iter().all(|pid| !before.contains(pid)));
            assert_eq!(answerers(nginx.addr()), now.into_iter().collect());
        }
    });
}

#[test]
fn nginx_restarts_on_its_port() {
    isolated(|| {
        let mut nginx = Nginx::start_on(free_port(), 2);
        let (addr, master) = (nginx.addr(), nginx.master_pid());
        nginx.restart();
        assert_eq!(nginx.addr(), addr);
        assert_ne!(nginx.master_pid(), master);
        assert_eq!(answerers(addr).len(), 2);
        nginx.stop();
        assert!(try_http_get(addr).is_err());
    });
}

#[test]
fn nginx_is_upgraded_repeatedly_and_leaves_nothing_behind() {
    isolated(|| {
        let mut nginx = Nginx::start_daemon(2);
        let mut masters = vec![nginx.master_pid()];
        for _ in 0..2 {
            nginx.upgrade();
            masters.push(nginx.master_pid());
            assert_eq!(answerers(nginx.addr()), nginx.worker_pids().into_iter().collect());
        }
        assert_eq!(masters.iter().collect::<BTreeSet<_>>().len(), 3);
        let addr = nginx.addr();
        drop(nginx);
        assert!(try_http_get(addr).is_err());
    });
}

#[test]
fn a_killed_nginx_worker_is_replaced() {
    isolated(|| {
        let mut nginx = Nginx::start(2);
        let [killed, other] = nginx.worker_pids()[..] else { panic!("not two workers") };
        nginx.kill_worker(killed);
        assert!(nginx.worker_pids().contains(&other) && !nginx.worker_pids().contains(&killed));
    });
}

#[test]
fn a_reloaded_haproxy_serves_from_another_process() {
    isolated(|| {
        let mut haproxy = Haproxy::start_reloadable(2);
        let old = haproxy.pid();
        haproxy.reload(3);
        assert_ne!(haproxy.pid(), old);
        assert_eq!(answerers(haproxy.addr()).len(), 3);
        let pid = haproxy.pid();
        drop(haproxy);
        assert!(!exists(pid));
    });
}

#[test]
fn answers_and_failures_under_load_are_counted() {
    isolated(|| {
        let (nginx, unbound) = (Nginx::start(1), Unbound::start(1));
        for outcome in [
            load::wrk(nginx.addr(), 1),
            load::dnsperf(unbound.addr(), Unbound::NAME, 1, 1000),
            load::http_during(nginx.addr(), 1, || drop(http_get(nginx.addr()))),
        ] {
            assert!(outcome.answered > 0 && outcome.failed == 0, "{outcome:?}");
        }
        let unknown = load::dnsperf(unbound.addr(), "unknown.test", 1, 1000);
        assert!(unknown.answered == 0 && unknown.failed > 0, "{unknown:?}");
        let no_server = (std::net::Ipv4Addr::LOCALHOST, free_port()).into();
        let refused = load::http_during(no_server, 1, || {
            wait::until("a refusal", wait::BOUND, || try_http_get(no_server).is_err());
        });
        assert_eq!(refused.answered, 0);
        let [threads] = unbound.stop_and_count()[..] else { panic!("not one thread") };
        assert!(threads > unknown.failed);
    });
}

#[test]
fn every_haproxy_thread_answers_with_its_number() {
    isolated(|| {
        let haproxy = Haproxy::start(3);
        let threads = answerers(haproxy.addr());
        assert_eq!(threads.len(), 3, "{threads:?}");
        let pid = haproxy.pid();
        drop(haproxy);
        assert!(!exists(pid));
    });
}

#[test]
fn unbound_answers_for_its_name_only() {
    isolated(|| {
        let unbound = Unbound::start(3);
        for _ in 0..20 {
            let answer = dns_query(unbound.addr(), Unbound::NAME);
            assert_eq!(answer[..2], [0x5e, 0xed], "the query's id");
            assert_eq!(answer[3] & 0x0f, 0, "no error");
            assert_eq!(answer[answer.len() - 4..], Unbound::ANSWER.octets());
        }
        let unknown = dns_query(unbound.addr(), "unknown.test");
        assert_eq!(unknown[3] & 0x0f, 3, "no such name");

        let (pid, addr) = (unbound.pid(), unbound.addr());
        drop(unbound);
        assert!(!exists(pid));
        assert!(try_dns_query(addr, Unbound::NAME).is_err());
    });
}

fn shell(script: &'static str) -> impl FnOnce(&Path) -> Command {
    move |directory| {
        let mut command = Command::new("sh");
        command.current_dir(directory).args(["-c", script]);
        command
    }
}

#[test]
#[should_panic(expected = "broken: to be ready: it ended, exit status: 3")]
fn a_server_that_does_not_start_is_reported_at_once() {
    let mut broken = Daemon::spawn("broken", shell("echo no such option >&2; exit 3"));
    broken.wait_until("to be ready", || false);
}

#[test]
fn slow_a_server_that_ignores_sigterm_is_killed_with_its_children() {
    let mut stubborn =
        Daemon::spawn("stubborn", shell("trap '' TERM; sleep 1000 & echo $!; wait; wait"));
    stubborn.wait_until("to print its child's pid", || true);
    let child: u32 =
        wait::until_some("the child's pid", wait::BOUND, || stubborn.log().trim().parse().ok());
    let (pid, directory): (u32, PathBuf) = (stubborn.pid(), stubborn.directory().to_owned());
    assert!(exists(child) && directory.exists());
    drop(stubborn);
    assert!(!exists(pid) && !directory.exists());
    // Its new parent reaps the grandchild at some time.
    let gone = || {
        let state = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        state.is_empty() || state.contains(") Z ")
    };
    wait::until("the grandchild's end", wait::BOUND, gone);
}

#[test]
fn a_stopped_server_starts_again_in_its_directory() {
    let mut server = Daemon::spawn("twice", shell("echo one > file; exec sleep 1000"));
    let directory = server.directory().to_owned();
    let written = || fs::read(directory.join("file")).is_ok_and(|content| content == b"one\n");
    wait::until("the file", wait::BOUND, written);
    assert!(!server.stop(Signal::KILL).success());
    server.spawn_again(shell("cat file; exec sleep 1000"));
    wait::until("the file's content", wait::BOUND, || server.log() == "one\n");
}
