//! What `doctor` found about the host: the JSON contract, and the text for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use reuseport::checks::{Check, Outcome, Right};
use reuseport::finding::Severity;
use serde::Serialize;

use super::Reader;
use super::foreign::safe;
use super::note::paragraph;
use super::table::{BOLD, DIM, NOTE, PLAIN};

/// What the host allows.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct HostView {
    pub(super) checks: Vec<CheckView>,
    pub(super) rights: Vec<RightView>,
    pub(super) settings: BTreeMap<&'static str, Option<String>>,
    /// The names of checks that were not to be told.
    pub(super) silenced: Vec<&'static str>,
}

/// A check, with what mends it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CheckView {
    pub(super) check: &'static str,
    /// `fine`, `problem`, `advice` or `unseen`.
    pub(super) outcome: &'static str,
    /// What was seen.
    pub(super) text: String,
    /// What it is for, and what is lost without it.
    pub(super) about: &'static str,
    pub(super) mend: String,
    pub(super) page: String,
}

/// What verbs do, and what the caller lacks for it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RightView {
    pub(super) what: String,
    pub(super) needs: Vec<&'static str>,
    pub(super) missing: Vec<&'static str>,
}

/// What does instead of CAP_DAC_OVERRIDE.
const OWNS: &str = " (or to own the state's directory)";

const FINE: &str = "fine";
const UNSEEN: &str = "unseen";

impl HostView {
    /// Of all checks, without findings that are not to be told.
    pub(crate) fn new(
        checks: Vec<Check>,
        rights: &[Right],
        settings: Vec<(&'static str, Option<String>)>,
        is_silenced: impl Fn(&str) -> bool,
    ) -> Self {
        let (silenced, told): (Vec<_>, Vec<_>) = checks
            .into_iter()
            .partition(|check| check.outcome != Outcome::Fine && is_silenced(check.name));
        let right = |right: &Right| RightView {
            what: right.what.replace('`', ""),
            needs: right.needs.clone(),
            missing: right.missing.clone(),
        };
        Self {
            checks: told.into_iter().map(CheckView::new).collect(),
            rights: rights.iter().map(right).collect(),
            settings: settings.into_iter().collect(),
            silenced: silenced.into_iter().map(|check| check.name).collect(),
        }
    }

    pub(super) fn count(&self, severity: Severity) -> usize {
        self.of(severity.name()).count()
    }

    pub(super) fn unseen(&self) -> usize {
        self.of(UNSEEN).count()
    }

    fn of<'a>(&'a self, outcome: &'a str) -> impl Iterator<Item = &'a CheckView> {
        self.checks.iter().filter(move |check| check.outcome == outcome)
    }
}

impl CheckView {
    fn new(check: Check) -> Self {
        Self {
            check: check.name,
            outcome: match check.outcome {
                Outcome::Fine => FINE,
                Outcome::Found(severity) => severity.name(),
                _ => UNSEEN,
            },
            text: check.seen,
            about: check.about,
            mend: check.mend,
            page: format!("docs/findings.md#{}", check.name),
        }
    }
}

/// The host, for people: what was found comes first.
pub(super) fn text(host: &HostView, reader: &Reader) -> String {
    let mut out = format!("{BOLD}host{BOLD:#}\n");
    for severity in [Severity::Problem, Severity::Advice] {
        let style = if severity == Severity::Problem { NOTE } else { PLAIN };
        for found in host.of(severity.name()) {
            let _ = writeln!(out, "  {style}{}{style:#} {}", severity.name(), found.check);
            out += &paragraph("    ", &format!("{}; {}", found.text, found.about), reader.width);
            out += &paragraph(&format!("    {DIM}mend:{DIM:#} "), &found.mend, reader.width);
        }
    }
    // One reason, such as a missing capability, often keeps several from being seen.
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for CheckView { check, text, .. } in host.of(UNSEEN) {
        match reasons.iter_mut().find(|(why, _)| why == text) {
            Some((_, checks)) => checks.push(check),
            None => reasons.push((text, vec![check])),
        }
    }
    for (why, checks) in reasons {
        let text = format!("{}: {why}", checks.join(", "));
        out += &paragraph("  not seen: ", &text, reader.width);
    }
    let fine: Vec<&str> = host.of(FINE).map(|check| check.check).collect();
    if !fine.is_empty() {
        out += &paragraph(&format!("  {DIM}fine:{DIM:#} "), &fine.join(", "), reader.width);
    }
    let value = |(name, value): (&&str, &Option<String>)| {
        format!("{name} {}", value.as_deref().map_or_else(|| "-".to_owned(), safe))
    };
    let mut settings: Vec<String> = host.settings.iter().map(value).collect();
    settings.extend(host.of(FINE).filter(|c| c.check == "directory").map(|c| safe(&c.text)));
    out += &paragraph(&format!("  {DIM}seen:{DIM:#} "), &settings.join("; "), reader.width);
    let lacking = || host.rights.iter().filter(|right| !right.missing.is_empty());
    if lacking().next().is_none() {
        out += &paragraph(&format!("  {DIM}rights:{DIM:#} "), "all", reader.width);
    }
    for right in lacking() {
        let owns = if right.missing.contains(&"CAP_DAC_OVERRIDE") { OWNS } else { "" };
        let text = format!("{}: takes {}{owns}", right.what, right.missing.join(", "));
        out += &paragraph("  not allowed: ", &text, reader.width);
    }
    out
}
