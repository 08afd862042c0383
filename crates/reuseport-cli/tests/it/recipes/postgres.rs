//! A client of PostgreSQL's protocol, version 3: as much as a recipe needs.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

/// A session that is ready for queries.
pub(super) struct Session<'a> {
    stream: &'a mut TcpStream,
    /// What a cancel request must have: process and secret.
    pub(super) key: Vec<u8>,
}

impl<'a> Session<'a> {
    /// Logs in as `postgres`, without a password.
    pub(super) fn begin(stream: &'a mut TcpStream) -> io::Result<Self> {
        const VERSION: u32 = 3 << 16;
        let parameters = b"user\0postgres\0database\0postgres\0\0";
        send_untyped(stream, &[&VERSION.to_be_bytes()[..], parameters].concat())?;
        let mut session = Self { stream, key: Vec::new() };
        loop {
            match session.read()? {
                (b'K', key) => session.key = key,
                (b'Z', _) => return Ok(session),
                (b'E', text) => {
                    return Err(io::Error::other(String::from_utf8_lossy(&text).into_owned()));
                }
                _ => {}
            }
        }
    }

    /// Sends a query, and does not wait for the result.
    pub(super) fn query(&mut self, query: &str) -> io::Result<()> {
        self.stream.write_all(b"Q")?;
        send_untyped(self.stream, format!("{query}\0").as_bytes())
    }

    /// The next message: its type and the rest.
    pub(super) fn read(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let mut rest = vec![0; u32::from_be_bytes(length) as usize - 4];
        self.stream.read_exact(&mut rest)?;
        Ok((kind, rest))
    }

    /// Ends the session, and reads to the end.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.stream.write_all(b"X\0\0\0\x04")?;
        self.stream.read_to_end(&mut Vec::new()).map(drop)
    }
}

/// Asks, over a connection of its own, to cancel the query of the session that has this key.
pub(super) fn cancel(stream: &mut TcpStream, key: &[u8]) -> io::Result<()> {
    const CANCEL: u32 = 80_877_102;
    send_untyped(stream, &[&CANCEL.to_be_bytes()[..], key].concat())?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

fn send_untyped(stream: &mut TcpStream, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len() + 4).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], body].concat())
}
