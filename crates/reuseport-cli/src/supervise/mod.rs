//! `run`: a supervisor that starts a server's workers, keeps their sockets and reloads them.
//!
//! ```text
//!   descriptors, signals, times -> Supervisor -event-> Machine -action-> processes, sockets, groups
//! ```
//!
//! The [`machine`] has the rules and does nothing; the rest carries out what it says.

mod act;
mod adopt;
mod control;
mod helper;
mod looks;
mod machine;
mod options;
mod place;
mod ready;
mod sockets;
mod spec;
mod state;
mod steer;
mod supervisor;
mod words;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use reuseport::id::{Percent, Slot};
use reuseport::{ErrorKind, Host, Report};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::control::{Answer, Client, Control};
pub(crate) use self::control::{Canary, Request, ask};
pub(crate) use self::helper::run as helper;
use self::looks::Looks;
use self::machine::{Event, Machine, Reload, WorkerId};
pub(crate) use self::options::RunOptions;
use self::place::{Lock, Place};
use self::sockets::Sockets;
use self::spec::Spec;
use self::steer::Steer;
use self::supervisor::Supervisor;
use crate::error::Failure;
use crate::notify;
use crate::output::count;
use crate::tell::{Form, Priority};

/// What a descriptor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Signal,
    Control,
    Exit(WorkerId),
    Word(WorkerId),
    Writer,
}

/// Runs workers until they have stopped.
///
/// # Errors
///
/// Before anything is changed: if the command, the name or an address cannot be had, or a right is missing. Later: if
/// all workers are given up.
pub(crate) fn run(options: RunOptions) -> Result<()> {
    let (spec, program) = options.spec()?;
    check_room(&spec)?;
    let host = program.then(open_host).transpose()?;
    let place = Place::of(&spec.name);
    let lock = place.claim()?;
    let signals = signals()?;
    let name = spec.name.clone();
    let mut supervisor = Supervisor::begin(spec, place, lock, host)?;
    let code = supervisor.follow(&signals);
    match code? {
        0 => Ok(()),
        _ => Err(Failure::degraded(
            format!("{name}: all workers are given up"),
            "what they printed says why",
        )
        .into()),
    }
}

/// Fails if the group could not have two generations of this size.
fn check_room(spec: &Spec) -> Result<()> {
    let most = Slot::LIMIT / 2;
    match u32::from(spec.workers) <= most {
        true => Ok(()),
        false => Err(Failure::new(
            format!("{} are more than a group has slots for", count(spec.workers.into(), "worker")),
            format!("{most} at most: during a reload there are twice as many sockets"),
        )
        .into()),
    }
}

fn open_host() -> Result<Host> {
    Host::open().map_err(|error| {
        if error.kind() != ErrorKind::Denied {
            return error.into();
        }
        let report = Report::new(&error);
        let hint = report.hint().map_or_else(String::new, |hint| format!("{hint}\n  "));
        let hint = format!("{hint}or --no-program, which leaves the choice to the kernel's hash");
        Failure::new(report.causes(), hint).into()
    })
}

/// A stream with a byte for each signal: its number.
fn signals() -> Result<UnixStream> {
    let (reader, mut writer) = UnixStream::pair().context("cannot make a pair of sockets")?;
    reader.set_nonblocking(true).context("cannot make a socket nonblocking")?;
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]);
    let mut signals = signals.context("cannot install handlers for signals")?;
    thread::spawn(move || {
        for signal in signals.forever() {
            // If nothing reads it, everything ends.
            let _ = writer.write_all(&[u8::try_from(signal).unwrap_or(0)]);
        }
    });
    Ok(reader)
}

impl Supervisor {
    /// Goes on with the workers of a supervisor that was killed, or starts new ones.
    fn begin(spec: Spec, place: Place, lock: Lock, host: Option<Host>) -> Result<Self> {
        let found = adopt::find(&spec, &place, host.as_ref())?;
        if found.is_none() {
            for listen in &spec.listen {
                sockets::check_free(listen, host.as_ref())?;
            }
        }
        let control = Control::bind(&place)?;
        let steer = host.map(|host| Steer::new(host, &spec));
        let machine = Machine::start(spec.limits, 1, spec.workers);
        let mut supervisor = Self {
            spec,
            place,
            _lock: lock,
            steer,
            machine,
            sockets: Sockets::default(),
            processes: BTreeMap::new(),
            commands: BTreeMap::new(),
            held: BTreeMap::new(),
            is_unheld: false,
            is_stale: false,
            ended: BTreeMap::new(),
            writers: Vec::new(),
            looks: Looks::default(),
            control,
            client: None,
            share: None,
            failed: None,
            saved: None,
            form: Form::of_service(),
            complained: BTreeSet::new(),
        };
        match found {
            Some(found) => supervisor.adopt(found)?,
            None => supervisor.start_first()?,
        }
        Ok(supervisor)
    }

