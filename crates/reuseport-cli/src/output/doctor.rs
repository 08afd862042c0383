//! What `doctor` found: the JSON contract, and the text for people.

use std::fmt::Write as _;

use reuseport::finding::Severity;
use reuseport::{Examined, Unseen};
use serde::Serialize;

use super::foreign::safe;
use super::mend::Case;
use super::number::{by_number, count};
use super::table::{BOLD, DIM, NOTE, PLAIN};
use super::view::Identity;
use super::{Reader, filled, words};

/// What `doctor --json` prints.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DoctorView {
    groups: Vec<GroupFindings>,
    /// How many findings are problems, and how many are advice.
    problems: usize,
    advice: usize,
    /// How many findings were not to be told.
    silenced: usize,
}

/// A group with what was found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct GroupFindings {
    #[serde(flatten)]
    pub(super) identity: Identity,
    /// How many sockets it has.
    pub(super) members: usize,
    pub(super) findings: Vec<DiagnosisView>,
    /// The names of findings that were not to be told.
    pub(super) silenced: Vec<&'static str>,
    pub(super) unseen: Vec<UnseenView>,
}

/// A finding, and what mends it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DiagnosisView {
    pub(super) finding: &'static str,
    pub(super) severity: &'static str,
    /// The members that it is about, by name.
    pub(super) members: Vec<String>,
    /// What was seen, and what follows from it.
    pub(super) text: String,
    /// The command, or what the server has to do.
    pub(super) mend: String,
    /// Where the documentation has more.
    pub(super) page: String,
}

/// What could not be looked at.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct UnseenView {
    pub(super) what: String,
    pub(super) why: String,
}

impl GroupFindings {
    /// Of an examined group, without the findings that are not to be told.
    pub(crate) fn new(
        group: &Examined,
        netns_name: Option<String>,
        reader: &Reader,
        is_silenced: impl Fn(&str) -> bool,
    ) -> Self {
        let identity = Identity::new(&group.status.group.key, netns_name);
        let argument = words::argument(&identity, reader.own_netns).to_owned();
        let case = Case { status: &group.status, settings: &group.settings, argument: &argument };
        let (silenced, told): (Vec<_>, Vec<_>) =
            group.findings.iter().partition(|finding| is_silenced(finding.name()));
        let diagnosis = |finding| {
            let (view, mend) = case.view(finding);
            DiagnosisView {
                finding: view.finding,
                severity: view.severity,
                members: view.members,
                text: view.text,
                mend,
                page: format!("docs/findings.md#{}", view.finding),
            }
        };
        Self {
            members: group.status.members.len(),
            findings: told.into_iter().map(diagnosis).collect(),
            silenced: silenced.into_iter().map(|finding| finding.name()).collect(),
            unseen: group.unseen.iter().map(UnseenView::new).collect(),
            identity,
        }
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity.name()).count()
    }
}

impl UnseenView {
    fn new(unseen: &Unseen) -> Self {
        Self { what: unseen.what.clone(), why: unseen.why.clone() }
    }
}

impl DoctorView {
    /// Groups with problems come first, then those with advice.
    pub(crate) fn new(mut groups: Vec<GroupFindings>) -> Self {
        let rank =
            |group: &GroupFindings| match (group.count(Severity::Problem), group.findings.len()) {
                (1.., _) => 0,
                (_, 1..) => 1,
                _ => 2,
            };
        groups.sort_by_key(rank);
        let sum = |severity| groups.iter().map(|group| group.count(severity)).sum();
        Self {
            problems: sum(Severity::Problem),
            advice: sum(Severity::Advice),
            silenced: groups.iter().map(|group| group.silenced.len()).sum(),
            groups,
        }
    }

    /// Whether nothing was found, and all could be looked at.
    pub(crate) fn is_fine(&self) -> bool {
        self.problems + self.advice == 0 && self.groups.iter().all(|group| group.unseen.is_empty())
    }

    /// `3 groups, 2 findings (1 problem), 1 silenced`.
    fn summary(&self) -> String {
        let findings = self.problems + self.advice;
        let mut text =
            format!("{}, {}", count(self.groups.len(), "group"), count(findings, "finding"));
        if self.problems > 0 {
            let _ = write!(text, " ({})", count(self.problems, "problem"));
        }
        if self.silenced > 0 {
            let _ = write!(text, ", {} silenced", self.silenced);
        }
        let unseen: usize = self.groups.iter().map(|group| group.unseen.len()).sum();
        if unseen > 0 {
            let _ = write!(text, ", {unseen} {} not seen", by_number(unseen, "thing", "things"));
        }
        text
    }
}

/// What was found, for people.
pub(crate) fn text(view: &DoctorView, reader: &Reader) -> String {
    let mut out = String::new();
    for group in view.groups.iter().filter(|g| !g.findings.is_empty() || !g.unseen.is_empty()) {
        let name = words::argument(&group.identity, reader.own_netns);
        let _ = writeln!(out, "{BOLD}{}{BOLD:#}", safe(name));
        for finding in &group.findings {
            diagnosis(&mut out, finding, reader);
        }
        for UnseenView { what, why } in &group.unseen {
            paragraph(&mut out, "  not seen: ", &format!("{what}: {why}"), reader);
        }
        out.push('\n');
    }
    let _ = writeln!(out, "{}", view.summary());
    out
}

fn diagnosis(out: &mut String, finding: &DiagnosisView, reader: &Reader) {
    let style = if finding.severity == Severity::Problem.name() { NOTE } else { PLAIN };
    let _ = writeln!(out, "  {style}{}{style:#} {}", finding.severity, finding.finding);
    paragraph(out, "    ", &finding.text, reader);
    paragraph(out, &format!("    {DIM}mend:{DIM:#} "), &finding.mend, reader);
}

/// A text that begins with `head`, and whose other lines are indented by four columns.
fn paragraph(out: &mut String, head: &str, text: &str, reader: &Reader) {
    const INDENT: usize = 4;

    let text = safe(text);
    let head_width = super::table::width(&anstream::adapter::strip_str(head).to_string());
    // The first line is shorter by what the head takes beyond the indentation.
    let pad = "\u{a0}".repeat(head_width.saturating_sub(INDENT));
    let room = reader.width.map_or(usize::MAX, |width| width.saturating_sub(INDENT).max(20));
    for (at, line) in filled(&format!("{pad}{text}"), room).iter().enumerate() {
        let _ = match at {
            0 => writeln!(out, "{head}{}", line.trim_start_matches('\u{a0}')),
            _ => writeln!(out, "{:INDENT$}{line}", ""),
        };
    }
}
