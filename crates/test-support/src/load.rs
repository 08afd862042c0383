//! Load from wrk and dnsperf, which also count failures, and from simple clients that run while a
//! test changes the server.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::SetOnDrop;
use crate::client::try_http_get;
use crate::process;
use crate::wait::scaled;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// How many requests or queries succeeded and failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// How many were answered correctly.
    pub answered: u64,
    /// How many were refused, reset, truncated, timed out, or answered with an error.
    pub failed: u64,
}

/// Runs `body` on the calling thread while `clients` threads send requests to the server at `addr`,
/// each over a new connection.
///
/// # Panics
///
/// Like `body`.
pub fn http_during(addr: SocketAddr, clients: usize, body: impl FnOnce()) -> Outcome {
    asked_during(clients, |_, _| try_http_get(addr).is_ok(), body)
}

/// The same with any request. `ask` is given the number of the client and that of its request, and returns whether it was
/// answered.
///
/// # Panics
///
/// Like `body`.
pub fn asked_during(
    clients: usize,
    ask: impl Fn(usize, usize) -> bool + Sync,
    body: impl FnOnce(),
) -> Outcome {
    let done = AtomicBool::new(false);
    let [answered, failed] = [(); 2].map(|()| AtomicU64::new(0));
    thread::scope(|scope| {
        for client in 0..clients {
            let (done, ask, answered, failed) = (&done, &ask, &answered, &failed);
            scope.spawn(move || {
                // At least once, even if `body` returns at once.
                for number in 0.. {
                    let counter = if ask(client, number) { answered } else { failed };
                    counter.fetch_add(1, Ordering::Relaxed);
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        // If `body` panics, the clients must end, because the scope waits for them.
        let _done = SetOnDrop(&done);
        body();
    });
    Outcome { answered: answered.into_inner(), failed: failed.into_inner() }
}

/// Runs wrk for some seconds (more on a slow machine) with 8 clients and a connection for each
/// request.
///
/// # Panics
///
/// If wrk fails or prints something unexpected.
#[track_caller]
pub fn wrk(addr: SocketAddr, seconds: u32) -> Outcome {
    let mut command = Command::new(crate::program("wrk"));
    command.args(["--threads", "1", "--connections", "8", "--header", "Connection: close"]);
    command.arg("--timeout").arg(format!("{}s", scaled(PATIENCE).as_secs()));
    command.arg("--duration").arg(format!("{}s", in_seconds(seconds)));
    command.arg(format!("http://{addr}/"));
    let said = run(&mut command);
    // `  4711 requests in 1.00s, 1.00MB read`, and, if there were any,
    // `  Socket errors: connect 0, read 1, write 0, timeout 0` and `  Non-2xx or 3xx ...: 2`.
    let all = said.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
    let all: u64 = all.unwrap_or_else(|| panic!("wrk printed {said:?}"));
    let errors = said.lines().find_map(|line| line.trim().strip_prefix("Socket errors: "));
    let unanswered: u64 = errors.map_or(0, |errors| {
        errors.split(", ").filter_map(|e| e.split(' ').next_back()?.parse::<u64>().ok()).sum()
    });
    let refusals = said.lines().find_map(|line| {
        line.trim().strip_prefix("Non-2xx or 3xx responses: ")?.parse::<u64>().ok()
    });
    let refusals = refusals.unwrap_or(0);
    Outcome { answered: all - refusals, failed: unanswered + refusals }
}

/// Runs dnsperf for some seconds (more on a slow machine). It queries `name` from 8 sockets, at
/// most `per_second` times a second and with at most 20 queries outstanding, so that no queue
/// overflows. A query that is not answered within three seconds has failed.
///
/// # Panics
///
/// If dnsperf fails or prints something unexpected.
#[track_caller]
pub fn dnsperf(addr: SocketAddr, name: &str, seconds: u32, per_second: u32) -> Outcome {
    let mut queries = tempfile::NamedTempFile::new().unwrap_or_else(|e| panic!("no file: {e}"));
    writeln!(queries, "{name} A").unwrap_or_else(|e| panic!("cannot write: {e}"));
    let mut command = Command::new(crate::program("dnsperf"));
    command.args(["-s", &addr.ip().to_string(), "-p", &addr.port().to_string()]);
    command.args(["-c", "8", "-q", "20", "-t", &scaled(PATIENCE).as_secs().to_string()]);
    command.args(["-l", &in_seconds(seconds).to_string(), "-Q", &per_second.to_string()]);
    command.arg("-d").arg(queries.path());
    let said = run(&mut command);
    let number = |what: &str| -> u64 {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(what));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("dnsperf printed {said:?}"))
    };
    let answered = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("Response codes:"))
        .and_then(|codes| codes.trim().strip_prefix("NOERROR ")?.split(' ').next()?.parse().ok());
    let answered = answered.unwrap_or(0);
    Outcome { answered, failed: number("Queries sent:") - answered }
}

/// The seconds that this machine needs for what a real machine does in `seconds`.
fn in_seconds(seconds: u32) -> u64 {
    scaled(Duration::from_secs(seconds.into())).as_secs()
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output =
        process::output(command).unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let Output { status, stdout, stderr } = output;
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}: {stdout}{stderr}");
    stdout.into_owned()
}
