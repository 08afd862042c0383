//! Whether workers are ready, and whether old ones are drained: by looking at who waits, by what workers say, or by a
//! command of the user's.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::looks::Check;
use super::machine::{Event, WorkerId};
use super::spec::Ready;
use super::supervisor::Supervisor;
use super::worker::Process;

/// Between looks: they take some 20 ms, and no more than a quarter of the time.
const PAUSE: Duration = Duration::from_millis(50);
const SHARE: u32 = 3;
/// After a look that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// A handshake may end between two numbers that a look reads: nothing must wait in two looks.
const DRAINED_LOOKS: u32 = 2;
/// Between two runs of the user's command, and between looks whether it has ended.
const AGAIN: Duration = Duration::from_millis(200);
const RUNNING: Duration = Duration::from_millis(20);
/// Without a program, a worker that has lived for this long counts as ready.
pub(super) const ALIVE: Duration = Duration::from_secs(1);

impl Supervisor {
    /// When something has to be looked at, if nothing happens before.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        let checks = self.looks.checks.values().map(|check| match check.running {
            Some(_) => now + RUNNING,
            None => check.again,
        });
        let begins = self.has_unchecked().then_some(now);
        let alive = self.unready_without_program().map(|(_, since)| since + ALIVE);
        let look = self.wants_look().then(|| self.looks.next.unwrap_or(now));
        checks.chain(begins).chain(alive).chain(look).min()
    }

    fn wants_look(&self) -> bool {
        let looks = |id| self.spec.ready.needs_look() || self.may_have_said(id);
        let unready = self.machine.unready().any(looks);
        self.steer.is_some() && (unready || !self.machine.draining().is_empty())
    }

    /// Whether a worker that has not said that it is ready may have done so while no supervisor was there to hear it.
    fn may_have_said(&self, id: WorkerId) -> bool {
        self.spec.ready.is_said() && self.processes.get(&id).is_some_and(Process::is_adopted)
    }

    fn has_unchecked(&self) -> bool {
        let checked = |id: &WorkerId| self.looks.checks.contains_key(id);
        matches!(self.spec.ready, Ready::Command(_))
            && self.machine.unready().any(|id| !checked(&id))
    }

    /// Workers that are not seen to wait, because nothing is looked at.
    fn unready_without_program(&self) -> impl Iterator<Item = (WorkerId, Instant)> + '_ {
        let counts = self.steer.is_none() && self.spec.ready.needs_look();
        let unready = self.machine.unready().filter(move |_| counts);
        unready.filter_map(|id| {
            let process = self.processes.get(&id)?;
            (!process.seen_waiting).then_some((id, process.started))
        })
    }

    /// Looks at what is due.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        if self.wants_look() && self.looks.next.is_none_or(|next| next <= now) {
            self.look_at_groups(now);
        }
        if self.steer.is_none() && !self.machine.draining().is_empty() {
            self.machine.handle(Event::Drained, now);
        }
        for (id, since) in self.unready_without_program().collect::<Vec<_>>() {
            if since + ALIVE <= now {
                self.note(id, |process| process.seen_waiting = true);
            }
        }
        self.check(now);
    }

    fn look_at_groups(&mut self, now: Instant) {
        let Some(steer) = &self.steer else { return };
        let seen = match steer.look() {
            Ok(seen) => seen,
            Err(error) => {
                self.looks.next = Some(now + AFTER_FAILURE);
                let text = format!("{error:#}");
                if self.looks.failed.as_ref() != Some(&text) {
                    self.complain(&error.context("cannot look at the workers' sockets"));
                }
                self.looks.failed = Some(text);
                return;
            }
        };
        self.looks.failed = None;
        self.looks.next = Some(Instant::now() + PAUSE.max(now.elapsed() * SHARE));
        for id in self.machine.unready().collect::<Vec<_>>() {
            let cookies = self.sockets.cookies_of(id);
            if !cookies.is_empty() && cookies.iter().all(|cookie| seen.waited.contains(cookie)) {
                self.note(id, |process| process.seen_waiting = true);
            }
        }
        let draining = self.machine.draining();
        let left = draining.iter().flat_map(|id| self.sockets.cookies_of(*id));
        match left.into_iter().all(|cookie| seen.drained.contains(&cookie)) {
            true if !draining.is_empty() => self.looks.drained += 1,
            _ => self.looks.drained = 0,
        }
        if self.looks.drained >= DRAINED_LOOKS {
            self.looks.drained = 0;
            self.machine.handle(Event::Drained, Instant::now());
        }
    }

    /// Notes something about a worker, which may make it ready.
    pub(super) fn note(&mut self, id: WorkerId, note: impl FnOnce(&mut Process)) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        note(process);
        let said = process.said_ready || (process.is_adopted() && process.seen_waiting);
        let is_ready = match self.spec.ready {
            Ready::Accepting => process.seen_waiting,
            Ready::Notify => said,
            Ready::Both => process.seen_waiting && said,
            Ready::Command(_) => false,
        };
        if is_ready {
            self.machine.handle(Event::Ready(id), Instant::now());
        }
    }

    /// Reads what a worker says.
    pub(super) fn hear(&mut self, id: WorkerId) {
        let Some(process) = self.processes.get(&id) else { return };
        let is_ready = process.hear().iter().any(|said| said.lines().any(|l| l == "READY=1"));
        if is_ready {
            self.note(id, |process| process.said_ready = true);
        }
    }

    /// Runs the user's command for each worker that is not ready.
    fn check(&mut self, now: Instant) {
        let Ready::Command(command) = self.spec.ready.clone() else { return };
        let unready: Vec<WorkerId> = self.machine.unready().collect();
        self.looks.checks.retain(|id, _| unready.contains(id));
        for id in unready {
            let Some(process) = self.processes.get(&id) else { continue };
            let check = self.looks.checks.entry(id).or_insert(Check { running: None, again: now });
            let ended = match &mut check.running {
                Some(child) => child.try_wait().unwrap_or(None),
                None if check.again > now => continue,
                None => match start(&command, id, process) {
                    Ok(child) => {
                        check.running = Some(child);
                        None
                    }
                    Err(error) => {
                        check.again = now + AFTER_FAILURE;
                        let error = anyhow::Error::new(error);
                        self.complain(&error.context(format!("cannot run `{command}`")));
                        continue;
                    }
                },
            };
            let Some(status) = ended else { continue };
            check.running = None;
            check.again = now + AGAIN;
            if status.success() {
                self.looks.checks.remove(&id);
                self.machine.handle(Event::Ready(id), now);
            }
        }
    }
}

fn start(command: &str, id: WorkerId, process: &Process) -> io::Result<Child> {
    let mut child = Command::new("sh");
    child.args(["-c", command]).process_group(0).stdin(Stdio::null()).stdout(io::stderr());
    child.env("REUSEPORT_PID", process.pid.as_raw_nonzero().to_string());
    child.env("REUSEPORT_WORKER", id.index.to_string());
    child.spawn()
}
