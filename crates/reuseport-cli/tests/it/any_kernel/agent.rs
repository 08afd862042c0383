//! `agent`: many groups as a file says.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sk_reuseport::net::Bind;
use tempfile::TempDir;
use test_support::process::{close, spawn};
use test_support::server::{Forking, Transport, free_port};
use test_support::wait::{BOUND, until};

use crate::common::{Running, command, error, group, has_time, isolated, json, run, stdout};

/// A file and the agent that keeps it.
struct Agent {
    running: Running,
    file: File,
}

struct File {
    _directory: TempDir,
    path: PathBuf,
}

impl File {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("reuseport.toml");
        fs::write(&path, text).unwrap();
        Self { _directory: directory, path }
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

impl Agent {
    /// Returns when it has attached to what is there.
    fn start(text: &str) -> Self {
        let file = File::new(text);
        let mut running = Running::start(&["agent", "--config", file.path()]);
        running.read_errors_until("; SIGHUP reads ");
        Self { running, file }
    }

    fn reload(&mut self, text: &str) {
        fs::write(&self.file.path, text).unwrap();
        self.running.signal(Signal::HUP);
    }

    fn reads(&mut self, word: &str) -> String {
        self.running.read_errors_until(word)
    }
}

fn policy(group: &str) -> Option<String> {
    let shown = run(&["show", group, "--json"]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).ok()?;
    Some(shown["policy"].as_str()?.to_owned())
}

fn members(group: &str) -> usize {
    let shown = json(&["show", group, "--json"]);
    let active = |member: &&serde_json::Value| member["state"] == "active";
    shown["members"].as_array().unwrap().iter().filter(active).count()
}

#[test]
fn groups_of_the_file_are_kept_before_and_after_their_servers_start() {
    isolated(|| {
        let (mut there, name) = group(2);
        let address = there[0].local_addr().unwrap();
        let later: SocketAddr = format!("127.0.0.2:{}", address.port()).parse().unwrap();
        let mut agent = Agent::start(&format!(
            "[server.web]\ngroups = [\"{name}\", \"tcp:{later}\", \"udp:{later}\"]\n\
             policy = \"hash\"\n",
        ));
        assert_eq!(policy(&name).as_deref(), Some("hash"));
        let _tcp = Bind::new(later).listeners(2).unwrap();
        let line = agent.reads(&format!("tcp:{later}: hash decides among"));
        assert!(has_time(&line), "{line}");
        let _udp = Bind::new(later).udp_sockets(2).unwrap();
        agent.reads(&format!("udp:{later}: hash decides among"));

        // A restart of all of them.
        close(std::mem::take(&mut there));
        agent.reads("all its sockets are closed");
        let _again = Bind::new(address).listeners(3).unwrap();
        until("it is steered again", BOUND, || policy(&name).is_some() && members(&name) == 3);

        let output = agent.running.interrupt();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(policy(&name).as_deref(), Some("hash"), "the program stays attached");
    });
}

#[test]
fn the_file_is_read_again_and_a_wrong_one_changes_nothing() {
    isolated(|| {
        let (listeners, name) = group(2);
        let (_others, other) = group(2);
        let web = |more: &str| format!("[server.web]\ngroups = [\"{name}\"]\n{more}");
        let mut agent = Agent::start(&web("policy = \"hash\"\n"));
        agent.reload(&web("polcy = \"random\"\n"));
        let line = agent.reads("is not read again");
        assert!(
            line.contains("line 3: [server.web] has no key `polcy`; did you mean `policy`?"),
            "{line}"
        );
        agent.reads("; SIGHUP reads ");
        assert_eq!(policy(&name).as_deref(), Some("hash"));

        // Another policy, weights, and another group.
        agent.reload(&format!(
            "{}[server.other]\ngroups = [\"{other}\"]\n",
            web("policy = \"random\"\nweights = { \"slot:1\" = 7 }\n"),
        ));
        agent.reads("; SIGHUP reads ");
        assert_eq!(policy(&name).as_deref(), Some("random"));
        assert_eq!(json(&["show", &name, "--json"])["members"][1]["weight"], 7);
        assert_eq!(policy(&other).as_deref(), Some("least-loaded"));

        // While the group is gone. Its members have weights, which the next ones take over.
        stdout(&["weight", &name, "slot:0=3"]);
        let address = listeners[0].local_addr().unwrap();
        close(listeners);
        agent.reads("all its sockets are closed");
        agent.reload(&web("policy = \"source\"\n"));
        agent.reads("no longer in the file; its program stays attached");
        agent.reads("; SIGHUP reads ");
        let _again = Bind::new(address).listeners(2).unwrap();
        until("the new policy decides", BOUND, || policy(&name).as_deref() == Some("source"));
        assert_eq!(policy(&other).as_deref(), Some("least-loaded"));
        let shown = json(&["show", &other, "--json"]);
        assert!(shown["watcher"].is_null(), "{shown}");
    });
}

#[test]
fn weights_of_the_file_are_those_of_a_slots_first_member_and_stay_what_the_user_makes_of_them() {
    isolated(|| {
        let (listeners, name) = group(2);
        let mut agent = Agent::start(&format!(
            "[server.web]\ngroups = [\"{name}\"]\nweights = {{ \"slot:0\" = 3, \"slot:2\" = 5 }}\n",
        ));
        let weights = || -> Vec<u64> {
            let shown = json(&["show", &name, "--json"]);
            let members = shown["members"].as_array().unwrap().iter();
            members.map(|member| member["weight"].as_u64().unwrap_or(0)).collect()
        };
        assert_eq!(weights(), [3, 1]);
        stdout(&["weight", &name, "slot:0=9"]);
        let address = listeners[0].local_addr().unwrap();
        let _new = Bind::new(address).listeners(1).unwrap();
        agent.reads("1 of them new");
        until("the new one has its weight", BOUND, || weights() == [9, 1, 5]);
    });
}

#[test]
fn a_second_agent_says_who_is_there_and_a_killed_one_is_followed_by_the_next() {
    isolated(|| {
        let (_listeners, name) = group(2);
        let text = format!("[server.web]\ngroups = [\"{name}\"]\npolicy = \"hash\"\n");
        let mut agent = Agent::start(&text);
        let second = error(2, &["agent", "--config", agent.file.path()]);
        let pid = agent.running.0.id();
        assert!(second.contains(&format!("process {pid} (reuseport) has the lock")), "{second}");
        agent.running.0.kill().unwrap();
        agent.running.0.wait().unwrap();
        assert_eq!(policy(&name).as_deref(), Some("hash"));
        let next = Agent::start(&text);
        let shown = json(&["show", &name, "--json"]);
        assert_eq!(shown["watcher"]["pid"], next.running.0.id());
    });
}

#[test]
fn systemd_is_told_when_it_is_ready_and_that_it_is_alive() {
    isolated(|| {
        let (_listeners, name) = group(2);
        let file = File::new(&format!("[server.web]\ngroups = [\"{name}\"]\n"));
        let path = file.path.with_file_name("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(test_support::wait::scaled(BOUND))).unwrap();
        let mut agent = command(&["agent", "--config", file.path()]);
        agent.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
        let agent = spawn(agent.stdout(Stdio::piped()).stderr(Stdio::piped())).unwrap();
        let mut agent = Running(agent);
        let read = || {
            let mut buffer = [0; 4096];
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        let read_until = |word: &str| {
            let started = Instant::now();
            loop {
                let text = read();
                if text.contains(word) {
                    return text;
                }
                assert!(started.elapsed() < Duration::from_secs(60), "never {word}");
            }
        };
        assert!(read_until("READY=1").contains("STATUS=following 1 group"));
        assert_eq!(policy(&name).as_deref(), Some("least-loaded"), "it is ready");
        read_until("WATCHDOG=1");
        read_until("WATCHDOG=1");
        agent.signal(Signal::HUP);
        assert!(read_until("RELOADING=1").contains("MONOTONIC_USEC="));
        read_until("READY=1");
        agent.signal(Signal::TERM);
        read_until("STOPPING=1");
        assert!(agent.0.wait().unwrap().success());
    });
}

#[test]
fn in_the_journal_each_line_has_its_priority_and_no_time() {
    isolated(|| {
        let (_listeners, name) = group(2);
        let file = File::new(&format!("[server.web]\ngroups = [\"{name}\"]\n"));
        let log = file.path.with_file_name("log");
        let journal = fs::File::create(&log).unwrap();
        let stat = rustix::fs::fstat(&journal).unwrap();
        let mut agent = command(&["agent", "--config", file.path()]);
        agent.env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino));
        let mut agent = Running(spawn(agent.stderr(journal).stdout(Stdio::piped())).unwrap());
        let text = || fs::read_to_string(&log).unwrap();
        until("it is ready", BOUND, || text().contains("; SIGHUP reads "));
        fs::write(&file.path, "x").unwrap();
        agent.signal(Signal::HUP);
        until("it complains", BOUND, || text().contains("is not read again"));
        for line in text().lines() {
            let is_error = line.contains("is not read again") || line.contains("hint: ");
            let priority = if is_error { "<3>" } else { "<6>" };
            assert!(line.starts_with(priority), "{line}");
        }
        assert!(text().contains(&format!("<6>{name}: least-loaded (")), "{}", text());
        agent.signal(Signal::TERM);
        assert!(agent.0.wait().unwrap().success());
    });
}

/// What a Unix socket answers to a scrape; `None` if nothing listens there.
fn scrape(socket: &Path) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    Some(answer)
}

