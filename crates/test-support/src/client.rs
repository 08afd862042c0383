//! The simplest clients: one request, one connection or one socket each, so that every request is a
//! choice for whatever balances. For load there are wrk and dnsperf.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};

use crate::wait::{BOUND, scaled};

/// The body that the server at `addr` answers to one request over a connection of its own.
///
/// # Panics
///
/// On any failure; [`try_http_get`] is for tests that count failures.
#[track_caller]
pub fn http_get(addr: SocketAddr) -> String {
    try_http_get(addr).unwrap_or_else(|error| panic!("GET http://{addr}/: {error}"))
}

/// Like [`http_get`], with failures (refused, reset, cut short, not 200) as errors.
///
/// # Errors
///
/// The socket's error; [`io::ErrorKind::InvalidData`] if the answer is not a complete 200.
pub fn try_http_get(addr: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, scaled(BOUND))?;
    stream.set_read_timeout(Some(scaled(BOUND)))?;
    // HTTP/1.0: the server closes when it has said all.
    stream.write_all(format!("GET / HTTP/1.0\r\nHost: {addr}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.split(' ').nth(1) != Some("200") || body.is_empty() {
        let what = format!("the server answered {answer:?}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(body.to_owned())
}

/// The datagram that the server at `addr` answers to a DNS query for `name`'s IPv4 address, sent
/// once, from a socket of its own.
///
/// # Panics
///
/// On any failure; [`try_dns_query`] is for tests that count failures.
#[track_caller]
pub fn dns_query(addr: SocketAddr, name: &str) -> Vec<u8> {
    try_dns_query(addr, name).unwrap_or_else(|error| panic!("DNS query to {addr}: {error}"))
}

/// Like [`dns_query`], with failures as errors.
///
/// # Errors
///
/// The socket's error; a time-out is [`io::ErrorKind::WouldBlock`].
pub fn try_dns_query(addr: SocketAddr, name: &str) -> io::Result<Vec<u8>> {
    let socket = match addr {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))?,
    };
    socket.connect(addr)?;
    socket.set_read_timeout(Some(scaled(BOUND)))?;
    socket.send(&dns_question(name))?;
    let mut answer = vec![0; 1500];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

/// RFC 1035, section 4: a header, and one question of type A and class IN.
fn dns_question(name: &str) -> Vec<u8> {
    const ID: u16 = 0x5eed;
    const RECURSION_DESIRED: u16 = 0x0100;
    const TYPE_A: u16 = 1;
    const CLASS_IN: u16 = 1;

    let header = [ID, RECURSION_DESIRED, 1, 0, 0, 0];
    let mut query: Vec<u8> = header.into_iter().flat_map(u16::to_be_bytes).collect();
    for label in name.trim_end_matches('.').split('.') {
        assert!((1..64).contains(&label.len()), "{name:?} is no domain name");
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.push(0);
    query.extend([TYPE_A, CLASS_IN].into_iter().flat_map(u16::to_be_bytes));
    query
}
