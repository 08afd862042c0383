//! The servers: what is changed in the recipe of each, how it stops, and how it reloads.

use std::net::SocketAddr;

use test_support::recipe::Page;

use crate::protocol::Protocol;

/// The address family of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// 127.0.0.1
    V4,
    /// ::1
    V6,
}

impl Family {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn address(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.1",
            Self::V6 => "::1",
        }
    }

    /// As before a port.
    fn host(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.1",
            Self::V6 => "[::1]",
        }
    }
}

/// What a reload replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaces {
    /// The children of the master.
    Workers,
    /// The master as well.
    Master,
    /// Nothing that is seen from outside.
    Nothing,
}

/// How a server replaces itself.
#[derive(Debug, Clone, Copy)]
pub struct Reload {
    /// Run in its directory.
    pub script: &'static str,
    /// What that replaces.
    pub replaces: Replaces,
}

/// How a soak restarts a server.
#[derive(Debug, Clone, Copy)]
pub enum How {
    /// A new instance next to the old one, `promote`, and the old one stops.
    RollOut,
    /// Its own way, among the same processes' sockets, under `attach --watch`.
    Own(Reload),
}

/// A server.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    /// On the command line and in tables.
    pub name: &'static str,
    /// `docs/recipes/NAME.md` has its configuration.
    pub recipe: &'static str,
    /// What it speaks.
    pub protocol: Protocol,
    /// How a soak restarts it.
    pub how: How,
    /// Its own reload, to compare with.
    pub reload: Option<Reload>,
    /// Workers of one instance after the other, in turn.
    pub workers: &'static [usize],
    /// What stands in the recipe, and what stands there here: `{address}`, `{host}` and `{n}` (workers) are filled in.
    pub edits: &'static [(&'static str, &'static str)],
    /// Where its pids are.
    pub pid_files: &'static [&'static str],
    /// The signal to these that stops it when its clients have been answered.
    pub stop: &'static str,
    /// Clients that keep their connections, and those that wait before they send.
    pub clients: (usize, usize),
}

/// A recipe as a run needs it.
#[derive(Debug)]
pub struct Configured {
    /// With their contents.
    pub files: Vec<(String, String)>,
    /// Starts an instance.
    pub start: String,
    /// Attaches and watches.
    pub attach: String,
    /// The groups that this names.
    pub groups: Vec<String>,
    /// Where clients ask.
    pub server: SocketAddr,
    /// Workers of the instance.
    pub workers: usize,
}

impl Server {
    /// By its name.
    pub fn named(name: &str) -> Option<&'static Self> {
        SERVERS.iter().find(|server| server.name == name)
    }

    /// The recipe, for the instance of this number.
    ///
    /// # Panics
    ///
    /// If the recipe has changed so that an edit finds nothing.
    pub fn configure(&self, family: Family, number: usize) -> Configured {
        let (page, workers) = (Page::read(self.recipe), self.workers[number % self.workers.len()]);
        let of_group = format!("{}:", Family::V4.host());
        let attach = page.script("Attach").trim().to_owned();
        let mut texts: Vec<(&str, String)> =
            page.files().map(|(name, text)| (name, text.to_owned())).collect();
        texts.push(("", page.scripts("Configure").concat()));
        for (from, to) in self.edits {
            let to = to.replace("{address}", family.address()).replace("{host}", family.host());
            let to = to.replace("{n}", &workers.to_string());
            assert!(texts.iter().any(|(_, text)| text.contains(from)), "{}: {from}", self.recipe);
            for (_, text) in &mut texts {
                *text = text.replace(from, &to);
            }
        }
        let to_group = |text: &str| text.replace(&of_group, &format!("{}:", family.host()));
        let groups: Vec<String> = page.groups().map(to_group).collect();
        let at = groups[0].split_once(':').and_then(|(_, at)| at.parse().ok());
        let (_, start) = texts.pop().unwrap_or_default();
        Configured {
            files: texts.into_iter().map(|(name, text)| (name.to_owned(), text)).collect(),
            start,
            // With clients on one host, `source` gives everything to one member.
            attach: to_group(&attach).replace("--policy source", "--policy least-loaded"),
            server: at.unwrap_or_else(|| panic!("{groups:?} name no address")),
            groups,
            workers,
        }
    }
}

