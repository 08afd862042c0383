//! What a supervisor's actions bring about, with what has to hold at each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::super::*;

pub(super) const LIMITS: Limits = Limits {
    ready: Duration::from_secs(60),
    probation: Duration::from_secs(10),
    drain: Duration::from_secs(30),
    stop: Duration::from_secs(20),
};

pub(super) const WORKERS: u16 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) ready: bool,
    pub(super) asked: Option<Force>,
}

/// What the supervisor's actions bring about.
pub(super) struct World {
    pub(super) machine: Machine,
    pub(super) now: Instant,
    pub(super) processes: BTreeMap<WorkerId, Process>,
    /// The generation that the kernel lets serve, those before it, and when it was promoted.
    pub(super) serving: u32,
    pub(super) before: Option<u32>,
    pub(super) promoted: Option<Instant>,
    pub(super) held: BTreeSet<WorkerId>,
    pub(super) closed: BTreeSet<WorkerId>,
    pub(super) reload: Option<u32>,
    pub(super) stopping: bool,
    pub(super) answers: Vec<Outcome>,
    pub(super) tales: Vec<Tale>,
    pub(super) exit: Option<u8>,
    pub(super) announced: usize,
    /// What the next changes of the kernel's groups answer.
    pub(super) steers: bool,
    pub(super) starts: bool,
}

impl World {
    pub(super) fn new() -> Self {
        let mut world = Self::with(Machine::start(LIMITS, 1, WORKERS), Instant::now());
        world.settle();
        world
    }

    pub(super) fn with(machine: Machine, now: Instant) -> Self {
        Self {
            machine,
            now,
            processes: BTreeMap::new(),
            serving: 1,
            before: None,
            promoted: None,
            held: BTreeSet::new(),
            closed: BTreeSet::new(),
            reload: None,
            stopping: false,
            answers: Vec::new(),
            tales: Vec::new(),
            exit: None,
            announced: 0,
            steers: true,
            starts: true,
        }
    }

    pub(super) fn handle(&mut self, event: Event) {
        self.stopping |= event == Event::Stop;
        self.machine.handle(event, self.now);
        self.settle();
    }

    pub(super) fn reload(&mut self, trial: Option<Duration>) -> Result<u32, Busy> {
        let asked = self.machine.reload(Reload { workers: WORKERS, trial });
        if let Ok(new) = asked {
            assert_eq!(self.reload.replace(new), None, "two reloads");
        }
        self.settle();
        asked
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(deadline) = self.machine.deadline().filter(|deadline| *deadline <= until) {
            self.now = deadline.max(self.now);
            self.machine.handle_timeout(self.now);
            self.settle();
        }
        self.now = until;
    }

    pub(super) fn ready(&mut self, id: WorkerId) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.ready = true;
            self.handle(Event::Ready(id));
        }
    }

    pub(super) fn all_ready(&mut self) {
        for id in self.machine.unready().collect::<Vec<_>>() {
            self.ready(id);
        }
    }

    pub(super) fn die(&mut self, id: WorkerId) {
        if self.processes.remove(&id).is_some() {
            self.handle(Event::Exited(id));
        }
    }

    /// Those that were asked to end do so.
    pub(super) fn obey(&mut self) {
        let asked = |(id, process): (&WorkerId, &Process)| process.asked.map(|_| *id);
        for id in self.processes.iter().filter_map(asked).collect::<Vec<_>>() {
            self.die(id);
        }
    }

    pub(super) fn settle(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            self.act(action);
        }
    }

    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Prepare { generation, .. } => {
                assert_eq!(self.reload, Some(generation).filter(|_| self.reload.is_some()));
                self.machine.handle(Event::Steered(self.steers), self.now);
            }
            Action::Start(id) if self.starts => {
                let process = Process { ready: false, asked: None };
                assert!(self.processes.insert(id, process).is_none(), "{id} runs twice");
                assert!(!self.closed.contains(&id), "{id} has no sockets");
                self.machine.handle(Event::Started(id), self.now);
            }
            Action::Start(id) => self.machine.handle(Event::NotStarted(id), self.now),
            Action::Signal(id, force) => self.signal(id, force),
            Action::Hold(id) => drop(self.held.insert(id)),
            Action::Serve(id) => drop(self.held.remove(&id)),
            Action::TryOut(_) => self.machine.handle(Event::Steered(self.steers), self.now),
            Action::Promote(generation) => {
                let of = self.processes.iter().filter(|(id, _)| id.generation == generation);
                assert_eq!(of.filter(|(_, process)| process.ready).count(), usize::from(WORKERS));
                if self.steers {
                    self.before = Some(std::mem::replace(&mut self.serving, generation));
                    self.promoted = Some(self.now);
                }
                self.machine.handle(Event::Steered(self.steers), self.now);
            }
            Action::Rollback(to) => {
                if let Some(before) = self.before.take() {
                    self.serving = before;
                }
                assert_eq!(self.serving, to);
                self.machine.handle(Event::Steered(self.steers), self.now);
            }
            Action::Close(id) => {
                assert!(!self.processes.contains_key(&id), "{id} lives");
                self.closed.insert(id);
            }
            Action::Announce => self.announced += 1,
            Action::Tell(tale) => self.tales.push(tale),
            Action::Answer(outcome) => {
                assert!(self.reload.take().is_some() || self.answers.is_empty(), "two answers");
                let left = self.processes.keys().filter(|id| id.generation != self.serving);
                assert!(self.stopping || left.count() == 0, "{outcome:?} before all have ended");
                self.before = None;
                self.answers.push(outcome);
            }
            Action::Exit(code) => {
                assert_eq!(self.exit.replace(code), None, "it exits once");
                assert!(self.processes.is_empty());
            }
        }
    }

    pub(super) fn signal(&mut self, id: WorkerId, force: Force) {
        let others = |serving| {
            let of = self.processes.iter().filter(|(of, _)| of.generation == serving);
            of.filter(|(of, process)| process.ready && **of != id).count()
        };
        if !self.stopping {
            assert_ne!(id.generation, self.serving, "{id} serves");
            if Some(id.generation) == self.before {
                let over = self.promoted.is_some_and(|at| at + LIMITS.probation <= self.now);
                assert!(
                    over,
                    "{id} is asked to end before the probation of {} is over",
                    self.serving
                );
                assert!(force == Force::Kill || others(self.serving) > 0, "none other serves");
            }
        }
        // One that could not be started may be asked to end all the same.
        if let Some(process) = self.processes.get_mut(&id) {
            process.asked = Some(force);
        }
    }

    /// Everything goes well from now on.
    pub(super) fn finish(&mut self) {
        (self.steers, self.starts) = (true, true);
        for _ in 0..200 {
            self.obey();
            self.all_ready();
            self.handle(Event::Drained);
            self.pass(Duration::from_secs(5));
        }
    }

    /// A generation that runs and is ready.
    pub(super) fn serves(generation: u32) -> Self {
        let mut world = Self::new();
        world.all_ready();
        while world.serving < generation {
            world.reload(None).unwrap();
            world.finish();
        }
        world.answers.clear();
        world.tales.clear();
        world
    }
}