#[test]
fn metrics_are_served_where_the_file_says() {
    isolated(|| {
        let (listeners, name) = group(2);
        let sockets = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| sockets.path().join(name));
        let file = |listen: &str, more: &str| {
            format!("{more}[metrics]\nlisten = \"{listen}\"\n[server.web]\ngroups = [\"{name}\"]\n")
        };
        let at = |path: &Path| format!("unix:{}", path.display());
        let mut agent = Agent::start(&file(&at(&first), ""));
        let text = scrape(&first).unwrap();
        assert!(text.contains("\nreuseport_agent_groups 1\n"), "{text}");
        assert!(text.contains(&format!("reuseport_group_info{{group=\"{name}\"")), "{text}");
        let _new = Bind::new(listeners[0].local_addr().unwrap()).listeners(1).unwrap();
        agent.reads("1 of them new");
        // How long it took is known if an event told of it before a look found it.
        let text = scrape(&first).unwrap();
        assert!(text.contains("\nreuseport_agent_enrolment_delay_seconds_count "), "{text}");

        // What cannot be had changes nothing, also where the address stays.
        agent.reload(&file(&at(&first), "silence = [\"drops@:80,netns=never-made\"]\n"));
        agent.reads("is not read again");
        assert!(scrape(&first).is_some());
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        agent.reload(&file(&taken.local_addr().unwrap().to_string(), "retake = true\n"));
        agent.reads("is not read again");
        let failed = "\nreuseport_agent_reload_failures_total 2\n";
        until("it is counted", BOUND, || scrape(&first).unwrap().contains(failed));

        agent.reload(&file(&at(&second), ""));
        agent.reads("serving metrics at");
        agent.reads("; SIGHUP reads ");
        assert!(scrape(&second).unwrap().contains(failed), "it goes on counting");
        assert!(scrape(&first).is_none() && !first.exists());
        assert_eq!(agent.running.interrupt().status.code(), Some(0));
        assert!(!second.exists());
    });
}

