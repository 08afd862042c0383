//! One connection of a client: requests and their answers, and whose loss it is when there is none.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use test_support::wait::{BOUND, scaled};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use crate::account::{self, Account, Reached};
use crate::protocol::{Answer, Place, Protocol, dns_query, is_dns_answer};
use crate::tally::How;

/// A request without an answer, and who lost it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The server never accepted it.
    Ours(How, Reached),
    /// The server had accepted it.
    Servers(How),
}

/// How long a client waits: far longer than any restart takes, also on a busy machine.
fn patience() -> Duration {
    scaled(3 * BOUND)
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    protocol: Protocol,
    stream: TcpStream,
    /// The client's.
    port: u16,
    /// When it began ([`account::now`]).
    since: u64,
    answers: usize,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    ///
    /// If the client itself cannot. What the network or the server does is a [`Lost`].
    pub async fn open(server: SocketAddr, protocol: Protocol) -> Result<Result<Self, Lost>> {
        let since = account::now();
        let stream = match timeout(patience(), TcpStream::connect(server)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let how = how(&error).context("a client cannot connect")?;
                return Ok(Err(Lost::Ours(how, Reached::Handshake)));
            }
            Err(_) => return Ok(Err(Lost::Ours(How::TimedOut, Reached::Handshake))),
        };
        stream.set_nodelay(true)?;
        let port = stream.local_addr()?.port();
        Ok(Ok(Self { protocol, stream, port, since, answers: 0 }))
    }

    /// When it began ([`account::now`]).
    pub fn since(&self) -> u64 {
        self.since
    }

    /// Asks, and waits for the answer. On a loss, the connection is of no more use.
    ///
    /// # Errors
    ///
    /// If the client itself fails.
    pub async fn ask(&mut self, last: bool, account: &Account) -> Result<Result<Answer, Lost>> {
        let place = Place { first: self.answers == 0, last };
        let mut received = Vec::new();
        let asked = timeout(patience(), self.exchange(place, &mut received)).await;
        let how = match asked {
            Ok(Ok(answer)) => {
                self.answers += 1;
                return Ok(Ok(answer));
            }
            Ok(Err(error)) => how(&error).context("a client cannot ask")?,
            Err(_) => How::TimedOut,
        };
        // What has answered has accepted.
        if self.answers > 0 || !received.is_empty() {
            return Ok(Err(Lost::Servers(how)));
        }
        Ok(Err(match self.reached(account, how == How::TimedOut).await? {
            Reached::Server => Lost::Servers(how),
            reached => Lost::Ours(how, reached),
        }))
    }

    async fn exchange(&mut self, place: Place, received: &mut Vec<u8>) -> io::Result<Answer> {
        self.stream.write_all(&self.protocol.request(place)).await?;
        loop {
            if let Some(answer) = self.protocol.answer(received) {
                if place.last {
                    let _ = self.stream.write_all(self.protocol.farewell()).await;
                }
                return Ok(answer);
            }
            if self.stream.read_buf(received).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// How far it came. What is still open has changed no state that would tell, so it begins to close.
    async fn reached(&mut self, account: &Account, open: bool) -> Result<Reached> {
        if open {
            let _ = self.stream.shutdown().await;
            sleep(Duration::from_millis(50)).await;
        }
        account.of(self.port, self.since)
    }

    /// Whether the server has closed it, or sent what was not asked for.
    pub fn has_ended(&self) -> bool {
        let mut byte = [0];
        !matches!(self.stream.try_read(&mut byte), Err(e) if e.kind() == ErrorKind::WouldBlock)
    }
}

/// An error is no loss, but a failure of the client.
fn how(error: &io::Error) -> io::Result<How> {
    match error.kind() {
        ErrorKind::ConnectionRefused => Ok(How::Refused),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Ok(How::Reset),
        ErrorKind::UnexpectedEof => Ok(How::Closed),
        ErrorKind::TimedOut => Ok(How::TimedOut),
        _ => Err(io::Error::new(error.kind(), error.to_string())),
    }
}

/// Asks once, in a datagram from a new socket. No account tells who lost a datagram: every loss counts as ours.
///
/// # Errors
///
/// If the client itself fails.
pub async fn ask_dns(server: SocketAddr) -> Result<Result<Answer, Lost>> {
    let any = SocketAddr::new(server.ip(), 0);
    let socket = UdpSocket::bind(any).await.context("a client cannot bind a socket")?;
    socket.connect(server).await?;
    let mut message = [0; 1500];
    let asked = timeout(patience(), async {
        socket.send(&dns_query()).await?;
        socket.recv(&mut message).await
    });
    Ok(match asked.await {
        Ok(Ok(length)) => {
            let right = is_dns_answer(&message[..length]);
            Ok(Answer { right, pid: None, closes: true })
        }
        Ok(Err(error)) => {
            let how = how(&error).context("a client cannot ask")?;
            Err(Lost::Ours(how, Reached::Handshake))
        }
        Err(_) => Err(Lost::Ours(How::TimedOut, Reached::Queue)),
    })
}
