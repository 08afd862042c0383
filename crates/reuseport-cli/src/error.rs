//! How a verb's failure becomes a message and an exit code.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use anyhow::Result;
use reuseport::{ErrorKind, Report};

use crate::output::{self, safe};

/// Nothing to do: no such group, nothing attached.
const NOTHING: u8 = 1;
/// Wrong usage, or a failure. clap exits with the same number.
const FAILURE: u8 = 2;
/// Done, but not as wished.
const DEGRADED: u8 = 3;

/// A failure that the command itself found, with a hint.
#[derive(Debug, thiserror::Error)]
#[error("{failed}")]
pub(crate) struct Failure {
    failed: String,
    hint: String,
    code: u8,
}

impl Failure {
    /// A request that cannot be met.
    pub(crate) fn new(failed: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { failed: failed.into(), hint: hint.into(), code: FAILURE }
    }

    /// Done, but not as wished.
    pub(crate) fn degraded(failed: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: DEGRADED, ..Self::new(failed, hint) }
    }

    /// Done, but not as wished, of which the output has all there is to say.
    pub(crate) fn findings() -> Self {
        Self::degraded("", "")
    }

    /// With the exit code that another process gives.
    pub(crate) fn coded(code: u8, failed: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, ..Self::new(failed, hint) }
    }

    /// Nothing to do.
    pub(crate) fn nothing(failed: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: NOTHING, ..Self::new(failed, hint) }
    }
}

/// The kind of an error of the library.
pub(crate) fn kind(error: &anyhow::Error) -> Option<ErrorKind> {
    error.downcast_ref::<reuseport::Error>().map(reuseport::Error::kind)
}

/// The exit code for a failure.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.code;
    }
    match kind(error) {
        Some(ErrorKind::NotFound | ErrorKind::NotAttached | ErrorKind::NoGeneration) => NOTHING,
        Some(ErrorKind::Superseded) => DEGRADED,
        _ => FAILURE,
    }
}

/// Whether there was nothing to do.
pub(crate) fn is_nothing(error: &anyhow::Error) -> bool {
    code(error) == NOTHING
}

/// Failures of groups, each by itself: each is printed, and the most serious one is that of the command, the first of
/// several alike.
#[derive(Default)]
pub(crate) struct Failures(Option<anyhow::Error>);

impl Failures {
    pub(crate) fn note(&mut self, result: Result<()>) {
        let Err(mut error) = result else { return };
        let Some(worst) = &mut self.0 else {
            self.0 = Some(error);
            return;
        };
        if severity(&error) > severity(worst) {
            std::mem::swap(worst, &mut error);
        }
        if !is_broken_pipe(&error) {
            // If standard error is closed, the exit code has to suffice.
            let _ = io::stderr().write_all(message_for_people(&error).as_bytes());
        }
    }

    /// The most serious failure, which is not printed yet.
    pub(crate) fn worst(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// How serious a failure is, among those of several groups: a failure before what is not as wished, and that before
/// nothing to do.
fn severity(error: &anyhow::Error) -> u8 {
    match code(error) {
        _ if is_broken_pipe(error) => 0,
        NOTHING => 1,
        DEGRADED => 2,
        _ => 3,
    }
}

/// The message: one line with the failure and its causes, and a second one with a hint, if there is
/// any.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let report = Report::new(error.as_ref());
    let own = error.downcast_ref::<Failure>().map(|failure| failure.hint.clone());
    lines("", &report.causes(), own.or_else(|| report.hint()).as_deref())
}

/// The same, wrapped for the terminal that standard error may be.
pub(crate) fn message_for_people(error: &anyhow::Error) -> String {
    if error.downcast_ref::<Failure>().is_some_and(|failure| failure.failed.is_empty()) {
        return String::new();
    }
    output::wrapped(&message(error), output::width_of_stderr())
}

/// A warning, in the same form.
pub(crate) fn warning(text: &str, hint: Option<&str>) -> String {
    lines("warning: ", text, hint)
}

fn lines(kind: &str, text: &str, hint: Option<&str>) -> String {
    let mut lines = format!("reuseport: {kind}{}\n", safe(&one_line(text)));
    // A hint may list what to choose from, one on a line.
    for (at, line) in hint.into_iter().flat_map(str::lines).enumerate() {
        let label = if at == 0 { "hint: " } else { "" };
        let _ = writeln!(lines, "{label}{}", safe(line));
    }
    lines
}

/// Whether the reader of the output has exited (`reuseport ls | head -1`), which is no failure.
/// Only the command's own writes fail with a bare I/O error; the library wraps its errors.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_with_its_causes() {
        let error = anyhow::anyhow!("the kernel\n  said no\n").context("cannot do it");
        assert_eq!(message(&error), "reuseport: cannot do it: the kernel | said no\n");
        assert_eq!(code(&error), FAILURE);
    }

    #[test]
    fn a_hint_is_a_line_of_its_own() {
        let error = "3-1".parse::<reuseport::CpuList>().unwrap_err();
        assert_eq!(
            message(&error.into()),
            "reuseport: `3-1` is not a list of CPUs\n\
             hint: give numbers and ranges, such as 0-3,8\n"
        );
    }

    #[test]
    fn a_failure_of_the_command_has_its_hint_and_its_code() {
        let error = Failure::new("cannot do it", "do the other").into();
        assert_eq!(message(&error), "reuseport: cannot do it\nhint: do the other\n");
        assert_eq!(code(&error), FAILURE);
        assert_eq!(code(&Failure::nothing("no such thing", "look").into()), NOTHING);
        assert_eq!(code(&Failure::degraded("not as wished", "look").into()), DEGRADED);
    }

    #[test]
    fn of_several_failures_the_most_serious_decides() {
        let degraded = || Failure::degraded("half", "look").into();
        let nothing = || Failure::nothing("none", "look").into();
        let failed = || Failure::new("failed", "look").into();
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe).into();
        let worst = |errors: Vec<anyhow::Error>| {
            let mut failures = Failures::default();
            errors.into_iter().for_each(|error| failures.note(Err(error)));
            failures.note(Ok(()));
            code(&failures.worst().unwrap_err())
        };
        assert_eq!(worst(vec![failed(), nothing(), degraded()]), FAILURE);
        assert_eq!(worst(vec![nothing(), degraded(), nothing()]), DEGRADED);
        assert_eq!(worst(vec![nothing(), degraded(), failed()]), FAILURE);
        assert_eq!(worst(vec![broken(), nothing()]), NOTHING);
        assert!(Failures::default().worst().is_ok());
    }

    #[test]
    fn a_warning_has_its_hint_on_a_line_of_its_own_too() {
        assert_eq!(
            warning("not counted", Some("grant it")),
            "reuseport: warning: not counted\nhint: grant it\n"
        );
        assert_eq!(warning("not counted", None), "reuseport: warning: not counted\n");
    }

    #[test]
    fn only_a_broken_pipe_of_the_output_is_forgiven() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&broken().into()));
        assert!(!is_broken_pipe(&io::Error::from(io::ErrorKind::StorageFull).into()));
    }
}
