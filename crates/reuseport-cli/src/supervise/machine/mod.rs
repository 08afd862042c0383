//! What a supervisor does about its workers: events in, actions and a deadline out. No I/O, no clock, no process: all
//! rules of starting, giving up, reloading, rolling back and stopping are here.
//!
//! A reload has one [`Phase`] after the other. A generation that serves, and the one before it until its probation is
//! over, has its workers started again; a worker of a new generation that ends takes that generation back.

mod event;
mod phase;
mod reload;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

pub(crate) use self::event::{Action, Busy, Event, Force, Limits, Outcome, Reload, Tale, Why};
use self::phase::Phase;
pub(crate) use self::worker::{GIVE_UP, WorkerId};
use self::worker::{State, Worker};

/// The supervisor's workers.
#[derive(Debug)]
pub(crate) struct Machine {
    limits: Limits,
    serving: u32,
    /// The newest generation that there was.
    newest: u32,
    workers: BTreeMap<WorkerId, Worker>,
    phase: Phase,
    /// Why the new generation is to be taken back, as soon as the kernel's answer is there.
    doomed: Option<Why>,
    announced: bool,
    actions: VecDeque<Action>,
}

impl Machine {
    /// The first generation, whose sockets are there.
    pub(crate) fn start(limits: Limits, generation: u32, workers: u16) -> Self {
        let mut machine = Self::new(limits, generation);
        machine.add(generation, workers);
        for id in machine.ids(generation) {
            machine.act(Action::Hold(id));
            machine.begin(id);
        }
        machine
    }

    /// Goes on after a supervisor that was killed: these workers have their sockets, and live or not. If another
    /// generation than the one that serves is there, it is an old one, which is stopped, or one that was not promoted.
    pub(crate) fn resume(
        limits: Limits,
        serving: u32,
        workers: impl IntoIterator<Item = (WorkerId, bool)>,
        now: Instant,
    ) -> Self {
        let mut machine = Self::new(limits, serving);
        let mut other = None;
        for (id, lives) in workers {
            machine.newest = machine.newest.max(id.generation);
            other = other.or(Some(id.generation).filter(|of| *of != serving));
            machine.workers.insert(id, Worker::default());
            match lives {
                true => machine.set(id, State::Running { ready: None, late: now + limits.ready }),
                false if id.generation == serving => {
                    machine.act(Action::Hold(id));
                    machine.begin(id);
                }
                false => machine.set(id, State::Gone),
            }
        }
        match other {
            Some(new) if new > serving => {
                let why = Why::Interrupted;
                machine.phase = Phase::RollingBack { new, old: serving, why };
                machine.act(Action::Rollback(serving));
            }
            Some(old) => machine.drain(old, now),
            None => {}
        }
        machine
    }

    fn new(limits: Limits, serving: u32) -> Self {
        Self {
            limits,
            serving,
            newest: serving,
            workers: BTreeMap::new(),
            phase: Phase::Idle,
            doomed: None,
            announced: false,
            actions: VecDeque::new(),
        }
    }

