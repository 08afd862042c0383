//! One worker: a process with an event loop as nginx has it. Its listener is watched level-triggered
//! and gives one connection for each event; a connection's requests are done one after the other, and
//! the whole worker blocks for as long as a request asks, asleep, as one does that waits for a disk.
//!
//! It knows of no balancing, except for Hermes, which takes workers that report. Its listener is
//! descriptor 0; descriptor 1 is its control stream.

use std::io::Write as _;
use std::num::NonZeroU64;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send, sockopt};
use serde::{Deserialize, Serialize};

use super::temper::{HANG, NextHang, Temper};
use super::wire::{REQUEST, Request};
use crate::hermes::{HermesWorker, WAIT};
use crate::process;

/// As many events as nginx takes at once.
const EVENTS: usize = 512;
const LISTENER: u64 = u64::MAX;
const CONTROL: u64 = u64::MAX - 1;

/// What a worker is to be: its only argument, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Role {
    pub(super) index: u8,
    pub(super) temper: Temper,
    /// Whether all workers have the same listener.
    pub(super) shared: bool,
    /// The ids of the maps in which it reports to Hermes.
    pub(super) hermes: Option<[u32; 2]>,
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

pub(crate) fn run(role: &str) -> Result<()> {
    // A sleep ends within microseconds of its time.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let role = serde_json::from_str(role).context("not a worker's role")?;
    let mut worker = Worker::new(role)?;
    while worker.turn()? {}
    while accept_with(&worker.listener, SocketFlags::CLOEXEC).is_ok() {
        worker.counts.waiting += 1;
    }
    let counts = serde_json::to_vec(&worker.counts)?;
    worker.control.write_all(&counts).context("the bench has ended")
}

struct Worker {
    role: Role,
    next_hang: NextHang,
    epoll: OwnedFd,
    listener: OwnedFd,
    control: UnixStream,
    /// By descriptor.
    connections: Vec<Option<Connection>>,
    events: Vec<epoll::Event>,
    counts: Counts,
    hermes: Option<HermesWorker>,
}

struct Connection {
    stream: OwnedFd,
    /// A request that is not whole yet.
    begun: Vec<u8>,
}

impl Worker {
    fn new(role: Role) -> Result<Self> {
        let listener = std::io::stdin().as_fd().try_clone_to_owned()?;
        let hermes = role.hermes.map(|maps| HermesWorker::new(maps, role.index.into()));
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut flags = epoll::EventFlags::IN;
        flags.set(epoll::EventFlags::EXCLUSIVE, role.shared);
        if role.temper != Temper::StopsAccepting {
            epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), flags)?;
        }
        let control = process::ready()?;
        let data = epoll::EventData::new_u64(CONTROL);
        epoll::add(&epoll, &control, data, epoll::EventFlags::IN)?;
        Ok(Self {
            role,
            next_hang: NextHang::default(),
            epoll,
            listener,
            control,
            connections: Vec::new(),
            events: Vec::with_capacity(EVENTS),
            counts: Counts::default(),
            hermes: hermes.transpose()?,
        })
    }

    /// Once round the loop. `false`: it is to stop.
    fn turn(&mut self) -> Result<bool> {
        self.hermes.as_mut().map_or(Ok(()), HermesWorker::loop_ended)?;
        let longest = self.hermes.as_ref().map(|_| WAIT);
        let timeout = self.next_hang.until(Instant::now()).into_iter().chain(longest).min();
        let timeout = timeout.map(Timespec::try_from).transpose()?;
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for events"),
        }
        let start = Instant::now();
        self.report(HermesWorker::loop_entered);
        let mut go_on = true;
        for (index, event) in events.iter().enumerate() {
            self.report(|hermes| hermes.pending(events.len() - index));
            match event.data.u64() {
                LISTENER => self.accept()?,
                CONTROL => go_on = false,
                connection => self.serve(connection as usize),
            }
        }
        self.report(|hermes| hermes.pending(0));
        self.events = events;
        if self.next_hang.is_due(Instant::now()) {
            self.hang();
        }
        self.counts.busy += start.elapsed().as_micros() as u64;
        Ok(go_on)
    }

    fn report(&mut self, what: impl FnOnce(&mut HermesWorker)) {
        if let Some(hermes) = &mut self.hermes {
            what(hermes);
        }
    }

    fn accept(&mut self) -> Result<()> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let stream = match accept_with(&self.listener, flags) {
            Ok(stream) => stream,
            // Another worker was quicker, or the client has given up.
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno).context("cannot accept"),
        };
        // As nginx does for connections that last: an answer would wait for the one before to be
        // acknowledged, and the client's kernel takes 40 ms for that.
        sockopt::set_tcp_nodelay(&stream, true)?;
        self.counts.accepted += 1;
        self.next_hang.accepted(self.role.temper, Instant::now());
        if self.role.temper == Temper::FailsFast {
            return Ok(()); // closes it
        }
        let key = stream.as_raw_fd() as usize;
        let data = epoll::EventData::new_u64(key as u64);
        epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN)?;
        let length = self.connections.len().max(key + 1);
        self.connections.resize_with(length, || None);
        self.connections[key] = Some(Connection { stream, begun: Vec::new() });
        self.report(HermesWorker::opened);
        Ok(())
    }

    /// Does what a connection asks for, if an event before has not closed it.
    fn serve(&mut self, key: usize) {
        let Some(connection) = &mut self.connections[key] else { return };
        let mut bytes = std::mem::take(&mut connection.begun);
        bytes.reserve(4096);
        match recv(&connection.stream, spare_capacity(&mut bytes), RecvFlags::empty()) {
            Ok((1.., _)) | Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(_) | Err(_) => return self.close(key),
        }
        let (requests, rest) = bytes.as_chunks::<REQUEST>();
        for request in requests {
            let request = Request::parse(*request);
            if !request.block.is_zero() {
                thread::sleep(request.block);
            }
            let sent = send(&connection.stream, &[self.role.index], SendFlags::NOSIGNAL);
            if request.last || sent.is_err() {
                return self.close(key);
            }
        }
        connection.begun.extend_from_slice(rest);
    }

    fn close(&mut self, key: usize) {
        if self.connections[key].take().is_some() {
            self.report(HermesWorker::closed);
        }
    }

    fn hang(&mut self) {
        if self.role.temper == Temper::DropsAndHangs {
            (0..self.connections.len()).for_each(|key| self.close(key));
        }
        thread::sleep(HANG);
    }
}
