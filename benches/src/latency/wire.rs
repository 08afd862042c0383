//! What generator and workers say to each other: requests of eight bytes, answers of two.

use std::time::Duration;

/// Bytes of a request.
pub(super) const REQUEST: usize = 8;
/// Bytes of an answer.
pub(super) const ANSWER: usize = 2;

const ASKS: u8 = b'?';
const SAYS: u8 = b'!';

/// What a worker is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    /// How long it shall block, from when it has the request in hand; at most some 71 minutes.
    pub(super) block: Duration,
    /// Whether it shall close the connection after the answer.
    pub(super) last: bool,
}

impl Request {
    pub(super) fn bytes(self) -> [u8; REQUEST] {
        let [a, b, c, d] = u32::try_from(self.block.as_micros()).unwrap_or(u32::MAX).to_le_bytes();
        [ASKS, self.last.into(), 0, 0, a, b, c, d]
    }

    /// `None` if it is no request.
    pub(super) fn parse(bytes: [u8; REQUEST]) -> Option<Self> {
        let [ASKS, last @ (0 | 1), 0, 0, a, b, c, d] = bytes else { return None };
        let micros = u32::from_le_bytes([a, b, c, d]);
        Some(Self { block: Duration::from_micros(micros.into()), last: last == 1 })
    }
}

/// Who did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) worker: u8,
}

impl Answer {
    pub(super) fn bytes(self) -> [u8; ANSWER] {
        [SAYS, self.worker]
    }

    /// `None` if it is no answer.
    pub(super) fn parse(bytes: [u8; ANSWER]) -> Option<Self> {
        let [SAYS, worker] = bytes else { return None };
        Some(Self { worker })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_is_read() {
        for (micros, last) in [(0, false), (1_000, true), (100_000, true), (u32::MAX, false)] {
            let request = Request { block: Duration::from_micros(micros.into()), last };
            assert_eq!(Request::parse(request.bytes()), Some(request));
        }
        let answer = Answer { worker: 7 };
        assert_eq!(Answer::parse(answer.bytes()), Some(answer));
    }

    #[test]
    fn anything_else_is_neither() {
        assert_eq!(Request::parse(*b"GET / HT"), None);
        assert_eq!(Request::parse([b'?', 2, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(Request::parse([b'?', 1, 0, 9, 0, 0, 0, 0]), None);
        assert_eq!(Answer::parse(*b"HT"), None);
    }
}
