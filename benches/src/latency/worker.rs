//! One worker: a process with an event loop as nginx has it. Its listener is watched level-triggered
//! and gives one connection for each event; a connection's requests are done one after the other, and
//! the whole worker blocks for as long as a request says, asleep, as one does that waits for a disk.
//!
//! It knows of no balancing: it is what the kernel, or a program that was attached to its listener,
//! deals to. Its listener is descriptor 0; over descriptor 1 it says that it is ready, is told to
//! stop, and says what it did.

use std::io::Write as _;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send, sockopt};
use serde::{Deserialize, Serialize};

use super::hermes::Inherited;
use super::temper::{HANG, Moods, Temper};
use super::voice::{Silent, Voice};
use super::wire::{Answer, REQUEST, Request};

/// As many events as nginx takes at once.
const EVENTS: usize = 512;
const LISTENER: u64 = u64::MAX;
const CONTROL: u64 = u64::MAX - 1;

/// A worker: a part of `latency`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Which one it is.
    #[arg(long)]
    pub(super) index: u8,
    #[arg(long)]
    pub(super) temper: Temper,
    /// All workers have the same listener.
    #[arg(long)]
    pub(super) shared: bool,
    /// What it has inherited to tell Hermes how it does.
    #[arg(long, value_parser = Inherited::parse)]
    pub(super) hermes: Option<Inherited>,
}

impl Args {
    /// For the command line.
    pub(super) fn words(&self) -> Vec<String> {
        let temper = clap::ValueEnum::to_possible_value(&self.temper);
        let temper = temper.map(|value| value.get_name().to_owned()).unwrap_or_default();
        let mut words = vec![format!("--index={}", self.index), format!("--temper={temper}")];
        words.extend(self.hermes.map(|hermes| format!("--hermes={}", hermes.word())));
        words.extend(self.shared.then(|| "--shared".to_owned()));
        words
    }
}

/// What a worker did.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Connections that it accepted.
    pub(super) accepted: u64,
    /// Connections that waited at its listener when it was told to stop.
    pub(super) waiting: u64,
    /// How long it was busy, microseconds.
    pub(super) busy: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    // Blocking shall take as long as it is said to, to within microseconds.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    match args.hermes {
        None => work(Worker::new(args, Silent)?),
        Some(hermes) => work(Worker::new(args, hermes.worker(args.index)?)?),
    }
}

fn work<V: Voice>(mut worker: Worker<V>) -> Result<()> {
    worker.control.write_all(b"\n").context("nobody waits for it")?;
    while worker.turn()? {}
    worker.count_waiting()?;
    serde_json::to_writer(&mut worker.control, &worker.counts).context("nobody wants to know")
}

struct Worker<V> {
    index: u8,
    temper: Temper,
    moods: Moods,
    epoll: OwnedFd,
    listener: OwnedFd,
    control: UnixStream,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    events: Vec<epoll::Event>,
    counts: Counts,
    voice: V,
}

struct Connection {
    stream: OwnedFd,
    /// A request that is not whole yet.
    begun: Vec<u8>,
}

