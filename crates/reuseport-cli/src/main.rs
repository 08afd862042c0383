//! `reuseport`: see and steer the groups of SO_REUSEPORT sockets on a host.
//!
//! This crate is the command: its verbs, what it prints and its exit codes. What it does to sockets
//! is done by the library of the same name, behind [`backend`].

mod args;
mod backend;
mod cli;
mod demo;
mod netns;
mod output;
mod policy;
mod select;
mod verb;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory as _, Parser as _};
use reuseport::ErrorKind;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The answer is no.
const NO: u8 = 1;
/// Wrong usage, or a failure. clap exits with the same number.
const FAILURE: u8 = 2;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match start_logs().and_then(|()| cli.verb.run(cli::Cli::command())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is gone too, the exit code has to do.
            let _ = writeln!(io::stderr(), "reuseport: {}", output::safe(&one_line(&error)));
            ExitCode::from(code(&error))
        }
    }
}

/// Logs go to standard error, at the level that REUSEPORT_LOG says.
fn start_logs() -> Result<()> {
    const VARIABLE: &str = "REUSEPORT_LOG";
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .parse(std::env::var(VARIABLE).unwrap_or_default())
        .with_context(|| format!("cannot make sense of {VARIABLE}; give a level, such as debug"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .without_time()
        .init();
    Ok(())
}

/// Whether our reader left (`reuseport ls | head -1`): its good right, and no error. Only a write of
/// ours fails with a bare I/O error; one from the library is wrapped in what was tried.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// The answer is no, in so many words.
#[derive(Debug)]
pub(crate) struct No(pub(crate) String);

impl std::fmt::Display for No {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for No {}

fn code(error: &anyhow::Error) -> u8 {
    if error.is::<No>() {
        return NO;
    }
    match error.downcast_ref::<reuseport::Error>().map(reuseport::Error::kind) {
        Some(ErrorKind::NotFound | ErrorKind::NotAttached) => NO,
        _ => FAILURE,
    }
}

/// An error and its causes in one line. The library's errors name their causes themselves.
fn one_line(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        parts.push(cause.to_string());
        if cause.is::<reuseport::Error>() {
            break;
        }
    }
    let lines = parts.join(": ");
    lines.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        cli::Cli::command().debug_assert();
    }

    #[test]
    fn an_error_is_one_line_with_its_causes() {
        let error = anyhow::anyhow!("the kernel\n  said no\n").context("cannot do it");
        assert_eq!(one_line(&error), "cannot do it: the kernel | said no");
        assert_eq!(code(&error), FAILURE);
    }

    #[test]
    fn only_our_own_broken_pipe_is_forgiven() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&broken().into()));
        assert!(!is_broken_pipe(&io::Error::from(io::ErrorKind::StorageFull).into()));
    }
}
