//! `reuseport`: see and steer the groups of SO_REUSEPORT sockets on a host.
//!
//! This crate is the command: verbs, output and exit codes. The library of the same name does the
//! work on sockets, behind [`backend`].

mod args;
mod backend;
mod cli;
mod demo;
mod error;
mod netns;
mod output;
mod policy;
mod select;
mod verb;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory as _, Parser as _};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match start_logs().and_then(|()| cli.verb.run(cli::Cli::command())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is closed too, the exit code has to suffice.
            let _ = io::stderr().write_all(error::message(&error).as_bytes());
            ExitCode::from(error::code(&error))
        }
    }
}

/// Logs go to standard error, at the level in REUSEPORT_LOG.
fn start_logs() -> Result<()> {
    const VARIABLE: &str = "REUSEPORT_LOG";
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .parse(std::env::var(VARIABLE).unwrap_or_default())
        .with_context(|| format!("cannot parse {VARIABLE}; give a level, such as debug"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .without_time()
        .init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        cli::Cli::command().debug_assert();
    }
}
