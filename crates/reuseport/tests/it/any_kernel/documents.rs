//! The documentation agrees with the tests.

use crate::rights::{STEPS, Step, stands_in};

const RIGHTS: &str = include_str!("../../../../../docs/rights.md");
const README: &str = include_str!("../../../../../README.md");
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
