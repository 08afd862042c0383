//! One restart after the other of a server that clients ask.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use test_support::process::output;
use test_support::recipe::Scene;
use test_support::server::{Transport, bound_sockets_here};
use test_support::wait::{self, BOUND};

use crate::instance::{Instance, runs};
use crate::servers::{Configured, Family, Reload, Replaces, Server};

/// Who sees to it that nothing is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// No program: the new instance starts, the old one stops.
    Plain,
    /// The same with the setting `net.ipv4.tcp_migrate_req`.
    Migrate,
    /// The server's own reload, without a program.
    Own,
    /// A program: for a roll-out `attach --hold-new --watch`, `promote --wait`, then the old one stops; for a reload
    /// `attach --watch`.
    Ours,
}

/// A server that runs, and how it is restarted.
pub(crate) struct Course {
    server: &'static Server,
    family: Family,
    way: Way,
    reload: Option<Reload>,
    scene: Scene,
    configured: Configured,
    command: std::path::PathBuf,
    instance: Instance,
    number: usize,
}

impl Course {
    /// Starts the server, and attaches if the way has a program.
    pub(crate) fn start(
        server: &'static Server,
        family: Family,
        (way, reload): (Way, Option<Reload>),
        scene: Scene,
        command: &Path,
    ) -> Self {
        let configured = server.configure(family, 0);
        let instance = Instance::start(&scene, server, family, 0);
        let command = command.to_owned();
        let course =
            Self { server, family, way, reload, scene, configured, command, instance, number: 0 };
        course.all_listen(course.instance.workers);
        if way == Way::Ours {
            let hold = if reload.is_none() { " --hold-new" } else { "" };
            course.scene.start(&format!("{}{hold}", course.configured.attach), "Watching");
            course.settles();
        }
        course
    }

    /// Restarts it once. `promoted` is told the processes that served, once they are not to get anything new.
    pub(crate) fn restart(&mut self, promoted: impl FnOnce(HashSet<u32>)) {
        self.number += 1;
        match self.reload {
            Some(reload) => self.reload(reload),
            None => self.roll_out(promoted),
        }
        if self.way == Way::Ours {
            self.settles();
        }
    }

    fn roll_out(&mut self, promoted: impl FnOnce(HashSet<u32>)) {
        let new = Instance::start(&self.scene, self.server, self.family, self.number);
        if self.way == Way::Ours {
            wait::until("the new members are on standby", 3 * BOUND, || {
                self.groups().all(|group| self.members(group, "standby") == Some(new.workers))
            });
            let groups: Vec<&str> = self.groups().collect();
            self.scene.run(&format!("reuseport promote {} --wait=30s", groups.join(" ")));
            promoted(self.instance.processes());
        } else {
            self.all_listen(self.instance.workers + new.workers);
        }
        let old = std::mem::replace(&mut self.instance, new);
        let processes = old.processes();
        old.stop();
        wait::until("the old instance ends", 6 * BOUND, || {
            !processes.iter().any(|process| runs(*process))
        });
        self.all_listen(self.instance.workers);
    }

    fn reload(&mut self, reload: Reload) {
        self.instance.configure(self.family, self.number);
        let (masters, workers) = (self.instance.masters(), self.instance.workers());
        self.instance.run(reload.script);
        let replaced: HashSet<u32> = match reload.replaces {
            Replaces::Workers => workers,
            Replaces::Master => &masters | &workers,
            Replaces::Nothing => HashSet::new(),
        };
        wait::until("other processes serve", 6 * BOUND, || {
            !replaced.iter().any(|process| runs(*process))
        });
        self.all_listen(self.instance.workers);
    }

    fn groups(&self) -> impl Iterator<Item = &str> {
        self.configured.groups.iter().map(String::as_str)
    }

    /// Waits until each of its addresses has this many sockets.
    fn all_listen(&self, sockets: usize) {
        let port = self.configured.server.port();
        wait::until("its sockets are there", 3 * BOUND, || {
            self.groups().all(|group| {
                let udp = group.starts_with("udp:");
                let transport = if udp { Transport::Udp } else { Transport::Tcp };
                bound_sockets_here(transport, port) == sockets
            })
        });
    }

    /// Waits until the program has all members, and no others.
    fn settles(&self) {
        let workers = self.instance.workers;
        wait::until("the watcher steers all its members", 6 * BOUND, || {
            self.groups().all(|group| {
                ["active", ""].iter().all(|state| self.members(group, state) == Some(workers))
            })
        });
    }

    /// How many members have a state; of none, how many there are.
    fn members(&self, group: &str, state: &str) -> Option<usize> {
        let shown = output(Command::new(&self.command).args(["show", group, "--json"])).ok()?;
        let shown: Value = serde_json::from_slice(&shown.stdout).ok()?;
        let members = shown["members"].as_array()?.iter();
        Some(members.filter(|member| state.is_empty() || member["state"] == state).count())
    }
}
