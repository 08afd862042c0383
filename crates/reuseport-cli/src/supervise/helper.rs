//! What this binary does on behalf of a supervisor in processes of its own: it becomes a worker, or writes what one
//! prints.

use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

/// The first argument, which no user gives.
pub(super) const WORKER: &str = "__worker";
pub(super) const PREFIX: &str = "__prefix";

/// The longest line that is written in one piece.
const LONGEST_LINE: u64 = 1 << 16;

/// Runs as such a process, if the arguments say so.
pub(crate) fn run(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let first = arguments.nth(1)?;
    if first == WORKER {
        Some(become_worker(arguments))
    } else if first == PREFIX {
        Some(write_lines(&arguments.next().unwrap_or_default().to_string_lossy()))
    } else {
        None
    }
}

/// Becomes the command. LISTEN_PID has to be the pid of the process that reads it, and that is known here alone.
fn become_worker(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    /// As shells have it.
    const NOT_FOUND: u8 = 127;

    let Some(program) = arguments.next() else { return ExitCode::from(NOT_FOUND) };
    let mut command = Command::new(&program);
    command.args(arguments);
    if env::var_os("LISTEN_FDS").is_some() {
        command.env("LISTEN_PID", std::process::id().to_string());
    }
    let error = command.exec();
    let text = format!("reuseport: cannot run `{}`: {error}\n", program.to_string_lossy());
    // If standard error is closed, the exit code has to suffice.
    let _ = io::stderr().write_all(text.as_bytes());
    ExitCode::from(NOT_FOUND)
}

/// Writes each line of standard input to standard output after the label. It lives as long as its worker, and longer
/// than the supervisor, so that the worker's pipe does not break. What cannot be written is dropped and counted.
fn write_lines(label: &str) -> ExitCode {
    let mut input = BufReader::new(io::stdin());
    let mut dropped = 0_u64;
    let mut line = Vec::new();
    loop {
        line.clear();
        line.extend_from_slice(label.as_bytes());
        line.extend_from_slice(b" | ");
        match input.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        }
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        let mut text = Vec::new();
        if dropped > 0 {
            text = format!("{label} | [{dropped} lines could not be written]\n").into_bytes();
        }
        text.extend_from_slice(&line);
        let mut output = io::stdout().lock();
        match output.write_all(&text).and_then(|()| output.flush()) {
            Ok(()) => dropped = 0,
            Err(_) => dropped += 1,
        }
    }
    ExitCode::SUCCESS
}
