//! How requests are put and answers are read: to workers of ours, or to any HTTP server.

use std::time::Duration;

use super::schedule::Arrival;
use super::wire::{ANSWER, Answer, Request};

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// To workers of ours: see [`wire`](super::wire).
    Ours,
    /// HTTP with a connection for each request: `/slow/` if it shall block the worker, `/` if not.
    Http,
}

/// What has been read of answers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    /// Answers that are whole.
    pub(super) answers: usize,
    /// Who gave them, where that is known.
    pub(super) worker: Option<u8>,
    /// It was no answer.
    pub(super) nonsense: bool,
}

const OK: &[u8] = b"HTTP/1.1 200 ";

impl Dialect {
    pub(super) fn request(self, arrival: &Arrival) -> Vec<u8> {
        match self {
            Self::Ours => Request { block: arrival.block, last: arrival.last }.bytes().to_vec(),
            Self::Http => {
                let path = if arrival.block > Duration::ZERO { "/slow/" } else { "/" };
                format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").into()
            }
        }
    }

    /// Takes whole answers out of what was received; `end`: nothing more will come.
    pub(super) fn read(self, received: &mut Vec<u8>, end: bool) -> Read {
        match self {
            Self::Ours => {
                let (answers, rest) = received.as_chunks::<ANSWER>();
                let rest = rest.to_vec();
                let parsed: Option<Vec<Answer>> =
                    answers.iter().map(|a| Answer::parse(*a)).collect();
                let read = match parsed {
                    Some(parsed) => Read {
                        answers: parsed.len(),
                        worker: parsed.first().map(|answer| answer.worker),
                        nonsense: false,
                    },
                    None => Read { nonsense: true, ..Read::default() },
                };
                *received = rest;
                read
            }
            Self::Http => {
                let whole = end && received.starts_with(OK);
                received.truncate(OK.len());
                Read { answers: whole.into(), ..Read::default() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_ours_are_counted_when_whole() {
        let mut received = [Answer { worker: 3 }.bytes(), Answer { worker: 3 }.bytes()].concat();
        received.push(b'!');
        let read = Dialect::Ours.read(&mut received, false);
        assert_eq!(read, Read { answers: 2, worker: Some(3), nonsense: false });
        assert_eq!(received, b"!");
        assert!(Dialect::Ours.read(&mut b"HTTP".to_vec(), false).nonsense);
    }

    #[test]
    fn an_http_answer_is_whole_at_the_end_and_good_with_200() {
        let mut received = b"HTTP/1.1 200 OK\r\n".to_vec();
        assert_eq!(Dialect::Http.read(&mut received, false).answers, 0);
        received.extend(b"rest");
        assert_eq!(Dialect::Http.read(&mut received, true).answers, 1);
        assert_eq!(Dialect::Http.read(&mut b"HTTP/1.1 502 ".to_vec(), true).answers, 0);
        assert_eq!(Dialect::Http.read(&mut Vec::new(), true).answers, 0);
    }
}