const fn workers(script: &'static str) -> Reload {
    Reload { script, replaces: Replaces::Workers }
}

const NGINX_EDITS: &[(&str, &str)] =
    &[("worker_processes 2", "worker_processes {n}"), ("127.0.0.1:8080", "{host}:8080")];
const NGINX_RELOAD: Reload = workers("kill -HUP \"$(cat nginx.pid)\"");
/// More, fewer, and as many as before.
const NGINX_WORKERS: &[usize] = &[8, 8, 3, 4];
/// The new master writes another file of the old one's name.
const NGINX_UPGRADE: Reload = Reload {
    script: "old=$(cat nginx.pid)
kill -USR2 $old
until [ -s nginx.pid.oldbin ] && [ -s nginx.pid ] && [ \"$(cat nginx.pid)\" != $old ]; do sleep 0.02; done
new=$(cat nginx.pid)
until [ -n \"$(cat /proc/$new/task/$new/children)\" ]; do sleep 0.02; done
kill -QUIT $old
while [ -e nginx.pid.oldbin ]; do sleep 0.02; done",
    replaces: Replaces::Master,
};
const HAPROXY_EDITS: &[(&str, &str)] = &[
    ("nbthread 2", "nbthread {n}"),
    ("127.0.0.1:8080", "{host}:8080"),
    // To know who answers.
    ("string \"hello\\n\"", "lf-string \"%pid\\n\""),
];
const HAPROXY_RELOAD: Reload = workers("kill -USR2 \"$(head -n 1 haproxy.pid)\"");

/// All of them.
pub const SERVERS: [Server; 12] = [
    Server {
        name: "nginx",
        recipe: "nginx",
        protocol: Protocol::Http,
        how: How::RollOut,
        reload: Some(NGINX_RELOAD),
        workers: NGINX_WORKERS,
        edits: NGINX_EDITS,
        pid_files: &["nginx.pid"],
        stop: "QUIT",
        clients: (16, 16),
    },
    Server {
        name: "nginx-reload",
        recipe: "nginx",
        protocol: Protocol::Http,
        how: How::Own(NGINX_RELOAD),
        reload: None,
        workers: NGINX_WORKERS,
        edits: NGINX_EDITS,
        pid_files: &["nginx.pid"],
        stop: "QUIT",
        clients: (16, 16),
    },
    Server {
        name: "nginx-upgrade",
        recipe: "nginx",
        protocol: Protocol::Http,
        how: How::Own(NGINX_UPGRADE),
        reload: None,
        workers: &[4],
        edits: &[
            ("worker_processes 2", "worker_processes {n}"),
            ("127.0.0.1:8080", "{host}:8080"),
            // It starts the new one by the name that it was started by.
            ("nginx -p", "\"$(command -v nginx)\" -p"),
        ],
        pid_files: &["nginx.pid"],
        stop: "QUIT",
        clients: (16, 16),
    },
    Server {
        name: "haproxy",
        recipe: "haproxy",
        protocol: Protocol::Http,
        how: How::RollOut,
        reload: Some(HAPROXY_RELOAD),
        workers: &[2, 4],
        edits: HAPROXY_EDITS,
        pid_files: &["haproxy.pid"],
        stop: "USR1",
        clients: (16, 16),
    },
    Server {
        name: "haproxy-reload",
        recipe: "haproxy",
        protocol: Protocol::Http,
        how: How::Own(HAPROXY_RELOAD),
        reload: None,
        workers: &[2],
        edits: HAPROXY_EDITS,
        pid_files: &["haproxy.pid"],
        stop: "USR1",
        clients: (16, 16),
    },
    Server {
        name: "granian",
        recipe: "granian",
        protocol: Protocol::Http,
        how: How::RollOut,
        reload: Some(workers("kill -HUP \"$(cat granian.pid)\"")),
        workers: &[2],
        edits: &[("--workers 2", "--workers {n}"), ("--port 8000", "--host {address} --port 8000")],
        pid_files: &["granian.pid"],
        stop: "TERM",
        clients: (8, 8),
    },
    Server {
        name: "gunicorn",
        recipe: "gunicorn",
        protocol: Protocol::Http,
        how: How::RollOut,
        reload: Some(workers("kill -HUP \"$(cat gunicorn.pid)\"")),
        workers: &[2],
        edits: &[("127.0.0.1:8000", "{host}:8000"), ("workers = 2", "workers = {n}")],
        pid_files: &["gunicorn.pid"],
        stop: "TERM",
        // A worker serves one client at a time, also one that does not send.
        clients: (0, 1),
    },
    Server {
        name: "node",
        recipe: "node",
        protocol: Protocol::Http,
        how: How::RollOut,
        reload: None,
        workers: &[2],
        edits: &[("host: '127.0.0.1'", "host: '{address}'"), ("n < 2", "n < {n}")],
        pid_files: &["node.pid"],
        stop: "TERM",
        clients: (8, 8),
    },
    Server {
        name: "hitch",
        recipe: "hitch",
        protocol: Protocol::Tls,
        how: How::RollOut,
        reload: Some(workers("kill -HUP \"$(cat hitch.pid)\"")),
        workers: &[2],
        edits: &[("[127.0.0.1]:8443", "[{address}]:8443"), ("workers = 2", "workers = {n}")],
        pid_files: &["hitch.pid"],
        stop: "TERM",
        clients: (0, 8),
    },
    Server {
        name: "pgbouncer",
        recipe: "pgbouncer",
        protocol: Protocol::Postgres,
        how: How::RollOut,
        reload: None,
        workers: &[2],
        edits: &[("listen_addr = 127.0.0.1", "listen_addr = {address}")],
        pid_files: &["pgbouncer-1.pid", "pgbouncer-2.pid"],
        stop: "INT",
        clients: (4, 4),
    },
    Server {
        name: "unbound",
        recipe: "unbound",
        protocol: Protocol::Dns,
        how: How::RollOut,
        reload: Some(Reload {
            script: "kill -HUP \"$(cat unbound.pid)\"",
            replaces: Replaces::Nothing,
        }),
        workers: &[2],
        edits: &[
            ("interface: 127.0.0.1", "interface: {address}"),
            ("num-threads: 2", "num-threads: {n}"),
        ],
        pid_files: &["unbound.pid"],
        stop: "TERM",
        // A thread has 10 TCP connections at most.
        clients: (2, 2),
    },
    Server {
        name: "knot",
        recipe: "knot",
        protocol: Protocol::Dns,
        how: How::RollOut,
        reload: Some(Reload { script: "knotc -c knot.conf reload", replaces: Replaces::Nothing }),
        workers: &[2],
        edits: &[
            ("listen: 127.0.0.1@5300", "listen: {address}@5300"),
            ("udp-workers: 2", "udp-workers: {n}"),
            ("tcp-workers: 2", "tcp-workers: {n}"),
        ],
        pid_files: &["knot.pid"],
        stop: "TERM",
        clients: (4, 4),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_is_configured_for_both_families() {
        for server in &SERVERS {
            for (family, host) in [(Family::V4, "127.0.0.1:"), (Family::V6, "[::1]:")] {
                let configured = server.configure(family, 0);
                let is_of =
                    |group: &String| group.contains(host) && configured.attach.contains(group);
                assert!(configured.groups.iter().all(is_of), "{configured:?}");
                assert!(configured.attach.ends_with("--watch"), "{configured:?}");
                assert_eq!(configured.server.is_ipv6(), family == Family::V6);
            }
        }
    }
}
