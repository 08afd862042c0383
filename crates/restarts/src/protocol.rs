//! What is said to each kind of server: requests, and when an answer is whole. No I/O.

use test_support::client::dns_question;

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// The first part of a TLS handshake, one for each connection.
    Tls,
    /// A session with PostgreSQL, and queries.
    Postgres,
    /// DNS over UDP and TCP.
    Dns,
}

/// A request's place on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Nothing was asked before.
    pub first: bool,
    /// Nothing is asked after it.
    pub last: bool,
}

/// A whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// It says what it should.
    pub right: bool,
    /// The process that gave it, if it says so.
    pub pid: Option<u32>,
    /// The server closes the connection after it.
    pub closes: bool,
}

/// The name that servers of DNS know, and its address.
const NAME: &str = "server.test";
const ADDRESS: [u8; 4] = [192, 0, 2, 1];

impl Protocol {
    /// Whether more may be asked on a connection.
    pub fn keeps(self) -> bool {
        self != Self::Tls
    }

    /// A request.
    pub fn request(self, place: Place) -> Vec<u8> {
        const VERSION: u32 = 3 << 16;
        match self {
            Self::Http => {
                let kept = if place.last { "Connection: close\r\n" } else { "" };
                format!("GET / HTTP/1.1\r\nHost: server.test\r\n{kept}\r\n").into()
            }
            Self::Tls => client_hello(),
            Self::Postgres if place.first => {
                let parameters = b"user\0postgres\0database\0postgres\0\0";
                with_length(&[&VERSION.to_be_bytes()[..], parameters].concat())
            }
            Self::Postgres => [b"Q", &with_length(b"SELECT 1\0")[..]].concat(),
            Self::Dns => {
                let question = dns_question(NAME);
                [&(question.len() as u16).to_be_bytes()[..], &question].concat()
            }
        }
    }

    /// What ends a connection in good manner.
    pub fn farewell(self) -> &'static [u8] {
        if self == Self::Postgres { b"X\0\0\0\x04" } else { b"" }
    }

    /// The answer, once it is whole.
    pub fn answer(self, received: &[u8]) -> Option<Answer> {
        const HANDSHAKE: u8 = 22;
        let of = |right| Answer { right, pid: None, closes: false };
        match self {
            Self::Http => http(received),
            Self::Tls => received.first().map(|kind| of(*kind == HANDSHAKE)),
            Self::Postgres => postgres(received).map(of),
            Self::Dns => {
                let (length, rest) = received.split_first_chunk()?;
                let answer = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
                Some(of(is_dns_answer(answer)))
            }
        }
    }
}

/// A query to send in a datagram.
pub fn dns_query() -> Vec<u8> {
    dns_question(NAME)
}

/// Whether a message answers it.
pub fn is_dns_answer(message: &[u8]) -> bool {
    message.ends_with(&ADDRESS)
}

/// The head, and a body of the length that it names.
fn http(received: &[u8]) -> Option<Answer> {
    let end = received.windows(4).position(|at| at == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&received[..end]).to_lowercase();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let length: usize = field("content-length:")?.parse().ok()?;
    let body = received.get(end..end + length)?;
    Some(Answer {
        right: head.starts_with("http/1.1 200"),
        pid: String::from_utf8_lossy(body).trim().parse().ok(),
        closes: field("connection:") == Some("close"),
    })
}

/// Whether the server is ready for a query, or says what is wrong, at the end of these messages.
fn postgres(mut received: &[u8]) -> Option<bool> {
    loop {
        let (kind, rest) = received.split_first()?;
        let length = u32::from_be_bytes(*rest.first_chunk()?) as usize;
        received = rest.get(length..)?;
        match kind {
            b'Z' => return Some(true),
            b'E' => return Some(false),
            _ => {}
        }
    }
}

fn with_length(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}

/// TLS 1.2: version, random, session, ciphers, compression, extensions (RFC 5246, section 7.4.1.2).
pub fn client_hello() -> Vec<u8> {
    fn with_length<const N: usize>(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32).to_be_bytes()[4 - N..], body].concat()
    }
    fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &with_length::<2>(&with_length::<2>(body))].concat()
    }
    const GROUPS: u16 = 10;
    const SIGNATURES: u16 = 13;
    let ciphers = with_length::<2>(&[0xc0, 0x2f, 0xc0, 0x30, 0x00, 0xff]);
    let extensions =
        [extension(GROUPS, &[0, 0x1d, 0, 0x17]), extension(SIGNATURES, &[8, 4, 4, 1])].concat();
    let hello = [&[3, 3][..], &[7; 32], &[0], &ciphers, &[1, 0], &with_length::<2>(&extensions)];
    let handshake = [&[1][..], &with_length::<3>(&hello.concat())].concat();
    [&[22, 3, 1][..], &with_length::<2>(&handshake)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `None` for every shorter beginning.
    fn whole(protocol: Protocol, answer: &[u8]) -> Option<Answer> {
        assert!((0..answer.len()).all(|end| protocol.answer(&answer[..end]).is_none()));
        protocol.answer(answer)
    }

    #[test]
    fn an_http_answer_ends_with_its_body() {
        let answer =
            whole(Protocol::Http, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n17\n").unwrap();
        assert_eq!(answer, Answer { right: true, pid: Some(17), closes: false });
        let closes = b"HTTP/1.1 503 No\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno";
        let answer = whole(Protocol::Http, closes).unwrap();
        assert_eq!(answer, Answer { right: false, pid: None, closes: true });
    }

    #[test]
    fn a_postgres_answer_ends_when_the_server_is_ready_or_refuses() {
        let authenticated = b"R\0\0\0\x08\0\0\0\0";
        let ready = [&authenticated[..], b"Z\0\0\0\x05I"].concat();
        assert!(whole(Protocol::Postgres, &ready).unwrap().right);
        assert!(!whole(Protocol::Postgres, b"E\0\0\0\x06no").unwrap().right);
    }

    #[test]
    fn a_dns_answer_over_tcp_has_the_length_before_it() {
        assert!(whole(Protocol::Dns, &[0, 5, 9, 192, 0, 2, 1]).unwrap().right);
    }
}
