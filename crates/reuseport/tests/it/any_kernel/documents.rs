//! The documentation agrees with the tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use reuseport::rights::{STEPS, Step, VERBS, Verb};

const RIGHTS: &str = include_str!("../../../../../docs/rights.md");
const README: &str = include_str!("../../../../../README.md");
const FINDINGS: &str = include_str!("../../../../../docs/findings.md");
const OWN_PROGRAM: &str = include_str!("../../../../../docs/own-program.md");

#[test]
fn the_page_on_own_programs_shows_the_programs_that_are_tested() {
    assert!(OWN_PROGRAM.contains(include_str!("../../bpf/by_source.bpf.c")));
    assert!(OWN_PROGRAM.contains(include_str!("../../bpf/by_network.bpf.c")));
}

#[test]
fn the_page_on_rights_has_the_table_of_steps() {
    let mut table = "| step | capabilities | and |\n|---|---|---|\n".to_owned();
    for Step { what, needs, given, besides, .. } in STEPS {
        let names: Vec<_> = given.iter().chain(*needs).copied().collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        table += &format!("| {what} | {names} | {besides} |\n");
    }
    assert!(RIGHTS.contains(&table), "docs/rights.md needs this table:\n\n{table}");
}

#[test]
fn the_readme_has_the_same_capabilities() {
    let (_, table) = README.split_once("| step | takes |\n|---|---|\n").unwrap();
    let rows: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
    // The last row is about `demo`, which takes what its steps take.
    assert_eq!(rows.len(), VERBS.len() + 1, "a row is missing in README, or in the library");
    for (row, Verb { what, steps, .. }) in rows.into_iter().zip(VERBS) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert_eq!(cells[1], *what);
        let word = |c: char| !c.is_ascii_uppercase() && c != '_';
        let mut said: Vec<&str> =
            cells[2].split(word).filter(|word| word.starts_with("CAP_")).collect();
        // "and ...": in addition to the capabilities of the rows above.
        let more = cells[2].starts_with("and ");
        let is_above = |name: &&str| more && ["CAP_BPF", "CAP_PERFMON"].contains(name);
        let of_row = STEPS.iter().filter(|step| steps.contains(&step.what));
        let mut needed: Vec<&str> =
            of_row.flat_map(|step| step.needs).copied().filter(|name| !is_above(name)).collect();
        said.sort_unstable();
        needed.sort_unstable();
        assert_eq!(said, needed, "{row}");
    }
}

/// README.md, what is next to it, and all below docs/.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let directories = [root.clone(), root.join("docs"), root.join("docs/recipes")];
    let entries = directories.iter().flat_map(|directory| std::fs::read_dir(directory).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The lines that are no part of a fenced block.
fn text_of(page: &Path) -> String {
    let text = std::fs::read_to_string(page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
    text.split("```").step_by(2).collect()
}

/// As GitHub makes them from headings.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = text_of(page);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let of = |heading: &str| -> String {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(of).collect()
}

#[test]
fn each_finding_has_its_section_and_each_section_its_finding() {
    let (findings, checks) = FINDINGS.split_once("\n# The host\n").unwrap();
    let sections = |text: &'static str| -> Vec<&str> {
        text.lines().filter_map(|line| line.strip_prefix("## ")).collect()
    };
    assert_eq!(sections(findings), reuseport::finding::NAMES);
    assert_eq!(sections(checks), reuseport::finding::CHECKS);
    for section in findings.split("\n## ").skip(1) {
        let (name, text) = section.split_once("\n\n").unwrap();
        let severity = text.starts_with("*Problem*") || text.starts_with("*Problem.*");
        assert!(severity || text.starts_with("*Advice.*"), "{name} begins with its severity");
    }
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let mut links = 0;
    for page in pages() {
        let text = text_of(&page);
        let targets = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let linked = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            assert!(linked.exists(), "{} links {target}", page.display());
            let known = || anchors(&linked).contains(anchor);
            assert!(anchor.is_empty() || known(), "{} links {target}", page.display());
            links += 1;
        }
    }
    assert!(links > 100, "{links} links found");
}

#[test]
fn the_table_of_contents_names_every_page() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let contents = std::fs::read_to_string(docs.join("README.md")).unwrap();
    for entry in std::fs::read_dir(docs).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_page = name.ends_with(".md") && name != "README.md";
        assert!(!is_page || contents.contains(&format!("({name})")), "docs/README.md lacks {name}");
    }
}
