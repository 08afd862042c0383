//! Clients that connect all at once, as after a restart of what is in front of a server, and stay.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use crate::wait::{BOUND, scaled};

/// Begins all connections before any is established.
///
/// # Errors
///
/// The error of a socket.
pub fn connect_at_once(addr: SocketAddr, clients: usize) -> io::Result<Vec<TcpStream>> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let sockets = (0..clients).map(|_| socket_with(family, SocketType::STREAM, flags, None));
    let sockets = sockets.collect::<Result<Vec<_>, _>>()?;
    for socket in &sockets {
        match connect(socket, &addr) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(sockets.into_iter().map(TcpStream::from).collect())
}

/// Asks an HTTP server over each connection, and leaves all of them open: the answers' bodies.
///
/// # Errors
///
/// The error of a socket; [`io::ErrorKind::InvalidData`] for an answer without a length.
pub fn ask_all(clients: &[TcpStream]) -> io::Result<Vec<String>> {
    for mut client in clients {
        client.set_nonblocking(false)?;
        client.set_read_timeout(Some(scaled(BOUND)))?;
        client.set_write_timeout(Some(scaled(BOUND)))?;
        client.write_all(b"GET / HTTP/1.1\r\nHost: burst\r\n\r\n")?;
    }
    clients.iter().map(answer).collect()
}

fn answer(client: &TcpStream) -> io::Result<String> {
    let mut reader = BufReader::new(client);
    let mut length = None;
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse::<usize>().ok();
        }
    }
    let mut body = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
    reader.read_exact(&mut body)?;
    String::from_utf8(body).map_err(|_| io::ErrorKind::InvalidData.into())
}
