//! `metrics`: what it prints, writes and serves.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use sk_reuseport::net::Bind;
use test_support::loopback;
use test_support::process::{close, output, spawn};
use test_support::wait::{BOUND, until};

use crate::common::{Running, command, error, group, isolated, json, own_netns, run, stdout};

/// One scrape of the groups of this test.
fn scrape(more: &[&str]) -> String {
    let netns = own_netns();
    stdout(&[&["metrics", "--netns", &netns], more].concat())
}

/// The value of a series, as the text has it.
fn value<'a>(text: &'a str, series: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
}

/// What promtool says to a text.
fn promtool(text: &str) -> Output {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped());
    let mut child = spawn(promtool.stdout(Stdio::piped()).stderr(Stdio::piped())).unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn counters_are_labelled_by_slot_and_are_those_of_show() {
    isolated(|| {
        let (mut listeners, name) = group(3);
        stdout(&["attach", &name, "--policy", "round-robin"]);
        let address = listeners[0].local_addr().unwrap();
        let _clients: Vec<_> = (0..7).map(|_| TcpStream::connect(address).unwrap()).collect();
        let text = scrape(&[]);
        let shown = json(&["show", &name, "--json"]);
        for (slot, member) in shown["members"].as_array().unwrap().iter().enumerate() {
            let of = |metric: &str, more: &str| {
                let series =
                    format!("reuseport_{metric}{{group=\"{name}\",slot=\"{slot}\"{more}}}");
                value(&text, &series).unwrap_or_else(|| panic!("{series}: {text}")).to_owned()
            };
            assert_eq!(of("picks_total", ""), member["picks"].to_string());
            assert_eq!(of("accept_queue_connections", ""), member["queue"].to_string());
            assert_eq!(of("accept_queue_limit_connections", ""), member["queue_limit"].to_string());
            assert_eq!(of("drops_total", ""), "0");
            assert_eq!(of("member_weight", ""), "1");
            assert_eq!(of("member_state", ",state=\"active\""), "1");
            let info = format!(",cookie=\"{}\",generation=\"1\"", member["cookie"]);
            assert!(text.contains(&format!(
                "reuseport_member_info{{group=\"{name}\",slot=\"{slot}\"{info}"
            )));
        }
        let of_group = |metric: &str, more: &str| {
            value(&text, &format!("reuseport_{metric}{{group=\"{name}\"{more}}}"))
                .map(str::to_owned)
        };
        assert_eq!(of_group("fallbacks_total", ",reason=\"kernel\"").unwrap(), "0");
        assert_eq!(of_group("migrations_total", ",by=\"program\"").unwrap(), "0");
        assert_eq!(of_group("group_members", ",state=\"active\"").unwrap(), "3");
        assert_eq!(of_group("group_decided", "").unwrap(), "1");
        assert_eq!(of_group("group_watched", "").unwrap(), "0");
        assert_eq!(of_group("finding", ",finding=\"unwaited\"").unwrap(), "3");
        assert_eq!(value(&text, "reuseport_groups").unwrap(), "1");
        assert_eq!(value(&text, "reuseport_scrape_success").unwrap(), "1");
        let netns = own_netns();
        for metric in ["listen_overflows", "listen_drops", "udp_receive_buffer_errors"] {
            let series = format!("reuseport_{metric}_total{{netns=\"{netns}\"}}");
            assert!(value(&text, &series).is_some(), "{series}: {text}");
        }

        // Another worker takes the slot: the labels of the counters stay.
        close(listeners.remove(0));
        let _new = Bind::new(address).listeners(1).unwrap();
        let text = scrape(&[]);
        assert_eq!(
            value(&text, &format!("reuseport_group_unsteered_members{{group=\"{name}\"}}"))
                .unwrap(),
            "1"
        );
        stdout(&["attach", &name]);
        let text = scrape(&[]);
        let series = format!("reuseport_picks_total{{group=\"{name}\",slot=\"0\"}}");
        assert_eq!(value(&text, &series).unwrap(), "0");
        assert!(!text.contains(&format!("reuseport_picks_total{{group=\"{name}\",cookie")));
    });
}

