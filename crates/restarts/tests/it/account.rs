//! Connections that are lost on purpose, in every way that tells who lost them.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use restarts::account::{Account, Reached, now};
use restarts::exchange::{Connection, Lost};
use restarts::protocol::{Answer, Protocol};
use restarts::tally::How;
use sk_reuseport::net::Bind;
use test_support::process::{close, spawn};
use test_support::{netns, wait};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

/// Connections in each test.
const CONNECTIONS: usize = 8;

const QUEUED: Lost = Lost::Ours(How::Reset, Reached::Queue);

/// The end of a request.
type End = Result<Answer, Lost>;

/// Runs `test` over IPv4 and over IPv6, with an account of a port that was free.
fn with_account(test: impl Fn(SocketAddr, Arc<Account>) + Sync) {
    for any in ["127.0.0.1:0", "[::1]:0"] {
        netns::isolated(|| {
            let listener = TcpListener::bind(any).unwrap();
            let server = listener.local_addr().unwrap();
            close(listener);
            test(server, Account::open(server.port()).unwrap().into());
        });
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn listener(server: SocketAddr) -> TcpListener {
    Bind::new(server).listeners(1).unwrap().pop().unwrap()
}

/// Connects, all of them.
async fn connected(server: SocketAddr) -> Vec<Connection> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Connection::open(server, Protocol::Http).await.unwrap().unwrap());
    }
    connections
}

/// Asks over a connection, in the background.
fn ask(mut connection: Connection, account: &Arc<Account>) -> JoinHandle<End> {
    let account = Arc::clone(account);
    spawn_local(async move { connection.ask(true, &account).await.unwrap() })
}

/// Connects and asks. `serve` is called when all have connected.
fn ends(server: SocketAddr, account: &Arc<Account>, serve: impl FnOnce()) -> Vec<End> {
    let runtime = runtime();
    LocalSet::new().block_on(&runtime, async {
        let connections = connected(server).await;
        serve();
        let asked: Vec<_> = connections.into_iter().map(|it| ask(it, account)).collect();
        let mut ends = Vec::new();
        for asked in asked {
            ends.push(asked.await.unwrap());
        }
        ends
    })
}

fn accept(listener: &TcpListener, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| listener.accept().unwrap().0).collect()
}

#[test]
fn a_port_without_a_listener_is_not_the_servers_loss() {
    with_account(|server, _| {
        let lost = runtime().block_on(Connection::open(server, Protocol::Http)).unwrap();
        assert_eq!(lost.unwrap_err(), Lost::Ours(How::Refused, Reached::Handshake));
    });
}

#[test]
fn connections_in_the_queue_of_a_listener_that_closes_are_not_the_servers_loss() {
    with_account(|server, account| {
        let listener = listener(server);
        let ends = ends(server, &account, || close(listener));
        assert_eq!(ends, [Err(QUEUED); CONNECTIONS]);
    });
}

#[test]
fn of_one_listener_what_was_accepted_is_told_from_what_waited() {
    const ACCEPTED: usize = 3;

    with_account(|server, account| {
        let listener = listener(server);
        let ends = ends(server, &account, || {
            let accepted = accept(&listener, ACCEPTED);
            close(listener);
            close(accepted);
        });
        // The kernel's queue is in the order of the handshakes.
        let (accepted, waited) = ends.split_at(ACCEPTED);
        let closed = |end: &End| matches!(end, Err(Lost::Servers(How::Closed | How::Reset)));
        assert!(accepted.iter().all(closed), "{ends:?}");
        assert!(waited.iter().all(|end| *end == Err(QUEUED)), "{ends:?}");
    });
}

/// Accepts as many connections as its argument says, on descriptor 0, waits for a request on each, and exits.
const ACCEPTS_AND_EXITS: &str = "
import select, socket, sys
listener = socket.socket(fileno=0)
accepted = [listener.accept()[0] for _ in range(int(sys.argv[1]))]
for connection in accepted:
    select.select([connection], [], [])
";

#[test]
fn a_process_that_accepts_and_exits_unread_has_lost_what_it_accepted() {
    with_account(|server, account| {
        let listener = listener(server);
        let mut python = Command::new("python3");
        python.args(["-c", ACCEPTS_AND_EXITS, &CONNECTIONS.to_string()]);
        let mut process: Option<Child> = None;
        let ends = ends(server, &account, || {
            let listener = OwnedFd::from(listener);
            process = Some(spawn(python.stdin(Stdio::from(listener))).unwrap());
        });
        // The kernel resets a connection that is closed with unread data.
        assert_eq!(ends, [Err(Lost::Servers(How::Reset)); CONNECTIONS]);
        assert!(process.unwrap().wait().unwrap().success());
    });
}

#[test]
fn half_an_answer_is_the_servers_loss() {
    with_account(|server, account| {
        let listener = listener(server);
        let ends = ends(server, &account, || {
            for mut stream in accept(&listener, CONNECTIONS) {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1").unwrap();
                close(stream);
            }
        });
        let half = |end: &End| matches!(end, Err(Lost::Servers(How::Closed | How::Reset)));
        assert!(ends.iter().all(half), "{ends:?}");
    });
}

#[test]
fn an_earlier_connection_of_the_same_port_says_nothing() {
    with_account(|server, account| {
        let listener = listener(server);
        let (client, since) = {
            let client = TcpStream::connect(server).unwrap();
            let (mut accepted, _) = listener.accept().unwrap();
            let port = client.local_addr().unwrap().port();
            close(client);
            assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
            close(accepted);
            (port, now())
        };
        assert_eq!(account.of(client, 0).unwrap(), Reached::Server);
        assert_eq!(account.of(client, since).unwrap(), Reached::Handshake);
    });
}

#[test]
fn one_that_waits_is_in_the_queue_and_is_the_servers_once_accepted() {
    with_account(|server, account| {
        let listener = listener(server);
        let client = TcpStream::connect(server).unwrap();
        let port = client.local_addr().unwrap().port();
        wait::until("the end of the handshake", wait::BOUND, || {
            account.of(port, 0).unwrap() == Reached::Queue
        });
        let accepted = accept(&listener, 1);
        // It is seen at the next change of state.
        client.shutdown(Shutdown::Write).unwrap();
        wait::until("the server's end", wait::BOUND, || {
            account.of(port, 0).unwrap() == Reached::Server
        });
        close(accepted);
    });
}