impl<V: Voice> Worker<V> {
    fn new(args: &Args, voice: V) -> Result<Self> {
        let listener = std::io::stdin().as_fd().try_clone_to_owned()?;
        let control = UnixStream::from(std::io::stdout().as_fd().try_clone_to_owned()?);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut flags = epoll::EventFlags::IN;
        flags.set(epoll::EventFlags::EXCLUSIVE, args.shared);
        if args.temper != Temper::StopsAccepting {
            epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), flags)?;
        }
        let data = epoll::EventData::new_u64(CONTROL);
        epoll::add(&epoll, &control, data, epoll::EventFlags::IN)?;
        Ok(Self {
            index: args.index,
            temper: args.temper,
            moods: Moods::new(args.temper),
            epoll,
            listener,
            control,
            connections: Vec::new(),
            free: Vec::new(),
            events: Vec::with_capacity(EVENTS),
            counts: Counts::default(),
            voice,
        })
    }

    /// Once round the loop. `false`: it is to stop.
    fn turn(&mut self) -> Result<bool> {
        self.voice.ended()?;
        let until = self.moods.until(Instant::now());
        let timeout = until.into_iter().chain(self.voice.longest_wait()).min().map(timespec);
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for events"),
        }
        self.voice.entered();
        let start = Instant::now();
        let mut go_on = true;
        for (index, event) in events.iter().enumerate() {
            self.voice.events(events.len() - index);
            match event.data.u64() {
                LISTENER => self.accept()?,
                CONTROL => go_on = false,
                connection => self.serve(connection as usize)?,
            }
        }
        self.voice.events(0);
        self.events = events;
        if self.moods.is_due(Instant::now()) {
            self.hang();
        }
        self.counts.busy += start.elapsed().as_micros() as u64;
        Ok(go_on)
    }

    fn accept(&mut self) -> Result<()> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let stream = match accept_with(&self.listener, flags) {
            Ok(stream) => stream,
            // Another one was quicker, or the client has given up.
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno).context("cannot accept"),
        };
        // As nginx does for connections that last: an answer would wait for the one before to be
        // acknowledged, and the client's kernel takes 40 ms for that.
        sockopt::set_tcp_nodelay(&stream, true)?;
        self.counts.accepted += 1;
        self.moods.accepted(Instant::now());
        if self.temper == Temper::FailsFast {
            return Ok(()); // it is closed
        }
        let key = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let data = epoll::EventData::new_u64(key as u64);
        epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN)?;
        self.connections[key] = Some(Connection { stream, begun: Vec::new() });
        self.voice.opened();
        Ok(())
    }

    /// Does what a connection asks for. One that is not there any more was closed by an event before.
    fn serve(&mut self, key: usize) -> Result<()> {
        let Some(connection) = &mut self.connections[key] else { return Ok(()) };
        let mut bytes = std::mem::take(&mut connection.begun);
        match recv(&connection.stream, spare_capacity(reserved(&mut bytes)), RecvFlags::empty()) {
            Ok((0, _)) => return self.close(key),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {}
            Err(_) => return self.close(key),
        }
        let (requests, rest) = bytes.as_chunks::<REQUEST>();
        for request in requests {
            let Some(request) = Request::parse(*request) else { return self.close(key) };
            block_until(Instant::now() + request.block);
            let answer = Answer { worker: self.index }.bytes();
            let sent = send(&connection.stream, &answer, SendFlags::NOSIGNAL);
            if request.last || sent.is_err() {
                return self.close(key);
            }
        }
        connection.begun.extend_from_slice(rest);
        Ok(())
    }

    fn close(&mut self, key: usize) -> Result<()> {
        if self.connections[key].take().is_some() {
            self.free.push(key);
            self.voice.closed();
        }
        Ok(())
    }

    fn hang(&mut self) {
        if self.temper == Temper::DropsAndHangs {
            for key in 0..self.connections.len() {
                let _ = self.close(key);
            }
        }
        thread::sleep(HANG);
    }

    fn count_waiting(&mut self) -> Result<()> {
        while accept_with(&self.listener, SocketFlags::CLOEXEC).is_ok() {
            self.counts.waiting += 1;
        }
        Ok(())
    }
}

/// Room for many requests at once.
fn reserved(bytes: &mut Vec<u8>) -> &mut Vec<u8> {
    bytes.reserve(4096);
    bytes
}

fn block_until(end: Instant) {
    let left = end.saturating_duration_since(Instant::now());
    if !left.is_zero() {
        thread::sleep(left);
    }
}

fn timespec(duration: Duration) -> Timespec {
    // Rounded up: a wait that ends before its time would be taken up again and again.
    let millis = duration.as_micros().div_ceil(1000) as i64;
    Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 }
}