#[test]
fn groups_without_a_program_are_told_by_cookie() {
    isolated(|| {
        let members = Bind::new(loopback(true)).udp_sockets(2).unwrap();
        let address = members[0].local_addr().unwrap();
        let client = UdpSocket::bind(loopback(true)).unwrap();
        assert_eq!(client.send_to(b"twelve bytes", address).unwrap(), 12);
        let name = format!("udp:{address}");
        let text = scrape(&[&name]);
        let shown = json(&["show", &name, "--json"]);
        for member in shown["members"].as_array().unwrap() {
            let labels = format!("{{group=\"{name}\",cookie=\"{}\"}}", member["cookie"]);
            let of = |metric: &str| value(&text, &format!("reuseport_{metric}{labels}")).unwrap();
            assert_eq!(of("receive_queue_bytes"), member["queue"].to_string());
            assert_eq!(of("receive_queue_limit_bytes"), member["queue_limit"].to_string());
        }
        let info =
            format!("reuseport_group_info{{group=\"{name}\",protocol=\"udp\",address=\"::1\"");
        assert!(text.contains(&info) && text.contains("program=\"none\"} 1"), "{text}");
        assert!(!text.contains("reuseport_accept_queue_connections{"), "{text}");
        assert!(!text.contains("reuseport_group_watched{"), "{text}");
    });
}