    fn start_first(&mut self) -> Result<()> {
        self.commands.insert(1, self.spec.command.clone());
        for index in 1..=self.spec.workers {
            let id = WorkerId { generation: 1, index };
            self.sockets.open(id, &self.spec.listen, self.spec.backlog)?;
            self.held.insert(id, true);
        }
        self.is_unheld = true;
        self.enrol()?;
        if self.steer.is_none() {
            self.tell(Priority::Warning, &words::without_program(ready::ALIVE));
        }
        let listen = sockets::written(&self.spec.listen).join(", ");
        let workers = count(self.spec.workers.into(), "worker");
        self.tell(Priority::Info, &format!("starts {workers} at {listen}"));
        Ok(())
    }

    /// Does what there is to do until the end. Returns the exit code.
    fn follow(&mut self, signals: &UnixStream) -> Result<u8> {
        let watchdog = notify::interval();
        let mut alive = Instant::now();
        loop {
            if let Some(code) = self.carry_out() {
                self.place.clear();
                return Ok(code);
            }
            if watchdog.is_some_and(|interval| alive.elapsed() >= interval) {
                notify::alive();
                alive = Instant::now();
            }
            let now = Instant::now();
            let due = [self.machine.deadline(), self.next_look(now), watchdog.map(|w| alive + w)];
            let due = due.into_iter().flatten().min();
            for source in self.wait(signals, due.map(|due| due.saturating_duration_since(now)))? {
                self.hear_from(source, signals)?;
            }
            self.machine.handle_timeout(Instant::now());
            self.look();
        }
    }

    /// Waits until something happens, or this time is over.
    fn wait(&self, signals: &UnixStream, time: Option<Duration>) -> Result<Vec<Source>> {
        let mut sources = vec![(Source::Signal, signals.as_fd())];
        sources.extend(self.control.descriptors().map(|fd| (Source::Control, fd)));
        for (id, process) in &self.processes {
            sources.push((Source::Exit(*id), process.pidfd()));
            sources.push((Source::Word(*id), process.notify.as_fd()));
        }
        // They end soon: each is collected.
        let open = |writer: &Child| {
            let pid = rustix::process::Pid::from_child(writer);
            pidfd_open(pid, PidfdFlags::empty()).ok()
        };
        let writers: Vec<_> = self.writers.iter().filter_map(open).collect();
        sources.extend(writers.iter().map(|fd| (Source::Writer, fd.as_fd())));
        let mut fds: Vec<PollFd<'_>> =
            sources.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        let time = time.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        match poll(&mut fds, time.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            result => result.context("cannot wait for workers")?,
        };
        let ready = fds.iter().zip(&sources).filter(|(fd, _)| !fd.revents().is_empty());
        Ok(ready.map(|(_, (source, _))| *source).collect())
    }

    fn hear_from(&mut self, source: Source, mut signals: &UnixStream) -> Result<()> {
        match source {
            Source::Signal => {
                let mut numbers = [0; 64];
                let n = signals.read(&mut numbers).context("cannot read signals")?;
                for number in &numbers[..n] {
                    match i32::from(*number) {
                        SIGHUP => self.reload(None, None, None),
                        _ => {
                            notify::stopping();
                            self.machine.handle(Event::Stop, Instant::now());
                        }
                    }
                }
            }
            Source::Control => {
                for (mut client, request) in self.control.requests() {
                    match request {
                        Ok(Request::Reload { command, canary }) => {
                            self.reload(Some(client), command, canary);
                        }
                        Err(error) => client.answer(&Answer::Done {
                            code: 2,
                            text: format!("{}: {error:#}", self.spec.name),
                            hint: "the command and the supervisor may be of different versions"
                                .to_owned(),
                        }),
                    }
                }
            }
            Source::Exit(id) => self.exited(id),
            Source::Word(id) => self.hear(id),
            Source::Writer => {
                self.writers.retain_mut(|writer| matches!(writer.try_wait(), Ok(None)));
            }
        }
        Ok(())
    }

    /// Begins a reload, if none is under way.
    fn reload(
        &mut self,
        client: Option<Client>,
        command: Option<Vec<String>>,
        canary: Option<Canary>,
    ) {
        let present = self.commands.get(&self.machine.serving()).cloned();
        let command = command.or(present).unwrap_or_else(|| self.spec.command.clone());
        if let Err(error) = spec::check_command(&command) {
            return self.refuse(client, &format!("{error:#}"));
        }
        if canary.is_some() && self.steer.is_none() {
            return self
                .refuse(client, "a canary takes a program, and there is none: --no-program");
        }
        let trial = canary.map(|canary| Duration::from_millis(canary.milliseconds));
        match self.machine.reload(Reload { workers: self.spec.workers, trial }) {
            Ok(generation) => {
                self.share = canary.and_then(|canary| Percent::new(canary.percent));
                self.commands.insert(generation, command);
                self.client = client;
                notify::reloading();
                self.tell(Priority::Info, &format!("starts generation {generation}"));
            }
            Err(busy) => self.refuse(client, words::busy(busy)),
        }
    }

    /// Answers that nothing is reloaded.
    fn refuse(&mut self, client: Option<Client>, text: &str) {
        match client {
            Some(mut client) => {
                let text = format!("{}: {text}; nothing was changed", self.spec.name);
                client.answer(&Answer::Done { code: 2, text, hint: String::new() });
            }
            None => self.tell(Priority::Error, &format!("not reloaded: {text}")),
        }
    }
}
