//! Workers: what they are started with, when they are ready, what becomes of those that die.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use sk_reuseport::net::Bind;
use test_support::load::http_during;
use test_support::process::spawn;
use test_support::server::free_port;
use test_support::wait::{BOUND, poll, until};

use super::scene::{Scene, lives};
use crate::common::{Running, isolated, json, stdout};

#[test]
fn a_worker_that_dies_closes_nothing() {
    isolated(|| {
        let scene = Scene::new();
        let mut supervisor = scene.start(&["--workers", "2"], &scene.server("one", &[]));
        supervisor.until_ready(2);
        let group = format!("tcp:{}", scene.address);
        let members = || {
            let shown = json(&["show", &group, "--json"]);
            let members = shown["members"].as_array().unwrap().clone();
            members.iter().map(|member| member["cookie"].clone()).collect::<Vec<_>>()
        };
        let before = (scene.pids(1), members());
        let outcome = http_during(scene.address, 3, || {
            for worker in ["die-1", "die-2"] {
                scene.touch(worker);
                supervisor.until("(SIGKILL); it is started again in 100ms");
                supervisor.until("is ready");
            }
        });
        assert_eq!(outcome.failed, 0, "{outcome:?}");
        let after = (scene.pids(1), members());
        assert!(before.0.iter().all(|pid| !after.0.contains(pid)), "{before:?} {after:?}");
        assert_eq!(before.1, after.1, "the same sockets");
        supervisor.stop();
        assert!(scene.state().is_none());
    });
}

#[test]
fn the_only_worker_may_die_and_what_waits_is_answered_by_the_next() {
    isolated(|| {
        let scene = Scene::new();
        let mut supervisor = scene.start(&[], &scene.server("one", &[]));
        supervisor.until_ready(1);
        let first = scene.ask().unwrap();
        scene.touch("die-1");
        supervisor.until("it is started again");
        // Whenever it is accepted, it is answered.
        let second = scene.ask().unwrap();
        assert_ne!(first, second);
        supervisor.stop();
    });
}

#[test]
fn one_that_dies_again_and_again_is_given_up_and_all_of_them_end_the_supervisor() {
    isolated(|| {
        let scene = Scene::new();
        // The second worker fails at once.
        let script = "test $REUSEPORT_WORKER = 2 && exit 5; exec python3 server.py one 3 1";
        let command = ["--", "sh", "-c", script].map(str::to_owned);
        let mut supervisor = scene.start(&["--workers", "2"], &command);
        let said = supervisor.until("it is given up");
        assert!(said.contains("worker 1.2") && said.contains("exit status: 5"), "{said}");
        let outcome = http_during(scene.address, 2, || drop(scene.ask().unwrap()));
        assert_eq!(outcome.failed, 0);
        supervisor.stop();

        let failing = ["--", "false"].map(str::to_owned);
        let output = scene.start(&["--workers", "2"], &failing).output();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("web: all workers are given up"), "{said}");
    });
}

#[test]
fn a_worker_inherits_its_own_sockets_alone_and_is_told_which() {
    isolated(|| {
        let scene = Scene::new();
        let udp = format!("udp:127.0.0.1:{}", free_port());
        let script = "env > env-$REUSEPORT_WORKER; echo $$ {worker} {fd} {fd2} > told-{worker}; \
                      readlink /proc/$$/fd/* > fds-{worker}; exec sleep 600";
        let command = ["--", "bash", "-c", script].map(str::to_owned);
        let options = ["--workers", "2", "--listen", &udp, "--stop-timeout", "5s"];
        let supervisor = scene.start(&options, &command);
        let read = |name: &str| fs::read_to_string(scene.path().join(name)).unwrap_or_default();
        until("both have told", BOUND, || !read("fds-1").is_empty() && !read("fds-2").is_empty());
        let sockets = |name: &str| -> Vec<String> {
            let lines = read(name);
            lines.lines().filter(|line| line.starts_with("socket:")).map(str::to_owned).collect()
        };
        let (first, second) = (sockets("fds-1"), sockets("fds-2"));
        assert_eq!((first.len(), second.len()), (2, 2), "{first:?} {second:?}");
        assert!(first.iter().all(|socket| !second.contains(socket)));
        for worker in ["1", "2"] {
            let told = read(&format!("told-{worker}"));
            let (pid, rest) = told.trim().split_once(' ').unwrap();
            assert_eq!(rest, format!("{worker} 3 4"));
            let environment = read(&format!("env-{worker}"));
            let has = |line: &str| environment.lines().any(|of| of == line);
            let port = scene.address.port();
            let udp_port = udp.rsplit(':').next().unwrap();
            assert!(has("LISTEN_FDS=2") && has(&format!("LISTEN_PID={pid}")), "{environment}");
            assert!(has(&format!("LISTEN_FDNAMES=tcp-{port}:udp-{udp_port}")), "{environment}");
            let ports = format!("SERVER_STARTER_PORT={}=3;127.0.0.1:{udp_port}=4", scene.address);
            assert!(has(&ports), "{environment}");
        }
        supervisor.stop();
    });
}

