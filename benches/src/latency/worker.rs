//! One worker: a process with an event loop as nginx has it. Its listener is watched level-triggered
//! and gives one connection for each event; a connection's requests are done one after the other, and
//! the whole worker blocks for as long as a request asks, asleep, as one does that waits for a disk.
//!
//! It knows of no balancing, except for Hermes, which takes workers that report. Its listener is
//! descriptor 0; descriptor 1 is its control stream.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::retry_on_intr;
use serde::{Deserialize, Serialize};

use super::wire::{REQUEST, decode};
use crate::hermes::{HermesWorker, WAIT};
use crate::process;

/// As many events as nginx takes at once.
const EVENTS: usize = 512;
const LISTENER: u64 = u64::MAX;
const CONTROL: u64 = u64::MAX - 1;
/// How long a worker hangs.
const HANG: Duration = Duration::from_millis(400);
/// How long the next worker takes to be there: about what nginx's takes.
const RESTART: Duration = Duration::from_millis(5);
/// From the beginning of one hang to the next.
const PERIOD: Duration = Duration::from_secs(1);

/// How a worker misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Temper {
    /// Does what it is asked.
    Steady,
    /// Sleeps for 400 ms once a second, whatever comes.
    Hangs,
    /// Accepts and closes at once.
    FailsFast,
    /// Closes all its connections and then sleeps for 400 ms, once a second.
    DropsAndHangs,
    /// Ends, once a second, and with it all its connections; another one has its listener 5 ms later.
    Restarts,
    /// Never accepts.
    StopsAccepting,
}

impl Temper {
    /// How long it does nothing, each time.
    fn pause(self) -> Option<Duration> {
        match self {
            Self::Hangs | Self::DropsAndHangs => Some(HANG),
            Self::Restarts => Some(RESTART),
            Self::Steady | Self::FailsFast | Self::StopsAccepting => None,
        }
    }
}

/// What a worker is to be: its only argument, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Role {
    pub(super) index: u8,
    pub(super) temper: Temper,
    /// From its first connection to its first hang, so that every measurement begins alike.
    pub(super) first_hang: Duration,
    /// The ids of the maps in which it reports to Hermes.
    pub(super) hermes: Option<[u32; 2]>,
}

/// Its report is how many connections reached its listener, and how many seconds it was busy.
pub(crate) fn run(role: &str) -> Result<()> {
    // A sleep ends within microseconds of its time.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let role: Role = serde_json::from_str(role).context("not a worker's role")?;
    let listener = std::io::stdin().as_fd().try_clone_to_owned()?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    if role.temper != Temper::StopsAccepting {
        // All workers may have the same listener.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), flags)?;
    }
    let hermes = role.hermes.map(|maps| HermesWorker::new(maps, role.index.into()));
    let mut worker = Worker {
        role,
        next_hang: None,
        epoll,
        listener: TcpListener::from(listener),
        connections: HashMap::new(),
        reached: 0,
        busy: 0.0,
        hermes: hermes.transpose()?,
    };
    let mut control = process::ready()?;
    let data = epoll::EventData::new_u64(CONTROL);
    epoll::add(&worker.epoll, &control, data, epoll::EventFlags::IN)?;
    let mut events = Vec::with_capacity(EVENTS);
    while worker.turn(&mut events)? {}
    let waiting = std::iter::from_fn(|| worker.listener.accept().ok()).count() as u32;
    let counts = serde_json::to_vec(&(worker.reached + waiting, worker.busy))?;
    control.write_all(&counts).context("the bench has ended")
}

struct Worker {
    role: Role,
    /// The first connection sets it, if this one hangs.
    next_hang: Option<Instant>,
    epoll: OwnedFd,
    listener: TcpListener,
    /// By descriptor, each with a request that is not whole yet.
    connections: HashMap<u64, (TcpStream, Vec<u8>)>,
    reached: u32,
    busy: f64,
    hermes: Option<HermesWorker>,
}

impl Worker {
    /// Once round the loop. `false`: it is to stop.
    fn turn(&mut self, events: &mut Vec<epoll::Event>) -> Result<bool> {
        self.report(HermesWorker::loop_ended);
        let longest = self.hermes.as_ref().map(|_| WAIT);
        let hang = self.next_hang.map(|next| next.saturating_duration_since(Instant::now()));
        let timeout = hang.into_iter().chain(longest).min().map(Timespec::try_from).transpose()?;
        events.clear();
        retry_on_intr(|| epoll::wait(&self.epoll, spare_capacity(events), timeout.as_ref()))
            .context("cannot wait for events")?;
        let start = Instant::now();
        self.report(HermesWorker::loop_entered);
        let mut go_on = true;
        for (index, event) in events.iter().enumerate() {
            self.report(|hermes| hermes.pending(events.len() - index));
            match event.data.u64() {
                LISTENER => self.accept()?,
                CONTROL => go_on = false,
                connection if self.serve(connection).is_none() => self.close(connection),
                _ => {}
            }
        }
        self.report(|hermes| hermes.pending(0));
        self.hang_if_due();
        self.busy += start.elapsed().as_secs_f64();
        Ok(go_on)
    }

    fn report(&self, what: impl Fn(&HermesWorker)) {
        self.hermes.iter().for_each(what);
    }

    fn accept(&mut self) -> Result<()> {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            // Another worker was quicker, or the client has given up.
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => {
                return Ok(());
            }
            Err(error) => return Err(error).context("cannot accept"),
        };
        self.reached += 1;
        if self.role.temper.pause().is_some() {
            self.next_hang.get_or_insert_with(|| Instant::now() + self.role.first_hang);
        }
        if self.role.temper == Temper::FailsFast {
            return Ok(()); // closes it
        }
        stream.set_nonblocking(true)?;
        // As nginx does for connections that last: an answer would wait for the one before to be
        // acknowledged, and the client's kernel takes 40 ms for that.
        stream.set_nodelay(true)?;
        let key = stream.as_raw_fd() as u64;
        epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(key), epoll::EventFlags::IN)?;
        self.connections.insert(key, (stream, Vec::new()));
        self.report(|hermes| hermes.open(self.connections.len()));
        Ok(())
    }

    /// Does what a connection asks for. `None`: it has ended, or an event before has closed it.
    fn serve(&mut self, key: u64) -> Option<()> {
        let (stream, begun) = self.connections.get_mut(&key)?;
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes) {
            Ok(0) => return None,
            Ok(read) => begun.extend_from_slice(&bytes[..read]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return None,
        }
        while let Some((request, rest)) = begun.split_first_chunk::<REQUEST>() {
            let (block, last) = decode(*request);
            *begun = rest.to_vec();
            if !block.is_zero() {
                thread::sleep(block);
            }
            let sent = stream.write_all(&[self.role.index]);
            if last || sent.is_err() {
                return None;
            }
        }
        Some(())
    }

    fn close(&mut self, key: u64) {
        self.connections.remove(&key);
        self.report(|hermes| hermes.open(self.connections.len()));
    }

    fn hang_if_due(&mut self) {
        let Some(next) = self.next_hang.filter(|next| *next <= Instant::now()) else { return };
        self.next_hang = Some(next + PERIOD);
        if self.role.temper != Temper::Hangs {
            self.connections.clear();
            self.report(|hermes| hermes.open(0));
        }
        thread::sleep(self.role.temper.pause().unwrap_or_default());
    }
}