#[test]
fn a_port_in_use_is_an_error_at_the_start() {
    isolated(|| {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let file = File::new(&format!("[metrics]\nlisten = \"{address}\"\n"));
        let text = error(2, &["agent", "--config", file.path()]);
        assert!(text.contains(&format!("{address}: another process listens there")), "{text}");
    });
}

#[test]
fn a_new_server_waits_if_the_file_says_so() {
    isolated(|| {
        let old = Forking::start_on(Transport::Tcp, free_port(), 1);
        let name = format!("tcp:{}", old.addr());
        let text = format!("[server.web]\ngroups = [\"{name}\"]\nhold-new = true\n");
        let _agent = Agent::start(&text);
        // What came by itself a moment ago may still be starting.
        stdout(&["attach", &name]);
        let _new = Forking::start_on(Transport::Tcp, old.addr().port(), 1);
        let states = || -> Vec<String> {
            let shown = json(&["show", &name, "--json"]);
            let state = |member: &serde_json::Value| member["state"].as_str().map(str::to_owned);
            shown["members"].as_array().unwrap().iter().filter_map(state).collect()
        };
        until("the new one waits", BOUND, || states() == ["active", "standby"]);
        stdout(&["promote", &name]);
        assert_eq!(states(), ["draining", "active"]);
    });
}

#[test]
fn doctor_does_not_tell_what_the_file_silences() {
    isolated(|| {
        let (_listeners, name) = group(1);
        let found = |arguments: &[&str]| {
            let output = run(&[&["doctor", &name, "--json"], arguments].concat());
            String::from_utf8(output.stdout).unwrap().contains("\"finding\": \"one-socket\"")
        };
        assert!(found(&[]));
        let file = File::new("silence = [\"one-socket\"]\n");
        assert!(!found(&["--config", file.path()]));
        let file = File::new(&format!("silence = [\"one-socket@{name}\"]\n"));
        assert!(!found(&["--config", file.path()]));
        error(2, &["doctor", &name, "--config", "/nonexistent/reuseport.toml"]);
    });
}

#[test]
fn files_that_are_wrong_are_refused_in_one_line() {
    isolated(|| {
        let file = File::new("[server.web]\ngroups = [\":80\"]\nslot = 3\n");
        for arguments in [&["agent", "--config"][..], &["agent", "--check", "--config"]] {
            let text = error(2, &[arguments, &[file.path()]].concat());
            assert!(text.contains("line 3: [server.web] has no key `slot`; did you mean `slots`?"));
        }
        let text = error(2, &["agent", "--config", "/nonexistent/reuseport.toml"]);
        assert!(text.contains("there is no such file"), "{text}");
        let file = File::new("[server.web]\ngroups = [\":80,netns=never-made\"]\n");
        let text = error(2, &["agent", "--config", file.path()]);
        assert!(text.contains("never-made"), "{text}");
        let file =
            File::new("[server.web]\ngroups = [\":80\"]\n[server.dns]\ngroups = [\":53\"]\n");
        let text = stdout(&["agent", "--check", "--config", file.path()]);
        assert_eq!(text, format!("{}: 2 servers\n", file.path()));
    });
}