#[test]
fn what_is_not_ready_gets_nothing_while_another_one_is() {
    isolated(|| {
        let scene = Scene::new();
        let script = "test $REUSEPORT_WORKER = 2 && W=wait; exec python3 server.py v$REUSEPORT_WORKER 3 1 $W";
        let command = ["--", "sh", "-c", script].map(str::to_owned);
        let mut supervisor = scene.start(&["--workers", "2", "--policy", "round-robin"], &command);
        let said = supervisor.until("is ready");
        assert!(said.contains("worker 1.1"), "{said}");
        assert!((0..20).all(|_| scene.ask().unwrap().0 == "v1"));
        scene.touch("go");
        supervisor.until("worker 1.2 is ready");
        scene.until_version("v2");
        supervisor.stop();
    });
}

#[test]
fn readiness_is_what_is_asked_for() {
    isolated(|| {
        // It says so long before it accepts.
        let early = ["ready", "wait"];
        for (how, first) in
            [("notify", &early[..]), ("both", &early), ("cmd:test -e go", &["wait"])]
        {
            let scene = Scene::new();
            let mut supervisor = scene.start(&["--ready", how], &scene.server("one", first));
            until("it is started", BOUND, || !scene.pids(1).is_empty());
            if how == "notify" {
                supervisor.until("is ready");
            }
            scene.touch("go");
            if how != "notify" {
                supervisor.until("is ready");
            }
            assert_eq!(scene.ask().unwrap().0, "one", "{how}");
            supervisor.stop();
        }
        let scene = Scene::new();
        let mut supervisor = scene.start(&["--ready", "both"], &scene.server("one", &[]));
        until("it accepts", BOUND, || scene.ask().is_some());
        // It never says so.
        let failed = scene.server("two", &[]);
        let reload = ["reload", "web"];
        supervisor.signal(Signal::TERM);
        supervisor.output();
        let mut supervisor = scene.start(
            &["--ready", "both", "--ready-timeout", "300ms"],
            &scene.server("one", &["ready"]),
        );
        supervisor.until_ready(1);
        scene.says(3, "not ready in time: worker 2.1", &reload, &failed);
        supervisor.stop();
    });
}

#[test]
fn udp_sockets_are_kept_and_reloaded_too() {
    isolated(|| {
        let scene = Scene::new();
        let arguments = |version: &str| {
            let mut all: Vec<String> =
                ["run", "--name", "web", "--workers", "2", "--probation", "0", "--listen"]
                    .map(str::to_owned)
                    .into();
            all.push(format!("udp:{}", scene.address));
            all.extend(scene.server(version, &[]));
            all
        };
        let mut command = scene.command(&arguments("one"));
        let child = spawn(command.stdout(Stdio::null()).stderr(Stdio::piped())).unwrap();
        let mut supervisor = Running(child);
        (0..2).for_each(|_| drop(supervisor.read_errors_until("is ready")));
        let ask = || {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            client.send_to(b"?", scene.address).unwrap();
            let mut answer = [0; 64];
            let n = client.recv(&mut answer).unwrap();
            String::from_utf8_lossy(&answer[..n]).into_owned()
        };
        assert!((0..20).all(|_| ask().starts_with("one ")));
        scene.says(0, "generation 2 serves alone", &["reload", "web"], &scene.server("two", &[]));
        assert!((0..20).all(|_| ask().starts_with("two ")));
        supervisor.signal(Signal::TERM);
        assert_eq!(supervisor.output().status.code(), Some(0));
    });
}

