//! The members of a group and their clients, in one thread: what is sent, and where it arrives.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use sk_reuseport::net::Bind;
use test_support::process::close;
use test_support::wait::{self, BOUND};

/// Sorts members in the order in which they get slots: by cookie. That can differ from the order of
/// their creation, because each CPU takes cookies in batches (`gen_cookie_next`).
pub(crate) fn by_slot<S: AsFd>(mut members: Vec<S>) -> Vec<S> {
    members.sort_by_key(|member| sockopt::socket_cookie(member).unwrap());
    members
}

/// Members of a group, in the order of their slots.
pub(crate) trait Members {
    /// The protocol as in the name of a group.
    const PROTOCOL: &str;

    /// Opens members at an address; port 0 for a new group.
    fn new(at: SocketAddr, members: usize) -> Self;

    fn address(&self) -> SocketAddr;

    fn count(&self) -> usize;

    /// Opens more members.
    fn open(&mut self, members: usize);

    /// Closes the first members.
    fn close(&mut self, members: usize);

    /// Sends a number in a datagram or connection of its own.
    fn send(&mut self, number: u64);

    /// Calls `arrived` with the member and the number of everything that has arrived.
    fn receive(&mut self, arrived: impl FnMut(usize, u64));
}

/// UDP sockets to which several clients send in turn.
pub(crate) struct Datagrams {
    at: SocketAddr,
    members: Vec<UdpSocket>,
    clients: Vec<UdpSocket>,
    turn: usize,
}

impl Members for Datagrams {
    const PROTOCOL: &str = "udp";

    fn new(at: SocketAddr, members: usize) -> Self {
        const CLIENTS: usize = 16;

        let members = by_slot(Bind::new(at).nonblocking(true).udp_sockets(members).unwrap());
        let at = members[0].local_addr().unwrap();
        let client = || UdpSocket::bind((at.ip(), 0)).unwrap();
        let clients = std::iter::repeat_with(client).take(CLIENTS).collect();
        Self { at, members, clients, turn: 0 }
    }

    fn address(&self) -> SocketAddr {
        self.at
    }

    fn count(&self) -> usize {
        self.members.len()
    }

    fn open(&mut self, members: usize) {
        let more = Bind::new(self.at).nonblocking(true).udp_sockets(members).unwrap();
        self.members.extend(by_slot(more));
    }

    fn close(&mut self, members: usize) {
        close(self.members.drain(..members));
    }

    fn send(&mut self, number: u64) {
        self.turn = (self.turn + 1) % self.clients.len();
        self.clients[self.turn].send_to(&number.to_ne_bytes(), self.at).unwrap();
    }

    fn receive(&mut self, mut arrived: impl FnMut(usize, u64)) {
        let mut number = [0; 8];
        for (index, member) in self.members.iter().enumerate() {
            loop {
                match member.recv(&mut number) {
                    Ok(_) => arrived(index, u64::from_ne_bytes(number)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

/// Listeners, and connections that are answered and closed at once.
pub(crate) struct Connections {
    at: SocketAddr,
    pub(crate) members: Vec<TcpListener>,
    under_way: Vec<TcpStream>,
}

impl Connections {
    /// Accepts and answers every connection that waits at a member.
    fn answer(member: &TcpListener, mut arrived: impl FnMut(u64)) {
        let mut number = [0; 8];
        loop {
            match member.accept() {
                Ok((mut accepted, _)) => {
                    accepted.read_exact(&mut number).unwrap();
                    accepted.write_all(&number).unwrap();
                    arrived(u64::from_ne_bytes(number));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Members for Connections {
    const PROTOCOL: &str = "tcp";

    fn new(at: SocketAddr, members: usize) -> Self {
        let members = by_slot(Bind::new(at).nonblocking(true).listeners(members).unwrap());
        Self { at: members[0].local_addr().unwrap(), members, under_way: Vec::new() }
    }

    fn address(&self) -> SocketAddr {
        self.at
    }

    fn count(&self) -> usize {
        self.members.len()
    }

    fn open(&mut self, members: usize) {
        let more = Bind::new(self.at).nonblocking(true).listeners(members).unwrap();
        self.members.extend(by_slot(more));
    }

    fn close(&mut self, members: usize) {
        close(self.members.drain(..members));
    }

    fn send(&mut self, number: u64) {
        let mut client = TcpStream::connect(self.at).unwrap();
        client.write_all(&number.to_ne_bytes()).unwrap();
        self.under_way.push(client);
    }

    /// Waits until every connection is accepted, and answers it.
    fn receive(&mut self, mut arrived: impl FnMut(usize, u64)) {
        let mut accepted = 0;
        let start = Instant::now();
        while accepted < self.under_way.len() {
            for (index, member) in self.members.iter().enumerate() {
                Self::answer(member, |number| {
                    accepted += 1;
                    arrived(index, number);
                });
            }
            assert!(start.elapsed() < wait::scaled(BOUND), "a connection was lost");
        }
        for mut client in self.under_way.drain(..) {
            client.read_exact(&mut [0; 8]).unwrap();
            // Closing with RST leaves no TIME_WAIT, which would keep the port for a minute.
            sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        }
    }
}
