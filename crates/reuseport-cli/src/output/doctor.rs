//! What `doctor` found: the JSON contract, and the text for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use reuseport::finding::Severity;
use reuseport::{Examined, Unseen};
use serde::Serialize;

use super::foreign::safe;
use super::host::{self, HostView};
use super::mend::Case;
use super::note::paragraph;
use super::number::count;
use super::table::{BOLD, DIM, NOTE, PLAIN};
use super::view::Identity;
use super::{Reader, words};

/// What `doctor --json` prints.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DoctorView {
    groups: Vec<GroupFindings>,
    /// None if groups were named.
    host: Option<HostView>,
    /// What could not be looked at as a whole.
    unseen: Vec<UnseenView>,
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
    /// Settings of its network namespace; null: not known.
    pub(super) settings: BTreeMap<&'static str, Option<u32>>,
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
            settings: group.settings.named().into_iter().collect(),
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
    /// Groups with problems come first, then those with advice. The groups may be missing as a whole, for a reason.
    pub(crate) fn new(groups: Result<Vec<GroupFindings>, String>, host: Option<HostView>) -> Self {
        let (mut groups, unseen) = match groups {
            Ok(groups) => (groups, Vec::new()),
            Err(why) => (Vec::new(), vec![UnseenView { what: "the groups".to_owned(), why }]),
        };
        let rank =
            |group: &GroupFindings| match (group.count(Severity::Problem), group.findings.len()) {
                (1.., _) => 0,
                (_, 1..) => 1,
                _ => 2,
            };
        groups.sort_by_key(rank);
        let sum = |severity| {
            let of_host = host.as_ref().map_or(0, |host| host.count(severity));
            groups.iter().map(|group| group.count(severity)).sum::<usize>() + of_host
        };
        let silenced = host.as_ref().map_or(0, |host| host.silenced.len());
        Self {
            problems: sum(Severity::Problem),
            advice: sum(Severity::Advice),
            silenced: groups.iter().map(|group| group.silenced.len()).sum::<usize>() + silenced,
            groups,
            host,
            unseen,
        }
    }

    /// Whether nothing was found, and all could be looked at.
    pub(crate) fn is_fine(&self) -> bool {
        self.problems + self.advice + self.not_seen() == 0
    }

    fn not_seen(&self) -> usize {
        let of_host = self.host.as_ref().map_or(0, HostView::unseen);
        let of_groups: usize = self.groups.iter().map(|group| group.unseen.len()).sum();
        self.unseen.len() + of_host + of_groups
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
        if self.not_seen() > 0 {
            let _ = write!(text, ", {} not seen", count(self.not_seen(), "thing"));
        }
        text
    }

    /// The settings of each network namespace that has groups, with its name for this reader.
    fn networks(&self, reader: &Reader) -> Vec<(String, String)> {
        let mut known: BTreeMap<u32, (String, String)> = BTreeMap::new();
        for GroupFindings { identity, settings, .. } in &self.groups {
            let name = match reader.own_netns == Some(identity.netns) {
                true => "own".to_owned(),
                false => words::netns(identity),
            };
            let value = |(name, value): (&&str, &Option<u32>)| {
                let value = value.map_or_else(|| "-".to_owned(), |value| value.to_string());
                format!("{name} {value}")
            };
            let text = || settings.iter().map(value).collect::<Vec<_>>().join("; ");
            known.entry(identity.netns).or_insert_with(|| (name, text()));
        }
        known.into_values().collect()
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
            out += &paragraph("  not seen: ", &format!("{what}: {why}"), reader.width);
        }
        out.push('\n');
    }
    if let Some(host) = &view.host {
        out += &host::text(host, reader);
        for (name, settings) in view.networks(reader) {
            let head = format!("  {DIM}network {}:{DIM:#} ", safe(&name));
            out += &paragraph(&head, &settings, reader.width);
        }
    }
    for UnseenView { what, why } in &view.unseen {
        out += &paragraph("not seen: ", &format!("{what}: {why}"), reader.width);
    }
    if view.host.is_some() || !view.unseen.is_empty() {
        out.push('\n');
    }
    let _ = writeln!(out, "{}", view.summary());
    out
}

fn diagnosis(out: &mut String, finding: &DiagnosisView, reader: &Reader) {
    let style = if finding.severity == Severity::Problem.name() { NOTE } else { PLAIN };
    let _ = writeln!(out, "  {style}{}{style:#} {}", finding.severity, finding.finding);
    *out += &paragraph("    ", &finding.text, reader.width);
    *out += &paragraph(&format!("    {DIM}mend:{DIM:#} "), &finding.mend, reader.width);
}
