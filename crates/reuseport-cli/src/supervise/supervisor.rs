//! A supervisor: what it has, and how it speaks.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Child;

use reuseport::id::Percent;

use super::control::{Answer, Client, Control};
use super::looks::Looks;
use super::machine::{Machine, WorkerId};
use super::place::{Lock, Place};
use super::sockets::Sockets;
use super::spec::Spec;
use super::state::State;
use super::steer::Steer;
use super::worker::Process;
use crate::error;
use crate::tell::{Form, Priority};

/// A supervisor at work.
pub(super) struct Supervisor {
    pub(super) spec: Spec,
    pub(super) place: Place,
    pub(super) _lock: Lock,
    /// `None`: without a program, the kernel's hash decides.
    pub(super) steer: Option<Steer>,
    pub(super) machine: Machine,
    pub(super) sockets: Sockets,
    pub(super) processes: BTreeMap<WorkerId, Process>,
    /// What each generation runs.
    pub(super) commands: BTreeMap<u32, Vec<String>>,
    /// Workers that have sockets: whether they are to get nothing.
    pub(super) held: BTreeMap<WorkerId, bool>,
    /// Whether the kernel does not know that yet.
    pub(super) is_unheld: bool,
    /// Whether slots of closed sockets are to be freed.
    pub(super) is_stale: bool,
    /// How workers ended.
    pub(super) ended: BTreeMap<WorkerId, String>,
    /// Processes that write the output of workers that have ended.
    pub(super) writers: Vec<Child>,
    pub(super) looks: Looks,
    pub(super) control: Control,
    /// Who waits for the end of a reload.
    pub(super) client: Option<Client>,
    /// The part of a generation on trial.
    pub(super) share: Option<Percent>,
    /// Why a group could not be changed.
    pub(super) failed: Option<String>,
    pub(super) saved: Option<State>,
    pub(super) form: Form,
    pub(super) complained: BTreeSet<String>,
}

impl Supervisor {
    pub(super) fn status(&self) -> String {
        let (ready, of) = self.machine.count();
        let reloads = if self.machine.reloads() { "; reloading" } else { "" };
        format!("generation {}: {ready} of {of} workers ready{reloads}", self.machine.serving())
    }

    /// Says what happens, also to who waits for a reload.
    pub(super) fn tell(&mut self, priority: Priority, text: &str) {
        let text = format!("{}: {text}", self.spec.name);
        if let Some(client) = &mut self.client {
            client.answer(&Answer::Progress(text.clone()));
        }
        // If standard error is closed, it goes on without.
        let _ = self.form.write(priority, &format!("{text}\n"));
    }

    pub(super) fn tell_outcome(&self, code: u8, text: &str) {
        let priority = if code == 0 { Priority::Info } else { Priority::Error };
        let _ = self.form.write(priority, &format!("{}: {text}\n", self.spec.name));
    }

    pub(super) fn complain(&mut self, error: &anyhow::Error) {
        let _ = self.form.write(Priority::Error, &error::message(error));
    }

    /// The same, if it is not said yet.
    pub(super) fn complain_once(&mut self, error: &anyhow::Error) {
        if self.complained.insert(format!("{error:#}")) {
            self.complain(error);
        }
    }
}
