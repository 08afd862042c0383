//! Requests and answers: to workers of this bench, or to any HTTP server.

use std::time::Duration;

/// Bytes of a request to a worker. Its answer is one byte: the worker's index.
pub(super) const REQUEST: usize = 8;

/// How long a request blocks its worker, and whether the connection ends after the answer.
pub(super) fn encode(block: Duration, last: bool) -> [u8; REQUEST] {
    ((block.as_micros() as u64) << 1 | u64::from(last)).to_le_bytes()
}

pub(super) fn decode(bytes: [u8; REQUEST]) -> (Duration, bool) {
    let word = u64::from_le_bytes(bytes);
    (Duration::from_micros(word >> 1), word & 1 == 1)
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Dialect {
    Worker,
    /// HTTP, with a connection for each request: `/slow/` if it blocks, `/` if not.
    Http,
}

impl Dialect {
    pub(super) fn request(self, block: Duration, last: bool) -> Vec<u8> {
        match self {
            Self::Worker => encode(block, last).to_vec(),
            Self::Http => {
                let path = if block.is_zero() { "/" } else { "/slow/" };
                format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").into()
            }
        }
    }

    /// Takes whole answers out of `received`: how many, and who gave them, where that is known. `end`:
    /// nothing more will come.
    pub(super) fn answers(self, received: &mut Vec<u8>, end: bool) -> (usize, Option<u8>) {
        const OK: &[u8] = b"HTTP/1.1 200 ";

        match self {
            Self::Worker => {
                let answers = std::mem::take(received);
                (answers.len(), answers.first().copied())
            }
            Self::Http => {
                let whole = end && received.starts_with(OK);
                received.truncate(OK.len());
                (whole.into(), None)
            }
        }
    }
}

#[test]
fn what_is_sent_is_what_is_read() {
    for (micros, last) in [(0, false), (1_000, true), (u32::MAX, false)] {
        let block = Duration::from_micros(micros.into());
        assert_eq!(decode(encode(block, last)), (block, last));
    }
}
