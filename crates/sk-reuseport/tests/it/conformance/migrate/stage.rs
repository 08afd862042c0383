//! Five listeners, four of which have all connections, and 25 clients.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::net::{Shutdown, listen, shutdown};
use sk_reuseport::net::Bind;
use socket2::{SockFilter, SockRef};
use test_support::wait::{self, BOUND};

use super::State;
use super::program::{Event, Programs, TARGET};
use crate::conformance::group::{Bound, Client, Protocol, allow_data_in_syns};

pub(crate) const CLIENTS: u64 = 25;

const BACKLOG: i32 = 64;

/// Listeners with a program, connections that are all in one state, and the clients by address.
pub(crate) struct Stage {
    pub(crate) state: State,
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) programs: Programs,
    clients: BTreeMap<SocketAddr, Talker>,
}

impl Stage {
    pub(crate) fn new(bound: Bound, state: State) -> Self {
        allow_data_in_syns();
        let bind = Bind::new(bound.address()).nonblocking(true).backlog(BACKLOG);
        let listeners = bind.listeners(TARGET as usize + 1).unwrap();
        let port = listeners[0].local_addr().unwrap().port();
        let mut programs = Programs::load(port);
        for (index, listener) in (0..).zip(&listeners) {
            programs.store(index, listener);
        }
        programs.attach("hand_over", &listeners[0]);
        if state != State::Established {
            listeners[..TARGET as usize].iter().for_each(turn_deaf_to_acks);
        }
        let to = bound.reached_at(port);
        let clients = (0..CLIENTS as u8)
            .map(|number| Talker::connect(to, state, [number]))
            .map(|talker| (talker.stream.local_addr().unwrap(), talker))
            .collect();
        let stage = Self { state, listeners, programs, clients };
        stage.programs.assert_only(&[(Event::Dealt, CLIENTS)]);
        wait::until("the connections are in their state", BOUND, || {
            stage.queued() == (CLIENTS, state)
        });
        stage
    }

    /// The number of connections that are not accepted, and their state. /proc does not distinguish
    /// the two kinds of half-open connections; the programs' counters do.
    fn queued(&self) -> (u64, State) {
        let established = self.connections(ESTABLISHED);
        if established > 0 {
            return (established, State::Established);
        }
        let half_open = if self.state == State::Established { State::SynRecv } else { self.state };
        (self.connections(SYN_RECV), half_open)
    }

    /// The number of connections in a state on the listeners' side, accepted or not.
    fn connections(&self, state: &str) -> u64 {
        let port = self.listeners[0].local_addr().unwrap().port();
        let local = format!(":{port:04X}");
        let lines = ["tcp", "tcp6"].map(|file| {
            let path = format!("/proc/thread-self/net/{file}");
            let table = fs::read_to_string(path).unwrap();
            let is_one = |line: &&str| {
                let mut words = line.split_whitespace().skip(1);
                words.next().is_some_and(|word| word.ends_with(&local))
                    && words.nth(1) == Some(state)
            };
            table.lines().filter(is_one).count()
        });
        lines.iter().sum::<usize>() as u64
    }

    /// Stops a listener without closing its socket.
    pub(crate) fn shut_down(&self, listener: usize) {
        shutdown(&self.listeners[listener], Shutdown::Both).unwrap();
    }

    pub(crate) fn listen(&self, listener: usize) {
        listen(&self.listeners[listener], BACKLOG).unwrap();
    }

    /// Asserts that this listener receives each client's connection, and that it works.
    #[track_caller]
    pub(crate) fn assert_all_arrive(&mut self, listener: usize) {
        if self.state == State::NewSynRecvAck {
            self.speak();
        }
        let mut accepted = self.accept_all(listener);
        if self.state == State::NewSynRecvTimer {
            self.speak();
        }
        let who: Vec<&SocketAddr> = accepted.keys().collect();
        assert_eq!(who, self.clients.keys().collect::<Vec<_>>());
        for (address, connection) in &mut accepted {
            if self.state == State::SynRecv {
                // It inherited the filter from its first listener.
                SockRef::from(&*connection).detach_filter().unwrap();
            }
            connection.set_nonblocking(false).unwrap();
            connection.set_read_timeout(Some(BOUND)).unwrap();
            let client = self.clients.get_mut(address).unwrap();
            assert_eq!(hear(connection).unwrap(), client.message);
            connection.write_all(&client.message).unwrap();
            assert_eq!(client.hear().unwrap(), client.message);
        }
    }

    fn accept_all(&self, listener: usize) -> BTreeMap<SocketAddr, TcpStream> {
        let mut accepted = BTreeMap::new();
        wait::until("all connections arrive", BOUND, || {
            while let Ok((connection, peer)) = self.listeners[listener].accept() {
                assert!(accepted.insert(peer, connection).is_none(), "{peer} came twice");
            }
            accepted.len() as u64 == CLIENTS
        });
        accepted
    }

    /// Asserts that no listener receives a connection, and that all clients see a reset.
    #[track_caller]
    pub(crate) fn assert_all_reset(&mut self) {
        if self.state == State::NewSynRecvTimer {
            wait::until("the timers expire", BOUND, || self.connections(SYN_RECV) == 0);
        }
        if self.state.is_new_syn_recv() {
            self.speak();
        }
        for client in self.clients.values_mut() {
            assert_eq!(client.hear().unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
        for listener in &self.listeners {
            assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        }
    }

    fn speak(&mut self) {
        self.clients.values_mut().for_each(Talker::speak);
    }
}

/// The states in /proc/net/tcp.
const ESTABLISHED: &str = "01";
const SYN_RECV: &str = "03";

/// A client with a unique message.
struct Talker {
    stream: TcpStream,
    message: [u8; 1],
}

impl Talker {
    /// Connects, and sends the message at once if the state requires or allows it.
    fn connect(to: SocketAddr, state: State, message: [u8; 1]) -> Self {
        let mut stream = match state {
            State::SynRecv => Client::send(Protocol::Tcp, to, &message).unwrap().into(),
            _ => TcpStream::connect(to).unwrap(),
        };
        stream.set_read_timeout(Some(BOUND)).unwrap();
        if state == State::Established {
            stream.write_all(&message).unwrap();
        }
        Self { stream, message }
    }

    fn speak(&mut self) {
        self.stream.write_all(&self.message).unwrap();
    }

    fn hear(&mut self) -> io::Result<[u8; 1]> {
        hear(&mut self.stream)
    }
}

fn hear(stream: &mut TcpStream) -> io::Result<[u8; 1]> {
    let mut message = [0];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// Makes a listener drop every segment with an ACK, like a network that loses them. The socket's
/// filter also applies to half-open requests (tcp_v4_rcv), and connections inherit it.
fn turn_deaf_to_acks(listener: &TcpListener) {
    // The TCP header begins at 0. Load byte; jump if a bit is set; return how much to keep.
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const FLAGS: u32 = 13;
    const ACK: u32 = 0x10;

    let filter = [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(JUMP_IF_SET, 0, 1, ACK),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    SockRef::from(listener).attach_filter(&filter).unwrap();
}
