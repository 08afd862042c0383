//! gunicorn: a master and one worker share a listener. Several servers on one port (`--reuse-port`)
//! are a group in which each member belongs to another server.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use super::{Daemon, proc};

/// This file lets workers import the application.
const GATE: &str = "gate";

/// Answers with the pid of the master, but never answers [`Gunicorn::HOLD`].
const APPLICATION: &str = r#"
import os, signal, time

while not os.path.exists(os.environ["GATE"]):
    time.sleep(0.01)

def application(environ, start_response):
    while environ["PATH_INFO"] == "/hold":
        signal.pause()
    body = b"%d\n" % os.getppid()
    head = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response("200 OK", head)
    return [body]
"#;

/// A gunicorn with one worker, which serves one request at a time and answers with a line that has
/// the pid of the master.
#[derive(Debug)]
pub struct Gunicorn {
    daemon: Daemon,
    port: u16,
}

impl Gunicorn {
    /// The path of a request that is never answered and keeps the worker busy.
    pub const HOLD: &'static str = "/hold";

    /// Starts gunicorn on a port that others may use already.
    ///
    /// # Panics
    ///
    /// If its worker does not run within [`crate::wait::BOUND`].
    #[track_caller]
    pub fn start_on(port: u16) -> Self {
        let server = Self::start_importing(port, "sync");
        server.imports();
        server
    }

    /// The same with workers of this class, which import their application until it [may be imported](Self::imports).
    ///
    /// # Panics
    ///
    /// As [`start_on`](Self::start_on).
    #[track_caller]
    pub fn start_importing(port: u16, class: &str) -> Self {
        let mut daemon = Daemon::spawn("gunicorn", |directory| {
            let file = directory.join("application.py");
            fs::write(&file, APPLICATION).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            let mut command = Command::new(crate::program("gunicorn"));
            command.args(["--reuse-port", "--workers", "1", "--log-level", "warning"]);
            command.arg("--bind").arg(format!("127.0.0.1:{port}"));
            command.arg("--worker-tmp-dir").arg(directory);
            command.arg("--chdir").arg(directory).arg("application");
            command.args(["--worker-class", class]);
            command.env("PYTHONDONTWRITEBYTECODE", "1");
            command.env("GATE", directory.join(GATE));
            command
        });
        let pid = daemon.pid();
        // It listens before it forks the worker.
        daemon.wait_until("a worker", || !proc::children(pid).is_empty());
        Self { daemon, port }
    }

    /// Lets workers import the application.
    ///
    /// # Panics
    ///
    /// If the file for it cannot be written.
    #[track_caller]
    pub fn imports(&self) {
        let gate = self.daemon.directory().join(GATE);
        fs::write(&gate, "").unwrap_or_else(|e| panic!("{}: {e}", gate.display()));
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The process id of the master.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Kills master and worker (SIGKILL), which closes the listener.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[track_caller]
    pub fn kill(mut self) {
        self.daemon.kill();
    }
}
