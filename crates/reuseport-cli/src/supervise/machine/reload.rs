//! A reload, phase by phase.

use std::time::Instant;

use super::Machine;
use super::event::{Action, Outcome, Tale, Why};
use super::phase::Phase;
use super::worker::State;

impl Machine {
    /// The generation that may be taken back: it is not promoted, or on probation.
    pub(super) fn candidate(&self) -> Option<u32> {
        match self.phase {
            Phase::Preparing { new, .. }
            | Phase::Readying { new, .. }
            | Phase::Trying { new, .. }
            | Phase::Promoting { new }
            | Phase::RollingBack { new, .. }
            | Phase::Discarding { new, .. } => Some(new),
            Phase::Probation { .. } => Some(self.serving),
            _ => None,
        }
    }

    /// Takes the new generation back: at once, or when it is known what the kernel does.
    pub(super) fn take_back(&mut self, why: Why, now: Instant) {
        match self.phase.clone() {
            Phase::Preparing { .. }
            | Phase::Promoting { .. }
            | Phase::Trying { until: None, .. } => {
                self.doomed.get_or_insert(why);
            }
            Phase::Readying { new, .. } => self.discard(new, why, now),
            Phase::Trying { new, until: Some(_), .. } => self.roll_back(new, self.serving, why),
            Phase::Probation { old, .. } => self.roll_back(self.serving, old, why),
            _ => {}
        }
    }

    pub(super) fn roll_back(&mut self, new: u32, old: u32, why: Why) {
        self.phase = Phase::RollingBack { new, old, why };
        self.act(Action::Rollback(old));
    }

    pub(super) fn promote(&mut self, new: u32) {
        self.phase = Phase::Promoting { new };
        self.act(Action::Promote(new));
    }

    pub(super) fn steered(&mut self, done: bool, now: Instant) {
        let doomed = self.doomed.take();
        match self.phase.clone() {
            Phase::Preparing { new, reload } if done => {
                self.add(new, reload.workers);
                let until = now + self.limits.ready;
                self.phase = Phase::Readying { new, until, trial: reload.trial };
                self.ids(new).into_iter().for_each(|id| self.begin(id));
            }
            Phase::Trying { new, trial, until: None } if done => {
                self.phase = Phase::Trying { new, trial, until: Some(now + trial) };
                self.act(Action::Tell(Tale::OnTrial(new)));
            }
            Phase::Promoting { new } if done => {
                let old = std::mem::replace(&mut self.serving, new);
                self.phase = Phase::Probation { old, until: now + self.limits.probation };
                self.act(Action::Tell(Tale::Promoted { generation: new, old }));
            }
            Phase::Preparing { new, .. } | Phase::Trying { new, .. } | Phase::Promoting { new } => {
                self.discard(new, doomed.unwrap_or(Why::Steering), now);
                return;
            }
            // If it failed, there is nothing better than to let the new one end.
            Phase::RollingBack { new, old, why } => {
                self.serving = old;
                // Those that have ended for good have no sockets any more.
                self.workers.retain(|id, worker| id.generation != old || !worker.state.is_gone());
                self.discard(new, why, now);
            }
            _ => {}
        }
        if let Some(why) = doomed {
            self.take_back(why, now);
        }
    }

    /// Lets the new generation end.
    pub(super) fn discard(&mut self, new: u32, why: Why, now: Instant) {
        self.phase = Phase::Discarding { new, why };
        self.end(new, now);
    }

    /// Waits until nothing waits at the old generation. Its workers are started no more.
    pub(super) fn drain(&mut self, old: u32, now: Instant) {
        self.phase = Phase::Draining { old, until: now + self.limits.drain, due: false };
        for id in self.ids(old).into_iter().filter(|id| !self.lives(*id)).collect::<Vec<_>>() {
            self.gone(id);
        }
    }

    /// What follows from how things are.
    pub(super) fn proceed(&mut self, now: Instant) {
        loop {
            let before = self.phase.clone();
            self.step(now);
            if self.phase == before {
                break;
            }
        }
        let settled = |state: &State| state.is_ready() || state.is_given_up();
        if !self.announced && self.any_ready(self.serving) && self.all(self.serving, settled) {
            self.announced = true;
            self.act(Action::Announce);
        }
    }

    fn step(&mut self, now: Instant) {
        match self.phase.clone() {
            Phase::Readying { new, trial, .. } if self.all(new, State::is_ready) => match trial {
                Some(trial) => {
                    self.phase = Phase::Trying { new, trial, until: None };
                    self.act(Action::TryOut(new));
                }
                None => self.promote(new),
            },
            Phase::Draining { old, .. } if self.all(old, State::is_gone) => {
                self.finish(old, Outcome::Done { generation: self.serving, killed: false });
            }
            Phase::Draining { old, .. } if self.all(self.serving, State::is_given_up) => {
                self.roll_back(self.serving, old, Why::GivenUp);
            }
            Phase::Draining { old, due: true, .. } if self.any_ready(self.serving) => {
                self.phase = Phase::Retiring { old, killed: false };
                self.end(old, now);
            }
            Phase::Retiring { old, killed } if self.all(old, State::is_gone) => {
                self.finish(old, Outcome::Done { generation: self.serving, killed });
            }
            Phase::Discarding { new, why } if self.all(new, State::is_gone) => {
                self.finish(new, Outcome::RolledBack { generation: new, why });
            }
            Phase::Stopping if self.workers.values().all(|worker| worker.state.is_gone()) => {
                self.exit(0);
            }
            Phase::Idle if self.all(self.serving, State::is_given_up) => {
                self.act(Action::Tell(Tale::AllGivenUp));
                self.exit(3);
            }
            _ => {}
        }
    }

    /// The reload is over, and this generation is no more.
    fn finish(&mut self, left: u32, outcome: Outcome) {
        self.workers.retain(|id, _| id.generation != left);
        self.phase = Phase::Idle;
        self.act(Action::Answer(outcome));
    }
}
