//! The catalogue for people: the name, type and labels of each metric, and what it means.

use super::PREFIX;
use super::catalog::{FAMILIES, Family, Kind, Of};

/// The labels of a metric of members.
const MEMBER: [&str; 2] = ["group", "slot or cookie"];

/// A metric as it is described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// The whole name.
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) labels: Vec<&'static str>,
    pub(crate) help: &'static str,
    /// What it takes in addition to what `ls` does.
    pub(crate) needs: Option<&'static str>,
}

/// All metrics of a scrape, in its order.
pub(crate) fn rows() -> Vec<Row> {
    FAMILIES.iter().map(Row::new).collect()
}

impl Row {
    fn new(family: &Family) -> Self {
        let Family { name, kind, unit, help, needs, of } = family;
        let unit_suffix = unit.map(|unit| format!("_{unit}")).unwrap_or_default();
        let (kind, suffix) = match kind {
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
            Kind::Info => ("info", "_info"),
        };
        let labels = match of {
            Of::Member(_) => MEMBER.to_vec(),
            Of::MemberLabels(more, _) => [&MEMBER, *more].concat(),
            Of::Group(_) => vec!["group"],
            Of::GroupBy(more, _) => vec!["group", more],
            Of::GroupLabels(more, _) => [&["group"], *more].concat(),
            Of::Namespace(_) => vec!["netns"],
            Of::Scrape(_) => Vec::new(),
            Of::Build => vec!["version"],
        };
        let name = format!("{PREFIX}_{name}{unit_suffix}{suffix}");
        Self { name, kind, labels, help, needs: *needs }
    }
}

/// The list, for a terminal with `width` columns.
pub(crate) fn list(width: usize) -> String {
    let mut text = String::new();
    for Row { name, kind, labels, help, needs, .. } in rows() {
        let labels =
            if labels.is_empty() { String::new() } else { format!(" by {}", labels.join(", ")) };
        let needs = needs.map(|needs| format!(" Needs: {needs}.")).unwrap_or_default();
        let about = [format!("{kind}{labels}"), format!("{help}{needs}")];
        text.push_str(&name);
        text.push('\n');
        for line in
            about.iter().flat_map(|text| crate::output::filled(text, width.saturating_sub(4)))
        {
            text.push_str("    ");
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The row of the table in docs/metrics.md.
    fn markdown(row: &Row) -> String {
        let Row { name, kind, labels, help, needs } = row;
        let labels = labels.iter().map(|label| match *label {
            "slot or cookie" => "`slot` or `cookie`".to_owned(),
            label => format!("`{label}`"),
        });
        let labels = labels.collect::<Vec<_>>().join(", ");
        format!("| `{name}` | {kind} | {labels} | {} | {help} |\n", needs.unwrap_or_default())
    }

    #[test]
    fn the_page_has_every_metric_as_it_is() {
        let page = include_str!("../../../../docs/metrics.md");
        let table: String = rows().iter().map(markdown).collect();
        assert!(page.contains(&table), "docs/metrics.md must have these rows:\n{table}");
    }

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        for Row { name, kind, labels, help, .. } in rows() {
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
            assert_eq!(name.ends_with("_info"), kind == "info", "{name}");
            let is_plain = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(name.chars().all(is_plain), "{name}");
            assert!(help.ends_with('.') && !labels.contains(&"le"), "{name}: {help}");
        }
    }

    #[test]
    fn the_list_fits() {
        let text = list(80);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.starts_with("reuseport_picks_total\n    counter by group, slot or cookie\n"));
    }
}
