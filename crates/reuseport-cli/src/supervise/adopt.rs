//! Workers of a supervisor that was killed: they live on, and the next one of the name goes on with them.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Context as _, Result};
use reuseport::id::Cookie;
use reuseport::{Host, Member, borrow};
use std::os::fd::AsFd as _;

use super::machine::{Machine, WorkerId};
use super::place::Place;
use super::sockets::{Kept, Sockets, written};
use super::spec::Spec;
use super::state::State;
use super::steer::Steer;
use super::supervisor::Supervisor;
use super::worker::Process;
use crate::error::Failure;
use crate::output::count;
use crate::tell::Priority;

/// What is left of the supervisor before.
pub(super) struct Found {
    state: State,
    processes: Vec<(WorkerId, Process)>,
}

/// Finds workers that live; `None` if there are none.
///
/// # Errors
///
/// If they listen elsewhere than it is asked for, or they cannot be followed.
pub(super) fn find(spec: &Spec, place: &Place, host: Option<&Host>) -> Result<Option<Found>> {
    let path = place.state();
    let failed = || format!("cannot read {}", path.display());
    let Some(text) = place.read_state().with_context(failed)? else { return Ok(None) };
    let unknown = |why: &str| {
        let hint = "stop the workers of the supervisor before, and remove the file";
        Failure::new(format!("{}: {why}", failed()), hint)
    };
    let state: State = serde_json::from_str(&text).map_err(|error| unknown(&error.to_string()))?;
    if state.version != State::VERSION {
        return Err(unknown("another version of this command wrote it").into());
    }
    let mut processes = Vec::new();
    for worker in &state.workers {
        let Some(pid) = worker.pid else { continue };
        if let Some(process) = Process::adopt(pid, worker.began, &worker.notify, worker.said_ready)
        {
            processes.push((worker.id(), process));
        }
    }
    if processes.is_empty() {
        return Ok(None);
    }
    let pids: Vec<String> =
        processes.iter().map(|(_, process)| process.pid.as_raw_nonzero().to_string()).collect();
    let stop = || format!("stop them first: kill {}", pids.join(" "));
    if state.listen != written(&spec.listen) {
        return Err(Failure::new(
            format!(
                "{}: workers of an earlier supervisor live, and they listen at {}",
                spec.name,
                state.listen.join(", ")
            ),
            format!("give the same --listen, or {}", stop()),
        )
        .into());
    }
    if host.is_none() {
        return Err(Failure::new(
            format!("{}: workers of an earlier supervisor live", spec.name),
            format!(
                "to go on with them takes the rights of `attach`: without --no-program; or {}",
                stop()
            ),
        )
        .into());
    }
    Ok(Some(Found { state, processes }))
}

impl Supervisor {
    /// Goes on with these workers, and with their sockets, which they alone have now.
    pub(super) fn adopt(&mut self, found: Found) -> Result<()> {
        let Found { state, processes } = found;
        let living: Vec<WorkerId> = processes.iter().map(|(id, _)| *id).collect();
        self.processes = processes.into_iter().collect();
        self.commands =
            state.generations.iter().map(|of| (of.number, of.command.clone())).collect();
        let members = match &self.steer {
            Some(steer) => Steer::members(steer.host())?,
            None => HashMap::new(),
        };
        let mut lost = 0;
        let mut sockets = Sockets::default();
        for worker in &state.workers {
            let id = worker.id();
            match take_back(&worker.sockets, &members)? {
                Some(kept) if kept.len() == self.spec.listen.len() => sockets.insert(id, kept),
                // It died with its sockets while no supervisor was there.
                _ if id.generation == state.serving => {
                    lost += 1;
                    sockets.open(id, &self.spec.listen, self.spec.backlog)?;
                }
                _ => continue,
            }
            self.held.insert(id, false);
        }
        self.sockets = sockets;
        let workers: Vec<(WorkerId, bool)> =
            self.held.keys().map(|id| (*id, living.contains(id))).collect();
        self.machine = Machine::resume(self.spec.limits, state.serving, workers, Instant::now());
        self.enrol()?;
        self.is_unheld = true;
        // What they said before counts.
        living.iter().for_each(|id| self.note(*id, |_| {}));
        let mut text = format!(
            "goes on with {} of a supervisor that has ended",
            count(living.len(), "worker")
        );
        if lost > 0 {
            text += &format!(
                "; {} had died with its sockets meanwhile, and what waited there went to others",
                count(lost, "other one")
            );
        }
        self.tell(Priority::Info, &text);
        if self.commands.get(&state.serving) != Some(&self.spec.command) {
            let text = "they run another command than the one given: `reuseport reload` starts it";
            self.tell(Priority::Warning, &format!("{text}: {}", self.spec.command.join(" ")));
        }
        let number = self.held.keys().filter(|id| id.generation == state.serving).count();
        if number != usize::from(self.spec.workers) {
            let text = format!(
                "they are {}, and {} are asked for: `reuseport reload` starts these",
                count(number, "worker"),
                self.spec.workers
            );
            self.tell(Priority::Warning, &text);
        }
        Ok(())
    }
}

/// The sockets with these cookies; `None` if one of them is gone.
fn take_back(cookies: &[u64], members: &HashMap<Cookie, Member>) -> Result<Option<Vec<Kept>>> {
    let mut kept = Vec::new();
    for cookie in cookies {
        let Some(member) = Cookie::new(*cookie).and_then(|cookie| members.get(&cookie)) else {
            return Ok(None);
        };
        // It is closed as soon as its worker is gone for good.
        let borrowed = borrow::borrow(member)?;
        let fd = borrowed.as_fd().try_clone_to_owned().context("cannot duplicate a socket")?;
        kept.push(Kept::new(fd).context("cannot keep a socket")?);
    }
    Ok(Some(kept))
}
