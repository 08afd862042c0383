//! What a process runs, by a name that people know it by: the script or module of an interpreter.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use reuseport::server::{Runs, is_interpreter};

/// Names of threads, as some interpreters call their first one.
const THREADS: [&str; 2] = ["MainThread", "node-MainThread"];

/// The most columns of a name.
const LONGEST: usize = 24;

/// The most bytes of a command line that are read.
const READ: u64 = 4096;

/// What processes run, each looked up once, however many sockets it holds.
#[derive(Debug, Default)]
pub(crate) struct Names(RefCell<HashMap<u32, String>>);

impl Names {
    /// What the process with this name runs: its script or module where the name is that of an interpreter, else
    /// the name. /proc is read only if there is need.
    pub(crate) fn of(&self, pid: u32, comm: &str) -> String {
        if !says_little(comm) {
            return comm.to_owned();
        }
        self.0.borrow_mut().entry(pid).or_insert_with(|| look_up(pid, comm)).clone()
    }
}

fn look_up(pid: u32, comm: &str) -> String {
    let unknown = || comm.to_owned();
    let Ok(line) = command_line(pid) else { return unknown() };
    let line = String::from_utf8_lossy(&line);
    runs(line.split('\0')).map_or_else(unknown, |name| name.chars().take(LONGEST).collect())
}

fn command_line(pid: u32) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    File::open(format!("/proc/{pid}/cmdline"))?.take(READ).read_to_end(&mut line)?;
    Ok(line)
}

fn says_little(comm: &str) -> bool {
    THREADS.contains(&comm) || is_interpreter(comm)
}

/// The name of what a command line runs; None if it does not tell.
fn runs<'a>(words: impl IntoIterator<Item = &'a str>) -> Option<String> {
    Some(match Runs::of(words)? {
        Runs::Program(name) => name.to_owned(),
        Runs::Script(path) => script_name(path),
        Runs::Module(name) => last_part(name),
        _ => return None,
    })
}

/// A module by its whole name, `http.server`; a class without its package, `Kafka`.
fn last_part(name: &str) -> String {
    let class = name.rsplit('.').next().filter(|last| last.starts_with(char::is_uppercase));
    class.unwrap_or(name).to_owned()
}

/// The file's name, with its directory where many have the same.
fn script_name(path: &str) -> String {
    const COMMON: [&str; 3] = ["__main__.py", "index.js", "index.mjs"];

    let name = base(path);
    let directory = Path::new(path).parent().and_then(Path::file_name).and_then(|d| d.to_str());
    match directory.filter(|_| COMMON.contains(&name)) {
        Some(directory) => format!("{directory}/{name}"),
        None => name.to_owned(),
    }
}

fn base(path: &str) -> &str {
    Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Option<String> {
        runs(line.split(' '))
    }

    #[test]
    fn an_interpreter_is_named_by_what_it_runs() {
        for (line, expected) in [
            ("/usr/bin/python3 /usr/bin/gunicorn app:app -w 4", "gunicorn"),
            ("python3 -u -W ignore app.py --port 80", "app.py"),
            ("python3.11 -m uvicorn main:app", "uvicorn"),
            ("python3 -m http.server 8000", "http.server"),
            ("node --max-old-space-size=512 -r dotenv/config /srv/shop/index.js", "shop/index.js"),
            ("node /srv/shop/api.js", "api.js"),
            ("java -Xmx1g -cp a.jar:b.jar org.apache.kafka.Kafka server.properties", "Kafka"),
            ("java -jar /opt/app/app-1.2.jar", "app-1.2.jar"),
            ("ruby bin/puma", "puma"),
            ("bun run server.ts", "server.ts"),
            ("/opt/firefox/firefox -P", "firefox"),
        ] {
            assert_eq!(of(line).as_deref(), Some(expected), "{line}");
        }
        assert_eq!(runs(["gunicorn: worker [app]"]).as_deref(), Some("gunicorn"));
        for line in ["python3 -c import_x", "python3", "node -e 1", "bash -c x", "python3 -"] {
            assert_eq!(of(line), None, "{line}");
        }
        assert_eq!(runs([]), None);
    }

    #[test]
    fn other_names_are_kept_and_need_no_look() {
        for comm in ["nginx", "haproxy", "pythonista", "nodered", "shop", ""] {
            assert!(!says_little(comm), "{comm}");
        }
        for comm in ["MainThread", "python3", "python3.11", "node", "java", "node-MainThread"] {
            assert!(says_little(comm), "{comm}");
        }
        let names = Names::default();
        assert_eq!(names.of(std::process::id(), "nginx"), "nginx");
        // No process has this number: it has ended.
        assert_eq!(names.of(u32::MAX, "python3"), "python3");
        assert!(!names.of(std::process::id(), "MainThread").starts_with("Main"));
        names.of(std::process::id(), "MainThread");
        assert_eq!(names.0.borrow().len(), 2, "each process once, and none without need");
    }
}
