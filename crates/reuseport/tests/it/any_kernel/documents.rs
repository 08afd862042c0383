//! The documentation agrees with the tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::rights::{STEPS, Step, stands_in};

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
        let names: Vec<_> = given.iter().chain(*needs).map(|(_, name)| *name).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        table += &format!("| {what} | {names} | {besides} |\n");
    }
    assert!(RIGHTS.contains(&table), "docs/rights.md needs this table:\n\n{table}");
}

/// The rows of the table in README.md, and the steps that each covers.
const README_ROWS: &[(&str, &[&str])] = &[
    ("`ls`, `show`: finding groups", &["list the groups of the host (`ls`, `show`)"]),
    ("`ls`, `show`: policies, slots, picks", &["open what another user pinned"]),
    (
        "`attach`, `detach`, `policy`, `weight`, `drain`, `--watch`: your own servers",
        &[
            "attach a policy to your own servers, change it, detach it",
            "the same where another user owns /sys/fs/bpf/reuseport",
        ],
    ),
    (
        "the same for other users' servers, and those of root",
        &["attach a policy to another user's servers"],
    ),
    (
        "sockets that are in another program's socket map",
        &["make a socket map and put sockets into it"],
    ),
    (
        "`--watch`: events of UDP sockets; without, it lists them again and again",
        &["be told of UDP sockets that are bound (`--watch`)"],
    ),
    (
        "`attach --force`, if the sockets are in the array of the program that it replaces",
        &["open programs and maps by their ids"],
    ),
    (
        "mounting `/sys/fs/bpf`, where nothing is mounted",
        &["the same where no bpffs is mounted yet"],
    ),
    ("`demo`", &[]),
];

#[test]
fn the_readme_has_the_same_capabilities() {
    let (_, table) = README.split_once("| step | takes |\n|---|---|\n").unwrap();
    let rows: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), README_ROWS.len(), "a row is missing here, or in README");
    for (row, (what, steps)) in rows.into_iter().zip(README_ROWS) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert_eq!(cells[1], *what);
        let word = |c: char| !c.is_ascii_uppercase() && c != '_';
        let mut said: Vec<&str> =
            cells[2].split(word).filter(|word| word.starts_with("CAP_")).collect();
        // "and ...": in addition to the capabilities of the rows above.
        let more = cells[2].starts_with("and ");
        let mut needed: Vec<&str> = STEPS
            .iter()
            .filter(|step| steps.contains(&step.what))
            .flat_map(|step| step.needs)
            .filter(|one| !(more && stands_in(one)))
            .map(|(_, name)| *name)
            .collect();
        said.sort_unstable();
        needed.sort_unstable();
        assert_eq!(said, needed, "{row}");
        let known = |what: &&&str| STEPS.iter().any(|step| step.what == **what);
        assert_eq!(steps.iter().filter(known).count(), steps.len(), "{row}");
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
    let sections: Vec<&str> = FINDINGS.lines().filter_map(|l| l.strip_prefix("## ")).collect();
    assert_eq!(sections, reuseport::finding::NAMES);
    for section in FINDINGS.split("\n## ").skip(1) {
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