#[test]
fn lines_of_workers_have_prefixes() {
    isolated(|| {
        let scene = Scene::new();
        for (output, expected) in [("prefix", "web.1 | started one"), ("inherit", "started one")] {
            let arguments = scene.arguments(&["--output", output], &scene.server("one", &[]));
            let mut command = scene.command(&arguments);
            let child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::null())).unwrap();
            let mut supervisor = Running(child);
            let line = supervisor.read_until("started");
            assert_eq!(line.trim_end(), expected);
            supervisor.signal(Signal::TERM);
            assert_eq!(supervisor.output().status.code(), Some(0));
        }
    });
}

#[test]
fn a_file_says_the_same() {
    isolated(|| {
        let scene = Scene::new();
        let file = format!(
            "name = \"web\"\nlisten = [\"tcp:{}\"]\nworkers = 2\npolicy = \"round-robin\"\n\
             command = [\"python3\", \"server.py\", \"one\", \"{{fd}}\", \"{{worker}}\"]\n",
            scene.address
        );
        let path = scene.path().join("web.toml");
        fs::write(&path, file).unwrap();
        let arguments = ["run", "--config", path.to_str().unwrap()].map(str::to_owned);
        let mut command = scene.command(&arguments);
        let mut supervisor =
            Running(spawn(command.stdout(Stdio::null()).stderr(Stdio::piped())).unwrap());
        (0..2).for_each(|_| drop(supervisor.read_errors_until("is ready")));
        let shown = stdout(&["show", &format!("tcp:{}", scene.address)]);
        assert!(shown.contains("round-robin"), "{shown}");
        supervisor.signal(Signal::TERM);
        assert_eq!(supervisor.output().status.code(), Some(0));
    });
}

#[test]
fn what_cannot_be_had_is_refused_with_one_line_and_changes_nothing() {
    isolated(|| {
        let scene = Scene::new();
        let server = scene.server("one", &[]);
        let address = format!("tcp:{}", scene.address);
        let run = ["run", "--name", "web", "--listen", &address];
        let says = |text: &str, arguments: &[&str], command: &[String]| {
            scene.says(2, text, arguments, command);
        };
        says("no command is given", &run, &[]);
        says("no address to listen at", &["run"], &server);
        says("no directory of PATH has it", &run, &["--".to_owned(), "no-such".to_owned()]);
        let many = [&run[..], &["--workers", "20000"]].concat();
        says("20000 workers are more than a group has slots for", &many, &server);
        scene.says(1, "no supervisor named `web` runs", &["reload", "web"], &[]);
        // Strangers, with SO_REUSEPORT and without.
        let strangers = Bind::new(scene.address).listeners(2).unwrap();
        says("has that address", &run, &server);
        assert_eq!(json(&["show", &address, "--json"])["program"], json!(null));
        drop(strangers);
        until("they are gone", BOUND, || TcpListener::bind(scene.address).is_ok());
        let stranger = TcpListener::bind(scene.address).unwrap();
        says("cannot listen at", &run, &server);
        drop(stranger);
        let mut supervisor = scene.start(&[], &server);
        supervisor.until_ready(1);
        let socket = scene.run_directory().join("web.sock");
        assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let other = format!("tcp:127.0.0.1:{}", free_port());
        let taken = ["run", "--name", "web", "--listen", &other];
        says("another supervisor has the name `web` (pid", &taken, &server);
        says("has that address", &["run", "--name", "api", "--listen", &address], &server);
        scene.says(1, "there are: web", &["reload", "api"], &[]);
        assert_eq!(scene.ask().unwrap().0, "one");
        supervisor.stop();
    });
}

#[test]
fn a_worker_that_ignores_sigterm_is_killed_and_a_second_signal_does_not_wait() {
    isolated(|| {
        let scene = Scene::new();
        let mut supervisor =
            scene.start(&["--stop-timeout", "1h"], &scene.server("one", &["stubborn"]));
        supervisor.until_ready(1);
        let pid = scene.pids(1)[0];
        supervisor.signal(Signal::TERM);
        assert!(poll(Duration::from_millis(50), || (!lives(pid)).then_some(())).is_none());
        supervisor.stop();
        assert!(!lives(pid));
    });
}
