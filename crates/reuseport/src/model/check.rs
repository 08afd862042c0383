//! The results of checks of the host: plain data.

use super::finding::Severity;
use crate::error::{Error, ErrorKind};

/// What was checked, and the result.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Check {
    /// Its name, one of [`CHECKS`](crate::finding::CHECKS).
    pub name: &'static str,
    /// The result.
    pub outcome: Outcome,
    /// What was seen, and why if it is not fine.
    pub seen: String,
    /// What it is for, and what is lost without it.
    pub about: &'static str,
    /// What mends it.
    pub mend: String,
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// There is nothing to say.
    Fine,
    /// It is not as it could be.
    Found(Severity),
    /// It could not be looked at.
    Unseen,
}

impl Check {
    pub(crate) fn fine(name: &'static str, about: &'static str, seen: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Fine, seen: seen.into(), about, mend: String::new() }
    }

    pub(crate) fn found(
        self,
        severity: Severity,
        seen: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        let (outcome, seen) = (Outcome::Found(severity), seen.into());
        Self { outcome, seen, mend: mend.into(), ..self }
    }

    pub(crate) fn unseen(self, why: impl Into<String>) -> Self {
        Self { outcome: Outcome::Unseen, seen: why.into(), ..self }
    }

    /// What a failure means: the kernel refuses the caller, or does not have it.
    pub(crate) fn failed(self, severity: Severity, error: &Error, mend: &str) -> Self {
        match error.kind() {
            // What is to be granted says why.
            ErrorKind::Denied => {
                let report = error.report();
                self.unseen(report.hint().unwrap_or_else(|| report.causes()))
            }
            _ => {
                let seen = error.report().causes();
                self.found(severity, seen, mend)
            }
        }
    }
}
