//! A running instance of a server.

use std::collections::HashSet;
use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use test_support::recipe::{Scene, Site};
use test_support::wait;

use crate::servers::{Configured, Family, Server};

/// An instance: a directory with its files, and its processes.
#[derive(Debug)]
pub(crate) struct Instance {
    server: &'static Server,
    site: Site,
    /// How many workers it has.
    pub(crate) workers: usize,
}

impl Instance {
    /// Starts the one of this number.
    pub(crate) fn start(
        scene: &Scene,
        server: &'static Server,
        family: Family,
        number: usize,
    ) -> Self {
        let configured = server.configure(family, number);
        let site = scene.site(&format!("{}-{number}", server.name), files(&configured));
        site.run(&configured.start);
        let instance = Self { server, site, workers: configured.workers };
        wait::until("its pids", wait::BOUND, || {
            instance.server.pid_files.iter().all(|file| instance.pid(file).is_some())
        });
        instance
    }

    fn pid(&self, file: &str) -> Option<u32> {
        self.site.read(file)?.lines().next()?.trim().parse().ok()
    }

    /// The processes that are stopped.
    pub(crate) fn masters(&self) -> HashSet<u32> {
        self.server.pid_files.iter().filter_map(|file| self.pid(file)).collect()
    }

    /// The children of these.
    pub(crate) fn workers(&self) -> HashSet<u32> {
        self.masters().into_iter().flat_map(children).collect()
    }

    /// All processes.
    pub(crate) fn processes(&self) -> HashSet<u32> {
        &self.masters() | &self.workers()
    }

    /// Runs a script in its directory.
    pub(crate) fn run(&self, script: &str) {
        self.site.run(script);
    }

    /// The files of the instance of another number, for a reload.
    pub(crate) fn configure(&mut self, family: Family, number: usize) {
        let configured = self.server.configure(family, number);
        self.site.fill(files(&configured));
        self.workers = configured.workers;
    }

    /// Tells it to stop.
    pub(crate) fn stop(&self) {
        let signal = match self.server.stop {
            "QUIT" => Signal::QUIT,
            "INT" => Signal::INT,
            "USR1" => Signal::USR1,
            _ => Signal::TERM,
        };
        for pid in self.masters() {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            // It may have ended by itself.
            let _ = pid.map(|pid| kill_process(pid, signal));
        }
    }
}

fn files(configured: &Configured) -> impl Iterator<Item = (&str, &str)> {
    configured.files.iter().map(|(name, text)| (name.as_str(), text.as_str()))
}

/// The processes whose parent this is.
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// Whether a process has not ended. One that its parent has not waited for has.
pub(crate) fn runs(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}
