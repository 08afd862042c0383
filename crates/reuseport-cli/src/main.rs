//! `reuseport`: see and steer the groups of SO_REUSEPORT sockets on a host.
//!
//! This crate is the command: verbs, output and exit codes. The library of the same name does the
//! work on sockets, behind [`backend`].

mod args;
mod backend;
mod cli;
mod config;
mod demo;
mod drained;
mod error;
mod metrics;
mod netns;
mod notify;
mod output;
mod policy;
mod process;
mod select;
mod silence;
mod supervise;
mod tell;
mod verb;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, Parser as _};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use error::Failure;
use tell::Priority;

fn main() -> ExitCode {
    if let Some(code) = supervise::helper(std::env::args_os()) {
        return code;
    }
    let cli = cli::Cli::parse_from(args::with_values(std::env::args_os()));
    match start_logs().and_then(|()| cli.verb.run(cli::Cli::command())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is closed too, the exit code has to suffice.
            let _ = io::stderr().write_all(error::message_for_people(&error).as_bytes());
            ExitCode::from(error::code(&error))
        }
    }
}

/// Logs go to standard error, at the level in REUSEPORT_LOG.
fn start_logs() -> Result<()> {
    const VARIABLE: &str = "REUSEPORT_LOG";
    let value = std::env::var(VARIABLE).unwrap_or_default();
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into());
    let filter = filter.parse(&value).map_err(|_| {
        Failure::new(
            format!("cannot parse {VARIABLE}: `{value}` is no log level"),
            "give error, warn, info, debug or trace; or by module, as in reuseport=debug",
        )
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .event_format(Format)
        .init();
    Ok(())
}

/// Prints warnings like the command's other messages; other levels name the module.
struct Format;

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        match *metadata.level() {
            Level::ERROR | Level::WARN => {
                let mut warning = Warning::default();
                event.record(&mut warning);
                let text = error::warning(&warning.message, warning.hint.as_deref());
                write!(writer, "{}", tell::for_stderr(Priority::Warning, &text))
            }
            level => {
                write!(writer, "{level} {}: ", metadata.target())?;
                context.format_fields(writer.by_ref(), event)?;
                writeln!(writer)
            }
        }
    }
}

/// What a warning says, and its hint.
#[derive(Default)]
struct Warning {
    message: String,
    hint: Option<String>,
}

impl Visit for Warning {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "hint" => self.hint = Some(value.to_owned()),
            _ => self.record_debug(field, &format_args!("{value}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
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
