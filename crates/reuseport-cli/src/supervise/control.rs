//! The control socket: another process asks for a reload with a line of JSON, and gets lines of JSON, of which the last
//! one has the outcome.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::fs::Mode;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{geteuid, umask};
use serde::{Deserialize, Serialize};

use super::place::Place;
use crate::error::Failure;

/// The longest request.
const LONGEST: usize = 1 << 20;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    Reload {
        /// `None`: the present one.
        command: Option<Vec<String>>,
        canary: Option<Canary>,
    },
}

/// A part of the traffic, and how long it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Canary {
    pub(crate) percent: u8,
    pub(crate) milliseconds: u64,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    Progress(String),
    /// The last one. `hint` may be empty.
    Done {
        code: u8,
        text: String,
        hint: String,
    },
}

/// The socket.
#[derive(Debug)]
pub(super) struct Control {
    listener: UnixListener,
    clients: Vec<Client>,
    path: PathBuf,
}

impl Drop for Control {
    fn drop(&mut self) {
        // Another process may have removed it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Another process that asks.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    asked: Vec<u8>,
}

impl Control {
    /// Listens: for root and this user alone.
    pub(super) fn bind(place: &Place) -> Result<Self> {
        let path = place.socket();
        let bind = || -> io::Result<UnixListener> {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let before = umask(Mode::from_raw_mode(0o177));
            let listener = UnixListener::bind(&path);
            umask(before);
            let listener = listener?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = bind().with_context(|| format!("cannot listen at {}", path.display()))?;
        Ok(Self { listener, clients: Vec::new(), path })
    }

    /// What becomes readable when there is something to do.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let clients = self.clients.iter().map(|client| client.stream.as_fd());
        std::iter::once(self.listener.as_fd()).chain(clients)
    }

    /// Takes new connections, and returns the requests that are complete.
    pub(super) fn requests(&mut self) -> Vec<(Client, Result<Request>)> {
        while let Ok((stream, _)) = self.listener.accept() {
            if is_allowed(&stream) && stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client { stream, asked: Vec::new() });
            }
        }
        let mut complete = Vec::new();
        for mut client in std::mem::take(&mut self.clients) {
            match client.read() {
                Ok(None) => self.clients.push(client),
                Ok(Some(line)) => {
                    let request = serde_json::from_slice(&line).context("cannot read the request");
                    complete.push((client, request));
                }
                // It went away.
                Err(_) => {}
            }
        }
        complete
    }
}

/// Whether the other end is root or this user.
fn is_allowed(stream: &UnixStream) -> bool {
    socket_peercred(stream).is_ok_and(|peer| peer.uid.is_root() || peer.uid == geteuid())
}

impl Client {
    /// The line, once it is complete.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.asked.iter().position(|byte| *byte == b'\n') {
                return Ok(Some(self.asked[..end].to_vec()));
            }
            let mut some = [0; 4096];
            match self.stream.read(&mut some) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) if self.asked.len() + n > LONGEST => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                Ok(n) => self.asked.extend_from_slice(&some[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Answers. A client that has gone, or does not read, misses it.
    pub(super) fn answer(&mut self, answer: &Answer) {
        if let Ok(mut line) = serde_json::to_vec(answer) {
            line.push(b'\n');
            let _ = self.stream.write_all(&line);
        }
    }
}

/// Asks a supervisor, and hands each progress on. Returns when it is done.
///
/// # Errors
///
/// If there is none of that name, or with what it answers.
pub(crate) fn ask(name: &str, request: &Request, mut progress: impl FnMut(&str)) -> Result<()> {
    let place = Place::of(name);
    let path = place.socket();
    let failed = || format!("cannot ask the supervisor `{name}`");
    let mut stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) if is_missing(&error) => return Err(unknown(name, &place).into()),
        Err(error) => return Err(error).with_context(failed),
    };
    let mut line = serde_json::to_vec(request).with_context(failed)?;
    line.push(b'\n');
    stream.set_write_timeout(Some(Duration::from_secs(10))).with_context(failed)?;
    stream.write_all(&line).with_context(failed)?;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line.with_context(failed)?).with_context(failed)? {
            Answer::Progress(text) => progress(&text),
            Answer::Done { code: 0, text, .. } => {
                progress(&text);
                return Ok(());
            }
            Answer::Done { code, text, hint } => {
                return Err(Failure::coded(code, text, hint).into());
            }
        }
    }
    bail!("the supervisor `{name}` ended, or was killed, before the reload was done")
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn unknown(name: &str, place: &Place) -> Failure {
    let names: Vec<String> = place.names().into_iter().filter(|other| other != name).collect();
    let hint = match names.is_empty() {
        true => "`reuseport run` starts one".to_owned(),
        false => format!("there are: {}", names.join(", ")),
    };
    Failure::nothing(format!("no supervisor named `{name}` runs"), hint)
}
