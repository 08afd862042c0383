//! Each example is started, used, asked for its numbers and interrupted.
//!
//! The examples are part of this test binary, which runs them in copies of itself, so that they
//! exist wherever it runs.

#[path = "../../../examples/http.rs"]
#[allow(dead_code, reason = "its main function")]
mod http;
#[path = "../../../examples/own_program.rs"]
#[allow(dead_code, reason = "its main function")]
mod own_program;
#[path = "../../../examples/udp_echo.rs"]
#[allow(dead_code, reason = "its main function")]
mod udp_echo;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, ChildStdout, Stdio};

use crate::common::world::{alone, nothing_pinned};
use reuseport::{Balancer, Host, Stats};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use test_support::client::{http_answer, http_ask, http_get};
use test_support::process::{rerun, spawn};
use test_support::wait::{self, BOUND};

const ROLE: &str = "REUSEPORT_TEST_EXAMPLE";

/// A process that runs an example.
struct Example {
    process: Child,
    stdout: BufReader<ChildStdout>,
    at: SocketAddr,
}

impl Example {
    /// Starts an example, and waits until it listens.
    fn start(role: &str) -> Self {
        let mut command = rerun(module_path!(), "example");
        let mut process =
            spawn(command.arg("--nocapture").env(ROLE, role).stdout(Stdio::piped())).unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        let at = loop {
            line.clear();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "it ended early");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split([',', '\n']).next().unwrap().parse().unwrap();
            }
        };
        Self { process, stdout, at }
    }

    /// The statistics of its group.
    fn stats(&self, protocol: &str) -> Stats {
        let host = Host::open().unwrap();
        let group = host.find(&format!("{protocol}:{}", self.at).parse().unwrap()).unwrap();
        Balancer::open(&host, &group.key).unwrap().stats().unwrap()
    }

    /// Interrupts it, and returns what it prints at its end. It must have detached.
    fn interrupt(mut self) -> String {
        kill_process(Pid::from_child(&self.process), Signal::INT).unwrap();
        let mut said = String::new();
        self.stdout.read_to_string(&mut said).unwrap();
        assert!(self.process.wait().unwrap().success(), "{said}");
        assert!(nothing_pinned());
        said
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn http_avoids_a_blocked_worker() {
    alone(|| {
        let example = Example::start("http");
        let workers: BTreeSet<String> = (0..12).map(|_| http_get(example.at)).collect();
        assert_eq!(workers.len(), 3, "idle workers take turns: {workers:?}");

        let mut slow = http_ask(example.at, "/slow").unwrap();
        let meanwhile: Vec<String> = (0..30).map(|_| http_get(example.at)).collect();
        let slow = http_answer(&mut slow).unwrap();
        let with_it = meanwhile.iter().filter(|worker| **worker == slow).count();
        assert!(with_it <= 2, "{with_it} of 30 with {slow}");

        let stats = example.stats("tcp");
        assert_eq!((stats.picks(), stats.count("picks")), (43, Some(43)));
        let picks: Vec<u64> = stats.members.iter().map(|m| m.picks.unwrap()).collect();
        let said = example.interrupt();
        // Slots are in the order of cookies, which can differ from that of the workers.
        for picks in picks {
            assert!(said.contains(&format!(": {picks} picks, 0 wait")), "{picks}: {said}");
        }
    });
}

#[test]
fn udp_echo_selects_by_payload() {
    alone(|| {
        let example = Example::start("udp_echo");
        let ask = |payload: &str| {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.set_read_timeout(Some(wait::scaled(BOUND))).unwrap();
            client.send_to(payload.as_bytes(), example.at).unwrap();
            let mut answer = [0; 100];
            let length = client.recv(&mut answer).unwrap();
            let answer = String::from_utf8(answer[..length].to_vec()).unwrap();
            let (socket, same) = answer.split_once(' ').unwrap();
            assert_eq!(same, payload);
            socket.to_owned()
        };
        let of = |key: &str| (0..5).map(|n| ask(&format!("{key}{n}"))).collect::<BTreeSet<_>>();
        let keys: Vec<_> = (0..20).map(|key| of(&format!("{key:04}"))).collect();
        assert!(keys.iter().all(|sockets| sockets.len() == 1), "{keys:?}");
        assert!(keys.iter().flatten().collect::<BTreeSet<_>>().len() > 1, "{keys:?}");
        ask("abc");
        let stats = example.stats("udp");
        assert_eq!((stats.picks(), stats.count("payload_short")), (101, Some(1)));
        let said = example.interrupt();
        assert!(said.contains("payload_short: 1"), "{said}");
    });
}

#[test]
fn own_program_keeps_each_client_at_its_worker() {
    alone(|| {
        let example = Example::start("own_program");
        let mut all = BTreeSet::new();
        for client in 2..10 {
            let client = IpAddr::from([127, 0, 0, client]);
            let answers: BTreeSet<_> = (0..5).map(|_| get_from(client, example.at)).collect();
            assert_eq!(answers.len(), 1, "{client}: {answers:?}");
            all.extend(answers);
        }
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(example.stats("tcp").members.iter().all(|m| m.slot.is_some() && m.picks.is_none()));
        let said = example.interrupt();
        let accepted = said
            .lines()
            .filter_map(|l| l.split(": ").nth(1)?.split(' ').next()?.parse::<u32>().ok());
        assert_eq!(accepted.sum::<u32>(), 40, "{said}");
    });
}

fn get_from(client: IpAddr, server: SocketAddr) -> String {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::new(client, 0)).unwrap();
    connect(&socket, &server).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    http_answer(&mut stream).unwrap()
}

#[test]
#[ignore = "runs in the processes that the other tests start"]
fn example() {
    let Ok(role) = std::env::var(ROLE) else { return };
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let run = || match role.as_str() {
        "http" => http::run(any, 3),
        "udp_echo" => udp_echo::run("payload:0:4".parse().unwrap(), any, 3),
        "own_program" => own_program::run(own_program::BY_SOURCE.into(), any, 2),
        other => panic!("no example {other:?}"),
    };
    run().unwrap();
}
