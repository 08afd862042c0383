//! Servers that are recognised by what they run as, and how each of them binds one socket per worker.

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
const SERVERS: [(&[&str], Server); 23] = [
    (
        &["nginx", "openresty", "angie"],
        of("nginx", "`listen ... reuseport` and `worker_processes` above 1"),
    ),
    (&["haproxy"], of("HAProxy", "`bind ... shards by-thread`")),
    (&["envoy"], of("Envoy", "`enable_reuse_port: true` in the listener")),
    (&["traefik"], of("Traefik", "`reusePort: true` in the entry point, and several processes")),
    (&["httpd", "apache2"], of("Apache", "`ListenCoresBucketsRatio` of at least 1")),
    (&["h2o"], of("H2O", "`tcp-reuseport: ON`")),
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

/// As many arguments tell what an interpreter runs.
const ARGUMENTS: usize = 6;

/// The server that a process with this name (`comm`) and these arguments is, if it is known.
pub(crate) fn recognise<'a>(
    comm: &'a str,
    arguments: impl IntoIterator<Item = &'a str>,
) -> Option<&'static Server> {
    // A process may name itself `gunicorn: master`, or `nginx: worker process`.
    let title = comm.split([':', ' ']).next();
    let names = arguments.into_iter().take(ARGUMENTS).flat_map(names_in);
    title.into_iter().chain(names).find_map(|name| {
        let (_, server) = SERVERS.iter().find(|(names, _)| names.contains(&name))?;
        Some(server)
    })
}

/// The names that an argument may stand for: a word, the file of a path, and the directory in
/// `.../uvicorn/__main__.py`.
fn names_in(argument: &str) -> impl Iterator<Item = &str> {
    let first = argument.split([' ', ':']).next().unwrap_or_default();
    first.strip_suffix("/__main__.py").unwrap_or(first).rsplit('/').take(1)
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
        let far = ["python3", "a.py", "1", "2", "3", "4", "nginx"];
        assert_eq!(name("python3", &far), None);
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
