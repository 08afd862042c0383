//! Simple clients that use a new connection or socket for each request, so that the kernel selects
//! a socket for each. [`crate::load`] has wrk and dnsperf.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

use crate::wait::{self, BOUND, scaled};

/// The body of the answer to one request over a new connection to the server at `addr`.
///
/// # Panics
///
/// On any failure. Tests that count failures use [`try_http_get`].
#[track_caller]
pub fn http_get(addr: SocketAddr) -> String {
    try_http_get(addr).unwrap_or_else(|error| panic!("GET http://{addr}/: {error}"))
}

/// Like [`http_get`]; failures (refused, reset, truncated, not 200) are errors.
///
/// # Errors
///
/// The error of the socket; [`io::ErrorKind::InvalidData`] if the answer is not a complete 200.
pub fn try_http_get(addr: SocketAddr) -> io::Result<String> {
    let mut stream = http_ask(addr, "/")?;
    http_answer(&mut stream)
}

/// Like [`http_get`], from a given source port of the same address, so that all requests belong to
/// the same flow.
///
/// # Panics
///
/// On any failure.
#[track_caller]
pub fn http_get_from(port: u16, addr: SocketAddr) -> String {
    // The previous connection may not have ended yet.
    let stream = wait::until_some("the source port", BOUND, || match connect_from(port, addr) {
        Err(Errno::ADDRNOTAVAIL | Errno::ADDRINUSE) => None,
        result => Some(result),
    });
    let answer = stream.map_err(io::Error::from).and_then(|stream| {
        let mut stream = ask(stream, addr, "/")?;
        http_answer(&mut stream)
    });
    answer.unwrap_or_else(|error| panic!("GET http://{addr}/ from port {port}: {error}"))
}

fn connect_from(port: u16, addr: SocketAddr) -> Result<TcpStream, Errno> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddr::new(addr.ip(), port))?;
    connect(&socket, &addr)?;
    Ok(socket.into())
}

/// Connects and requests `path`, without waiting for the answer ([`http_answer`]).
///
/// # Errors
///
/// The error of the socket.
pub fn http_ask(addr: SocketAddr, path: &str) -> io::Result<TcpStream> {
    ask(TcpStream::connect_timeout(&addr, scaled(BOUND))?, addr, path)
}

fn ask(mut stream: TcpStream, addr: SocketAddr, path: &str) -> io::Result<TcpStream> {
    stream.set_read_timeout(Some(scaled(BOUND)))?;
    // With HTTP/1.0 the server closes the connection after the answer.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n").as_bytes())?;
    Ok(stream)
}

/// The body of the answer that comes over `stream`.
///
/// # Errors
///
/// As [`try_http_get`].
pub fn http_answer(stream: &mut TcpStream) -> io::Result<String> {
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.split(' ').nth(1) != Some("200") || body.is_empty() {
        let what = format!("the server answered {answer:?}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(body.to_owned())
}

/// The answer of the server at `addr` to a DNS query for the IPv4 address of `name`, sent once from
/// a new socket.
///
/// # Panics
///
/// On any failure. Tests that count failures use [`try_dns_query`].
#[track_caller]
pub fn dns_query(addr: SocketAddr, name: &str) -> Vec<u8> {
    try_dns_query(addr, name).unwrap_or_else(|error| panic!("DNS query to {addr}: {error}"))
}

/// Like [`dns_query`]; failures are errors.
///
/// # Errors
///
/// The error of the socket; a timeout is [`io::ErrorKind::WouldBlock`].
pub fn try_dns_query(addr: SocketAddr, name: &str) -> io::Result<Vec<u8>> {
    let socket = match addr {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))?,
    };
    socket.connect(addr)?;
    socket.set_read_timeout(Some(scaled(BOUND)))?;
    dns_ask(&socket, name)
}

/// The answer to a query over a socket that is connected to a server.
///
/// # Errors
///
/// As [`try_dns_query`].
pub fn dns_ask(socket: &UdpSocket, name: &str) -> io::Result<Vec<u8>> {
    socket.send(&dns_question(name))?;
    let mut answer = vec![0; 1500];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

/// Like [`dns_query`], over a new TCP connection.
///
/// # Panics
///
/// On any failure.
#[track_caller]
pub fn dns_query_tcp(addr: SocketAddr, name: &str) -> Vec<u8> {
    try_dns_query_tcp(addr, name).unwrap_or_else(|error| panic!("DNS query to {addr}: {error}"))
}

/// Over TCP a two-byte length precedes each message (RFC 1035, section 4.2.2).
fn try_dns_query_tcp(addr: SocketAddr, name: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&addr, scaled(BOUND))?;
    stream.set_read_timeout(Some(scaled(BOUND)))?;
    let question = dns_question(name);
    stream.write_all(&(question.len() as u16).to_be_bytes())?;
    stream.write_all(&question)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// A query as in RFC 1035, section 4: a header and one question of type A and class IN.
///
/// # Panics
///
/// If `name` is no domain name.
pub fn dns_question(name: &str) -> Vec<u8> {
    const ID: u16 = 0x5eed;
    const RECURSION_DESIRED: u16 = 0x0100;
    const TYPE_A: u16 = 1;
    const CLASS_IN: u16 = 1;

    let header = [ID, RECURSION_DESIRED, 1, 0, 0, 0];
    let mut query: Vec<u8> = header.into_iter().flat_map(u16::to_be_bytes).collect();
    for label in name.trim_end_matches('.').split('.') {
        assert!((1..64).contains(&label.len()), "{name:?} is not a domain name");
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.push(0);
    query.extend([TYPE_A, CLASS_IN].into_iter().flat_map(u16::to_be_bytes));
    query
}
