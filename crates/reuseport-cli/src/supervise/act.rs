//! Carries out what the machine says.

use std::time::Instant;

use anyhow::{Context as _, Result};
use reuseport::id::Cookie;

use super::control::Answer;
use super::machine::{Action, Event, Outcome, WorkerId};
use super::state::{Generation, State, Worker};
use super::supervisor::Supervisor;
use super::worker::{Process, Start};
use super::{sockets, words};
use crate::notify;

impl Supervisor {
    /// Does all that is to be done now. Returns the exit code, at the end.
    pub(super) fn carry_out(&mut self) -> Option<u8> {
        // What is said is true when it is said: the groups are changed first.
        let mut said = Vec::new();
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Exit(code) => {
                    said.into_iter().for_each(|action| self.say(action));
                    return Some(code);
                }
                Action::Announce | Action::Tell(_) | Action::Answer(_) => said.push(action),
                action => self.act(action),
            }
        }
        self.settle();
        self.save_or_complain();
        said.into_iter().for_each(|action| self.say(action));
        self.save_or_complain();
        notify::status(&self.status());
        None
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Prepare { generation, workers } => {
                let prepared = self.prepare(generation, workers);
                if prepared.is_err() {
                    self.sockets.close_generation(generation);
                    self.held.retain(|id, _| id.generation != generation);
                    self.is_stale = true;
                }
                self.steered(prepared);
            }
            Action::Start(id) => self.start(id),
            Action::Signal(id, force) => {
                if let Some(process) = self.processes.get(&id) {
                    process.signal(force);
                }
            }
            Action::Hold(id) => self.hold(id, true),
            Action::Serve(id) => self.hold(id, false),
            Action::TryOut(generation) => {
                let tried = match (&self.steer, self.share) {
                    (Some(steer), Some(share)) => steer.try_out(generation, share),
                    _ => Ok(()),
                };
                self.steered(tried);
            }
            Action::Promote(generation) => {
                let promoted = self.steer.as_ref().map_or(Ok(()), |s| s.promote(generation));
                self.is_unheld |= promoted.is_ok();
                self.steered(promoted);
            }
            Action::Rollback(to) => {
                let back = self.steer.as_ref().map_or(Ok(()), |steer| steer.rollback(to));
                if let Err(error) = &back {
                    self.complain(&anyhow::anyhow!("{error:#}").context("the rollback failed"));
                }
                self.is_unheld = true;
                self.steered(back);
            }
            Action::Close(id) => {
                self.held.remove(&id);
                self.is_stale |= self.sockets.close(id);
            }
            Action::Announce | Action::Tell(_) | Action::Answer(_) | Action::Exit(_) => {}
        }
    }

    fn say(&mut self, action: Action) {
        match action {
            Action::Announce => notify::ready(&self.status()),
            Action::Tell(tale) => {
                let (priority, text) = words::tale(&tale, |id| self.how_it_ended(id));
                self.tell(priority, &text);
            }
            Action::Answer(outcome) => self.answer(&outcome),
            _ => {}
        }
    }

    fn steered(&mut self, result: Result<()>) {
        self.failed = result.as_ref().err().map(|error| format!("{error:#}"));
        self.machine.handle(Event::Steered(result.is_ok()), Instant::now());
    }

    fn hold(&mut self, id: WorkerId, held: bool) {
        self.is_unheld |= self.held.insert(id, held) != Some(held);
    }

    /// The sockets of a new generation, which get nothing yet.
    fn prepare(&mut self, generation: u32, workers: u16) -> Result<()> {
        for index in 1..=workers {
            let id = WorkerId { generation, index };
            let before = WorkerId { generation: self.machine.serving(), index };
            if self.steer.is_none() && !self.sockets.of(before).is_empty() {
                self.sockets.share(before, id)?;
            } else {
                self.sockets.open(id, &self.spec.listen, self.spec.backlog)?;
            }
            self.held.insert(id, false);
        }
        self.enrol()
    }

    pub(super) fn enrol(&mut self) -> Result<()> {
        match &mut self.steer {
            Some(steer) => steer.enrol(&self.sockets, self.spec.listen.len()),
            None => Ok(()),
        }
    }

    /// Brings about in the kernel what was gathered: in one step for each group.
    fn settle(&mut self) {
        if std::mem::take(&mut self.is_stale)
            && let Err(error) = self.enrol()
        {
            self.complain(&error.context("slots of closed sockets are not freed"));
        }
        let Some(steer) = &self.steer else { return };
        if std::mem::take(&mut self.is_unheld) {
            let of = |(id, held): (&WorkerId, &bool)| {
                self.sockets.cookies_of(*id).into_iter().map(|cookie| (cookie, *held)).collect()
            };
            let held = self.held.iter().flat_map(|one| -> Vec<(Cookie, bool)> { of(one) });
            if let Err(error) = steer.hold(&held.collect()) {
                self.complain(&error.context("which workers get traffic is not changed"));
            }
        }
    }

    fn start(&mut self, id: WorkerId) {
        let command = self.commands.get(&id.generation).cloned().unwrap_or_default();
        let started = Process::start(&Start {
            id,
            name: &self.spec.name,
            command: &command,
            listen: &self.spec.listen,
            sockets: self.sockets.of(id),
            output: self.spec.output,
        });
        let event = match started {
            Ok(process) => {
                self.processes.insert(id, process);
                // Before anything else: the next supervisor has to know of it.
                self.save_or_complain();
                Event::Started(id)
            }
            Err(error) => {
                self.complain(&error);
                self.ended.insert(id, "could not be started".to_owned());
                Event::NotStarted(id)
            }
        };
        self.machine.handle(event, Instant::now());
    }

    /// A worker's process has ended.
    pub(super) fn exited(&mut self, id: WorkerId) {
        let Some(mut process) = self.processes.remove(&id) else { return };
        let (pid, how) = (process.pid.as_raw_nonzero(), process.collect());
        self.ended.insert(id, format!("(pid {pid}) ended: {how}"));
        self.writers.extend(process.writer.take());
        self.machine.handle(Event::Exited(id), Instant::now());
    }

    pub(super) fn how_it_ended(&self, id: WorkerId) -> String {
        self.ended.get(&id).cloned().unwrap_or_else(|| "ended".to_owned())
    }

    fn answer(&mut self, outcome: &Outcome) {
        let failed = self.failed.take();
        let how = |id| self.how_it_ended(id);
        let (code, text, hint) = words::outcome(outcome, failed.as_deref(), how);
        self.share = None;
        let left: Vec<u32> =
            self.commands.keys().copied().filter(|of| *of != self.machine.serving()).collect();
        for generation in left {
            self.commands.remove(&generation);
            self.ended.retain(|id, _| id.generation != generation);
            self.sockets.close_generation(generation);
            self.held.retain(|id, _| id.generation != generation);
        }
        self.tell_outcome(code, &text);
        notify::ready(&self.status());
        if let Some(mut client) = self.client.take() {
            let text = format!("{}: {text}", self.spec.name);
            client.answer(&Answer::Done { code, text, hint });
        }
    }

    fn save_or_complain(&mut self) {
        if let Err(error) = self.save() {
            self.complain_once(&error);
        }
    }

    /// Writes what the next supervisor has to know, if that has changed.
    fn save(&mut self) -> Result<()> {
        let worker = |id: WorkerId| {
            let process = self.processes.get(&id);
            Worker {
                generation: id.generation,
                index: id.index,
                pid: process.map(|process| process.pid.as_raw_nonzero().get()),
                began: process.map_or(0, |process| process.began),
                notify: process.map(|p| p.notify_name.clone()).unwrap_or_default(),
                said_ready: process.is_some_and(|process| process.said_ready),
                sockets: self.sockets.cookies_of(id).iter().map(|cookie| cookie.get()).collect(),
            }
        };
        let generation = |(number, command): (&u32, &Vec<String>)| Generation {
            number: *number,
            command: command.clone(),
        };
        let state = State {
            version: State::VERSION,
            listen: sockets::written(&self.spec.listen),
            serving: self.machine.serving(),
            generations: self.commands.iter().map(generation).collect(),
            workers: self.held.keys().copied().map(worker).collect(),
        };
        if self.saved.as_ref() != Some(&state) {
            let text = serde_json::to_string(&state)?;
            self.place.write_state(&text).with_context(|| {
                format!(
                    "cannot write {}: a supervisor that is killed now cannot be followed by another",
                    self.place.state().display()
                )
            })?;
            self.saved = Some(state);
        }
        Ok(())
    }
}
