//! Clients of a server, each request over a new connection or from a new socket, and what became of
//! the requests.

use std::io::{self, BufRead, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fmt, fs, thread};

use restarts::protocol::client_hello;
use test_support::client::dns_ask;
use test_support::wait::{BOUND, scaled};

/// What a client asks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Ask {
    /// A page.
    Http,
    /// The address of `server.test`, over UDP.
    Dns,
    /// The first part of a TLS handshake.
    Tls,
    /// To begin a session with PostgreSQL.
    Postgres,
}

/// What became of requests.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) answered: usize,
    /// DNS: answered when it was sent once more.
    pub(super) again: usize,
    /// Refused or reset in the handshake, reset in the accept queue, or never answered.
    pub(super) lost: usize,
    /// Accepted by the server, and closed without an answer.
    pub(super) closed: usize,
    /// Answered after more than a second.
    pub(super) slow: usize,
    /// Reset: either of the two; the kernel's counters tell.
    reset: usize,
}

enum Outcome {
    Answered,
    Again,
    Lost,
    Closed,
    Reset,
}

impl Tally {
    fn add(&mut self, outcome: &Outcome) {
        let count = match outcome {
            Outcome::Answered => &mut self.answered,
            Outcome::Again => &mut self.again,
            Outcome::Lost => &mut self.lost,
            Outcome::Closed => &mut self.closed,
            Outcome::Reset => &mut self.reset,
        };
        *count += 1;
    }

    /// Of the connections that were reset, as many were accepted as processes have closed with unread
    /// data, or have closed before data came. The kernel counts these, and no others.
    fn judge(&mut self, aborted_by_servers: usize) {
        let theirs = self.reset.min(aborted_by_servers);
        self.closed += theirs;
        self.lost += self.reset - theirs;
        self.reset = 0;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answered, again, lost, closed, .. } = self;
        write!(f, "{answered} answered, {lost} lost, {closed} accepted and closed by the server")?;
        if *again > 0 { write!(f, ", {again} answered when asked again") } else { Ok(()) }
    }
}

/// `TCPAbortOnClose` and `TCPAbortOnData` of this network namespace.
fn aborted() -> usize {
    let text = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let both = names.split(' ').zip(values.split(' '));
    let wanted = both.filter(|(name, _)| ["TCPAbortOnClose", "TCPAbortOnData"].contains(name));
    wanted.map(|(_, value)| value.parse::<usize>().unwrap()).sum()
}

/// Sends requests one after the other.
pub(super) fn requests(ask: Ask, server: SocketAddr, count: usize) -> Tally {
    let (mut tally, before) = (Tally::default(), aborted());
    (0..count).for_each(|_| tally.add(&request(ask, server)));
    tally.judge(aborted() - before);
    tally
}

/// Two clients send requests while `body` runs.
pub(super) fn during(ask: Ask, server: SocketAddr, body: impl FnOnce()) -> Tally {
    const CLIENTS: usize = 2;

    let (tally, before, done) = (Mutex::new(Tally::default()), aborted(), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let outcome = request(ask, server);
                    let is_slow = began.elapsed() > scaled(Duration::from_secs(1));
                    let mut tally = tally.lock().unwrap();
                    tally.slow += usize::from(is_slow);
                    tally.add(&outcome);
                }
            });
        }
        let _done = test_support::SetOnDrop(&done);
        body();
    });
    let mut tally = tally.into_inner().unwrap();
    tally.judge(aborted() - before);
    tally
}

fn request(ask: Ask, server: SocketAddr) -> Outcome {
    if ask == Ask::Dns {
        return dns(server);
    }
    let Ok(mut stream) = TcpStream::connect_timeout(&server, scaled(BOUND)) else {
        return Outcome::Lost;
    };
    match answer(ask, &mut stream) {
        Ok(true) => Outcome::Answered,
        Ok(false) => Outcome::Closed,
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock => Outcome::Lost,
            ErrorKind::UnexpectedEof => Outcome::Closed,
            _ => Outcome::Reset,
        },
    }
}

/// Whether the server answers as it should. Reads to the end: what a client leaves unread counts as aborted.
fn answer(ask: Ask, stream: &mut TcpStream) -> io::Result<bool> {
    stream.set_read_timeout(Some(scaled(BOUND)))?;
    match ask {
        Ask::Http => {
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: server.test\r\nConnection: close\r\n\r\n")?;
            http(BufReader::new(stream))
        }
        Ask::Tls => {
            stream.write_all(&client_hello())?;
            let mut head = [0; 1];
            stream.read_exact(&mut head)?;
            stream.shutdown(std::net::Shutdown::Write)?;
            // The server may well reset a connection that ends in the handshake.
            let _ = stream.read_to_end(&mut Vec::new());
            const HANDSHAKE: u8 = 22;
            Ok(head == [HANDSHAKE])
        }
        Ask::Postgres => {
            let mut session = super::postgres::Session::begin(stream)?;
            session.end()?;
            Ok(true)
        }
        Ask::Dns => unreachable!("it has no connection"),
    }
}

/// Whether the answer is complete and says 200. Not read to the end, which may come a second later.
fn http(mut answer: impl BufRead) -> io::Result<bool> {
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line| line != "\r\n") {
        let mut line = String::new();
        if answer.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        lines.push(line);
    }
    let length = lines.iter().find_map(|line| {
        line.to_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok()
    });
    let mut body =
        vec![0; length.unwrap_or_else(|| panic!("an answer without a length: {lines:?}"))];
    answer.read_exact(&mut body)?;
    Ok(lines[0].starts_with("HTTP/1.1 200"))
}

/// Asked again after a second, as resolvers do.
fn dns(server: SocketAddr) -> Outcome {
    let is_answered = |patience: Duration| {
        let ask = || -> io::Result<Vec<u8>> {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.connect(server)?;
            socket.set_read_timeout(Some(scaled(patience)))?;
            dns_ask(&socket, "server.test")
        };
        ask().is_ok_and(|answer| answer.ends_with(&[192, 0, 2, 1]))
    };
    if is_answered(Duration::from_secs(1)) {
        Outcome::Answered
    } else if is_answered(BOUND) {
        Outcome::Again
    } else {
        Outcome::Lost
    }
}

#[test]
fn resets_that_no_server_caused_are_lost() {
    let mut tally = Tally { reset: 3, ..Tally::default() };
    tally.judge(2);
    assert_eq!((tally.lost, tally.closed), (1, 2));
    let mut tally = Tally { reset: 1, ..Tally::default() };
    tally.judge(5);
    assert_eq!((tally.lost, tally.closed), (0, 1));
}