    /// What is to be done next.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let of_phase = match self.phase {
            Phase::Readying { until, .. } | Phase::Probation { until, .. } => Some(until),
            Phase::Trying { until, .. } => until,
            Phase::Draining { until, due: false, .. } => Some(until),
            _ => None,
        };
        let of_workers = self.workers.values().filter_map(|worker| worker.state.deadline());
        of_workers.chain(of_phase).min()
    }

    /// The generation that serves.
    pub(crate) fn serving(&self) -> u32 {
        self.serving
    }

    /// Workers that run and are not ready yet.
    pub(crate) fn unready(&self) -> impl Iterator<Item = WorkerId> + '_ {
        let unready = |(id, worker): (&WorkerId, &Worker)| {
            matches!(worker.state, State::Running { ready: None, .. }).then_some(*id)
        };
        self.workers.iter().filter_map(unready)
    }

    /// Old workers of which it is to be found out whether they are drained.
    pub(crate) fn draining(&self) -> Vec<WorkerId> {
        match self.phase {
            Phase::Draining { old, due: false, .. } => {
                self.ids(old).into_iter().filter(|id| self.lives(*id)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// How many workers are ready, of how many of the generation that serves.
    pub(crate) fn count(&self) -> (usize, usize) {
        let of = self.ids(self.serving);
        (of.iter().filter(|id| self.is_ready(**id)).count(), of.len())
    }

    /// Whether a reload is under way.
    pub(crate) fn reloads(&self) -> bool {
        !matches!(self.phase, Phase::Idle | Phase::Stopping | Phase::Over)
    }

    /// Begins a reload.
    ///
    /// # Errors
    ///
    /// If one is under way.
    pub(crate) fn reload(&mut self, reload: Reload) -> Result<u32, Busy> {
        if self.phase != Phase::Idle {
            return Err(Busy { stops: !self.reloads() });
        }
        self.newest = self.newest.saturating_add(1);
        let new = self.newest;
        self.phase = Phase::Preparing { new, reload };
        self.act(Action::Prepare { generation: new, workers: reload.workers });
        Ok(new)
    }

    pub(crate) fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Started(id) => self.started(id, now),
            Event::Ready(id) => self.ready(id, now),
            Event::NotStarted(id) | Event::Exited(id) => self.exited(id, now),
            Event::Drained => {
                if let Phase::Draining { due, .. } = &mut self.phase {
                    *due = true;
                }
            }
            Event::Steered(done) => self.steered(done, now),
            Event::Stop => self.stop(now),
        }
        self.proceed(now);
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for id in self.workers.keys().copied().collect::<Vec<_>>() {
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            if worker.state.deadline().is_none_or(|deadline| deadline > now) {
                continue;
            }
            match &mut worker.state {
                State::Waiting { .. } => self.begin(id),
                State::Running { late, .. } => {
                    *late = now + Duration::from_secs(u64::from(u32::MAX));
                    // Of a new one, the answer to the reload says so.
                    if self.candidate() != Some(id.generation) {
                        self.act(Action::Tell(Tale::Late(id)));
                    }
                }
                State::Stopping { kill } => {
                    *kill = None;
                    if let Phase::Retiring { killed, .. } = &mut self.phase {
                        *killed = true;
                    }
                    self.act(Action::Tell(Tale::Killed(id)));
                    self.act(Action::Signal(id, Force::Kill));
                }
                _ => {}
            }
        }
        match self.phase.clone() {
            Phase::Readying { new, until, .. } if until <= now => {
                let late = self.ids(new).into_iter().filter(|id| !self.is_ready(*id)).collect();
                self.take_back(Why::NotReady(late), now);
            }
            Phase::Trying { new, until: Some(until), .. } if until <= now => self.promote(new),
            Phase::Probation { old, until } if until <= now => self.drain(old, now),
            Phase::Draining { old, until, due: false } if until <= now => {
                self.phase = Phase::Draining { old, until, due: true };
            }
            _ => {}
        }
        self.proceed(now);
    }

    fn started(&mut self, id: WorkerId, now: Instant) {
        let late = now + self.limits.ready;
        if matches!(self.state(id), State::Starting) {
            self.set(id, State::Running { ready: None, late });
        }
    }

    fn ready(&mut self, id: WorkerId, now: Instant) {
        if let State::Running { ready: None, late } = self.state(id) {
            self.set(id, State::Running { ready: Some(now), late });
            self.act(Action::Serve(id));
            self.act(Action::Tell(Tale::Ready(id)));
            // What waits at those that were given up has somewhere to go now.
            for other in self.ids(id.generation) {
                if self.state(other).is_given_up() {
                    self.act(Action::Close(other));
                }
            }
        }
    }

    fn exited(&mut self, id: WorkerId, now: Instant) {
        let state = self.state(id);
        let ready = match state {
            State::Starting => None,
            State::Running { ready, .. } => ready,
            State::Stopping { .. } => return self.gone(id),
            // It had no process.
            State::Unstarted | State::Waiting { .. } | State::GivenUp | State::Gone => return,
        };
        match self.phase.clone() {
            Phase::Stopping | Phase::Over => self.gone(id),
            Phase::Draining { old, .. } | Phase::Retiring { old, .. } if id.generation == old => {
                self.gone(id);
            }
            _ if self.candidate() == Some(id.generation) => {
                self.set(id, State::Gone);
                self.take_back(Why::Died(id), now);
            }
            _ => self.again(id, ready, now),
        }
    }

    /// Starts a worker again, later, or gives it up.
    fn again(&mut self, id: WorkerId, ready: Option<Instant>, now: Instant) {
        self.act(Action::Hold(id));
        let Some(worker) = self.workers.get_mut(&id) else { return };
        match worker.ended(ready, now) {
            Some(pause) => {
                worker.state = State::Waiting { until: now + pause };
                self.act(Action::Tell(Tale::Again(id, pause)));
            }
            None => {
                worker.state = State::GivenUp;
                self.act(Action::Tell(Tale::GivenUp(id)));
                // What waits there is for others, if there are any.
                if self.any_ready(self.serving) {
                    self.act(Action::Close(id));
                }
            }
        }
    }

    /// Asks all workers of a generation to end.
    fn end(&mut self, generation: u32, now: Instant) {
        for id in self.ids(generation) {
            match self.lives(id) {
                true => self.terminate(id, now),
                false => self.gone(id),
            }
        }
    }

    fn terminate(&mut self, id: WorkerId, now: Instant) {
        if !matches!(self.state(id), State::Stopping { .. }) {
            self.set(id, State::Stopping { kill: Some(now + self.limits.stop) });
            self.act(Action::Signal(id, Force::Term));
        }
    }

    fn stop(&mut self, now: Instant) {
        let all: Vec<WorkerId> = self.workers.keys().copied().collect();
        if matches!(self.phase, Phase::Stopping | Phase::Over) {
            for id in all {
                if self.lives(id) {
                    self.set(id, State::Stopping { kill: None });
                    self.act(Action::Signal(id, Force::Kill));
                }
            }
            return;
        }
        if self.reloads() {
            self.act(Action::Answer(Outcome::Stopped));
        }
        self.phase = Phase::Stopping;
        for id in all {
            match self.lives(id) {
                true => self.terminate(id, now),
                false => self.set(id, State::Gone),
            }
        }
    }

    fn exit(&mut self, code: u8) {
        self.workers.clear();
        self.phase = Phase::Over;
        self.act(Action::Exit(code));
    }

    fn add(&mut self, generation: u32, workers: u16) {
        for index in 1..=workers {
            self.workers.insert(WorkerId { generation, index }, Worker::default());
        }
    }

    fn begin(&mut self, id: WorkerId) {
        self.set(id, State::Starting);
        self.act(Action::Start(id));
    }

    /// It has ended for good.
    fn gone(&mut self, id: WorkerId) {
        self.set(id, State::Gone);
        // Who stops closes all sockets together.
        if self.phase != Phase::Stopping {
            self.act(Action::Close(id));
        }
    }

    fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    fn state(&self, id: WorkerId) -> State {
        self.workers.get(&id).map_or(State::Gone, |worker| worker.state)
    }

    fn set(&mut self, id: WorkerId, state: State) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.state = state;
        }
    }

    fn ids(&self, generation: u32) -> Vec<WorkerId> {
        self.workers.keys().copied().filter(|id| id.generation == generation).collect()
    }

    fn all(&self, generation: u32, is: impl Fn(&State) -> bool) -> bool {
        self.ids(generation).into_iter().all(|id| is(&self.state(id)))
    }

    fn any_ready(&self, generation: u32) -> bool {
        self.ids(generation).into_iter().any(|id| self.is_ready(id))
    }

    fn is_ready(&self, id: WorkerId) -> bool {
        self.state(id).is_ready()
    }

    /// Whether it has a process.
    fn lives(&self, id: WorkerId) -> bool {
        self.state(id).lives()
    }
}
