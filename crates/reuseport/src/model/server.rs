//! Servers that are recognised by what they run as, and how each of them binds one socket per worker.

use super::runs::file_name;

pub use super::runs::{Runs, is_interpreter};

/// A server, and how it binds a socket for each of its workers.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Server {
    /// Its name.
    pub name: &'static str,
    /// What to write or to do for it, such as "`listen ... reuseport`".
    pub directive: &'static str,
}

/// By the names of their programs.
const SERVERS: [(&[&str], Server); 24] = [
    (
        &["nginx", "openresty", "angie"],
        of("nginx", "`listen ... reuseport` and `worker_processes` above 1"),
    ),
    (&["haproxy"], of("HAProxy", "`bind ... shards by-thread`")),
    (&["envoy"], of("Envoy", "`enable_reuse_port: true` in the listener")),
    (&["traefik"], of("Traefik", "`reusePort: true` in the entry point, and several processes")),
    (&["httpd", "apache2"], of("Apache", "`ListenCoresBucketsRatio` of at least 1")),
    (&["h2o"], of("H2O", "`tcp-reuseport: ON`")),
    (&["hitch"], of("hitch", "`workers` above 1")),
    (&["squid"], of("Squid", "`worker-queues` in `http_port`")),
    (&["unbound"], of("unbound", "`so-reuseport: yes` and `num-threads` above 1")),
    (&["named"], of("BIND", "`reuseport yes`")),
    (&["knotd"], of("Knot DNS", "`tcp-reuseport: on`, and several UDP workers")),
    (&["pdns_server"], of("PowerDNS", "`reuseport=yes` and `receiver-threads` above 1")),
    (
        &["pdns_recursor"],
        of("PowerDNS Recursor", "`reuseport=yes` and `pdns-distributes-queries=no`"),
    ),
    (&["dnsdist"], of("dnsdist", "several `addLocal` of one address with `reusePort=true`")),
    (&["coredns"], of("CoreDNS", "the plugin `multisocket`")),
    (&["pgbouncer"], of("PgBouncer", "`so_reuseport = 1`, and several processes")),
    (
        &["gunicorn"],
        of(
            "gunicorn",
            "`reuse_port` from gunicorn 24 on; workers of earlier ones share a socket: start one gunicorn per worker, each with `--workers 1 --reuse-port`",
        ),
    ),
    (&["granian"], of("Granian", "versions from 2025 on bind one per worker")),
    (
        &["uvicorn"],
        of(
            "uvicorn",
            "its workers share a socket: start one uvicorn per worker, each with `--fd` of a socket that was bound with SO_REUSEPORT",
        ),
    ),
    (
        &["hypercorn"],
        of(
            "Hypercorn",
            "its workers share a socket: start one hypercorn per worker, each with `--bind fd://N` of a socket that was bound with SO_REUSEPORT",
        ),
    ),
    (
        &["daphne"],
        of(
            "Daphne",
            "start one daphne per worker, each with `--fd` of a socket that was bound with SO_REUSEPORT",
        ),
    ),
    (&["node", "nodejs"], of("Node", "`listen({ port, reusePort: true })` in each worker")),
    (&["deno"], of("Deno", "`reusePort: true` in each process")),
    (&["bun"], of("Bun", "`reusePort: true` in each process")),
];

const fn of(name: &'static str, directive: &'static str) -> Server {
    Server { name, directive }
}

/// The server that a process with this name (`comm`) and these arguments is, if it is known: by its name, by what an
/// interpreter runs, or by its program.
pub(crate) fn recognise<'a>(
    comm: &'a str,
    arguments: impl IntoIterator<Item = &'a str, IntoIter: Clone>,
) -> Option<&'static Server> {
    // A process may name itself `gunicorn: master`, or `nginx: worker process`.
    let title = |text: &'a str| text.split([':', ' ']).next();
    let arguments = arguments.into_iter();
    let runs = Runs::of(arguments.clone()).map(name_of);
    let program = arguments.clone().next().and_then(title).map(file_name);
    [title(comm), runs, program].into_iter().flatten().find_map(|name| {
        let (_, server) = SERVERS.iter().find(|(names, _)| names.contains(&name))?;
        Some(server)
    })
}

/// The name by which a server is known: that of the file, or of the directory in `.../uvicorn/__main__.py`, or of the
/// module's package.
fn name_of(runs: Runs<'_>) -> &str {
    match runs {
        Runs::Program(name) => name,
        Runs::Script(path) => file_name(path.strip_suffix("/__main__.py").unwrap_or(path)),
        Runs::Module(name) => name.split('.').next().unwrap_or(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(comm: &str, arguments: &[&str]) -> Option<&'static str> {
        recognise(comm, arguments.iter().copied()).map(|server| server.name)
    }

    #[test]
    fn servers_are_recognised_by_their_name_or_by_what_an_interpreter_runs() {
        assert_eq!(name("nginx", &[]), Some("nginx"));
        assert_eq!(name("gunicorn: maste", &[]), Some("gunicorn"));
        assert_eq!(name("python3", &["python3", "-m", "uvicorn", "app:app"]), Some("uvicorn"));
        let main = "/usr/lib/python3/dist-packages/hypercorn/__main__.py";
        assert_eq!(name("python3", &["/usr/bin/python3", main, "app"]), Some("Hypercorn"));
        let script = ["/usr/bin/python3", "/usr/bin/gunicorn", "--workers", "4"];
        assert_eq!(name("python3", &script), Some("gunicorn"));
        assert_eq!(name("MainThread", &["node", "server.js"]), Some("Node"));
        assert_eq!(name("x", &["nginx: worker process"]), Some("nginx"));
    }

    #[test]
    fn others_are_not() {
        assert_eq!(name("python3", &["python3", "nginx.conf"]), None);
        assert_eq!(name("nginx-exporter", &["/opt/nginx/exporter"]), None);
        assert_eq!(name("python3", &["python3", "a.py", "nginx"]), None);
        assert_eq!(name("myproxy", &["/usr/bin/myproxy", "--config", "/etc/nginx"]), None);
        assert_eq!(name("myproxy", &["/usr/bin/myproxy", "nginx"]), None);
        assert_eq!(name("", &[]), None);
    }

    #[test]
    fn each_name_stands_for_one_server() {
        let mut names: Vec<&str> =
            SERVERS.iter().flat_map(|(names, _)| names.iter().copied()).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|two| two[0] != two[1]), "{names:?}");
    }
}