#[test]
fn promtool_finds_nothing_to_say_whatever_processes_are_called() {
    isolated(|| {
        let (listeners, name) = group(2);
        let _udp = Bind::new(loopback(false)).udp_sockets(2).unwrap();
        stdout(&["attach", &name]);
        let listener: OwnedFd = listeners[0].try_clone().unwrap().into();
        let script = "open('/proc/self/comm', 'wb').write(b'\"q\\\\\\n\\x1b\\xff{}=#'); print(1, flush=True); input()";
        let mut python = Command::new("python3");
        python.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(listener);
        let mut named = spawn(&mut python).unwrap();
        named.stdout.as_mut().unwrap().read_exact(&mut [0; 2]).unwrap();
        close((listeners, python));
        let text = scrape(&[]);
        assert!(text.contains(r#"comm="\"q\\"#), "{text}");
        let said = promtool(&text);
        assert!(
            said.status.success() && said.stdout.is_empty() && said.stderr.is_empty(),
            "{said:?}"
        );
        drop(named.stdin.take());
        named.wait().unwrap();
        // The other format has a type that collectors of text files do not know.
        let text = scrape(&["--format", "openmetrics"]);
        assert!(
            text.ends_with("# EOF\n") && text.contains("# TYPE reuseport_build info\n"),
            "{text}"
        );
        assert!(!promtool(&text).status.success());
    });
}

#[test]
fn the_page_names_every_metric_that_is_printed_and_its_example_none_that_is_not() {
    isolated(|| {
        let (_listeners, name) = group(1);
        stdout(&["attach", &name]);
        let page = include_str!("../../../../../docs/metrics.md");
        let text = scrape(&[]);
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        for metric in types {
            assert!(
                page.contains(&format!("| `{metric}` |")),
                "{metric} is not in docs/metrics.md"
            );
        }
        for line in page.lines().filter(|line| line.starts_with("reuseport_")) {
            let metric = line.split(['{', ' ']).next().unwrap();
            assert!(text.contains(&format!("# TYPE {metric} ")), "no metric {metric}");
        }
        let listed = stdout(&["metrics", "--list"]);
        assert!(listed.contains("\nreuseport_build_info\n    info by version\n"), "{listed}");
    });
}

#[test]
fn a_file_is_written_whole_and_is_written_although_a_group_is_gone() {
    isolated(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("reuseport.prom");
        let to = path.to_str().unwrap();
        let (listeners, name) = group(2);
        let written = |code: i32, arguments: &[&str]| {
            let output = run(&[&["metrics", "--output", to], arguments].concat());
            assert_eq!(output.status.code(), Some(code), "{output:?}");
            assert!(output.stdout.is_empty(), "{output:?}");
            fs::read_to_string(&path).unwrap()
        };
        assert!(written(0, &[&name]).contains(&format!("{{group=\"{name}\"")));
        close(listeners);
        let text = written(1, &[&name]);
        assert_eq!(value(&text, "reuseport_groups").unwrap(), "0");
        // A host without groups is no failure.
        assert_eq!(
            value(&written(0, &["--netns", &own_netns()]), "reuseport_groups").unwrap(),
            "0"
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

        let text = error(2, &["metrics", "--output", "/nowhere/reuseport.prom"]);
        assert!(text.starts_with("reuseport: cannot write /nowhere/reuseport.prom: "), "{text}");
        error(2, &["metrics", "--netns", "no such namespace"]);
        error(2, &["metrics", ":1,netns=12", "--netns", "13"]);
    });
}

/// A file system that is full.
#[test]
fn a_file_that_does_not_fit_leaves_the_old_one() {
    isolated(|| {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().to_str().unwrap().to_owned();
        let script = "mount -t tmpfs -o size=8k tmpfs \"$0\" && echo old > \"$0/x.prom\" && \
                      head -c 4096 /dev/zero > \"$0/full\" && \"$@\" metrics --output \"$0/x.prom\"; \
                      echo \"$?\"; cat \"$0/x.prom\"; ls -A \"$0\"";
        let mut shell = Command::new("unshare");
        shell.args(["-m", "sh", "-c", script, &at]).arg(command(&[]).get_program());
        let ran = output(&mut shell).unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert!(said.contains("x.prom: No space left on device"), "{said}");
        assert_eq!(String::from_utf8(ran.stdout).unwrap(), "2\nold\nfull\nx.prom\n", "{said}");
    });
}

/// A server of metrics, and its address.
fn served(arguments: &[&str]) -> (Running, String) {
    let netns = own_netns();
    let mut server =
        Running::start(&[&["metrics", "--netns", &netns, "--listen"], arguments].concat());
    let line = server.read_until("serving metrics at ");
    let address = line.trim_start_matches("serving metrics at http://").trim_end();
    let address = address.trim_end_matches("/metrics").to_owned();
    (server, address)
}

/// What a server answers to these bytes, until it closes the connection.
fn answer(mut stream: impl std::io::Read + std::io::Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(address: &str, path: &str, accept: &str) -> String {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    answer(TcpStream::connect(address).unwrap(), &request)
}

#[test]
fn a_server_answers_in_the_format_that_is_asked_for_until_it_is_told_to_stop() {
    isolated(|| {
        let (listeners, name) = group(2);
        let (server, address) = served(&["127.0.0.1:0"]);
        let text = get(&address, "/metrics", "*/*");
        assert!(
            text.starts_with("HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4"),
            "{text}"
        );
        assert!(text.contains(&format!("reuseport_group_decided{{group=\"{name}\"}} 0")), "{text}");
        let text = get(&address, "/metrics", "application/openmetrics-text; version=1.0.0");
        assert!(
            text.contains("\r\ncontent-type: application/openmetrics-text")
                && text.ends_with("# EOF\n")
        );
        assert!(get(&address, "/", "*/*").ends_with(": /metrics\n"));
        assert!(get(&address, "/other", "*/*").starts_with("HTTP/1.1 404 "));
        let post =
            "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let text = answer(TcpStream::connect(&address).unwrap(), post);
        assert!(text.starts_with("HTTP/1.1 405 ") && text.contains("\r\nallow: GET\r\n"), "{text}");
        let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(9000));
        assert!(answer(TcpStream::connect(&address).unwrap(), &long).starts_with("HTTP/1.1 431 "));

        // What is new is told after a second at most.
        close(listeners);
        until("the group is gone", BOUND, || {
            get(&address, "/metrics", "*/*").contains("reuseport_groups 0\n")
        });
        // A client that says nothing keeps the server from nothing.
        let _silent = TcpStream::connect(&address).unwrap();
        let output = server.interrupt();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    });
}

#[test]
fn clients_that_ask_at_once_share_a_look() {
    isolated(|| {
        let _group = group(2);
        let (server, address) = served(&["127.0.0.1:0"]);
        let duration =
            |text: &str| value(text, "reuseport_scrape_duration_seconds").unwrap().to_owned();
        let ask = || duration(&get(&address, "/metrics", "*/*"));
        let answers: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..64).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut looks = answers.clone();
        looks.sort();
        looks.dedup();
        // One a second at most, on however busy a machine.
        assert!(looks.len() < answers.len() / 2, "{looks:?}");
        server.interrupt();
    });
}

#[test]
fn a_unix_socket_is_made_and_removed_and_taken_over_after_a_kill() {
    isolated(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.sock");
        let listen = format!("unix:{}", path.display());
        let (mut server, _) = served(&[&listen]);
        let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let text = answer(UnixStream::connect(&path).unwrap(), request);
        assert!(text.contains("\nreuseport_groups 0\n"), "{text}");
        let text = error(2, &["metrics", "--listen", &listen]);
        assert!(text.contains("another process listens there"), "{text}");
        server.0.kill().unwrap();
        server.0.wait().unwrap();
        assert!(path.exists());
        let (server, _) = served(&[&listen]);
        kill_process(Pid::from_child(&server.0), Signal::TERM).unwrap();
        assert_eq!(server.interrupt().status.code(), Some(0));
        assert!(!path.exists());
    });
}

#[test]
fn an_address_that_cannot_be_had_is_one_clear_line() {
    isolated(|| {
        let taken = TcpListener::bind(loopback(false)).unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let text = error(2, &["metrics", "--listen", &address]);
        let expected = format!("cannot serve metrics at {address}: another process listens there");
        assert!(text.contains(&expected), "{text}");
        let text = error(2, &["metrics", "--listen", "192.0.2.1:0"]);
        assert!(text.contains("no device of this network namespace has this address"), "{text}");
    });
}
