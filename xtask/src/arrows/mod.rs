//! `cargo xtask arrows`: prints the floors of each crate, and fails if an import points up or imports
//! form a circle.
//!
//! A crate lists its modules from top to bottom in its manifest, under `package.metadata.floors`.
//! A module may use modules on its own floor and below. At every level of the module tree, the files
//! and folders next to each other form no circle. Methods are not followed: what a call needs is
//! usually imported, too.
//!
//! ARCHITECTURE.md shows the pictures of the workspace and of its main crate; they have to be these.

mod check;
mod parse;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use self::check::Floors;
use self::tree::Tree;
use crate::shell;

#[derive(clap::Args)]
pub(crate) struct Args {}

/// Prints the picture and the problems.
pub(crate) fn run(_: &Args) -> Result<()> {
    let workspace = shell::workspace()?;
    let architecture = workspace.join("ARCHITECTURE.md");
    let document = fs::read_to_string(&architecture)
        .with_context(|| format!("cannot read {}", architecture.display()))?;
    let mut metadata = shell::metadata(&workspace)?;
    let packages: Vec<Package> = serde_json::from_value(metadata["packages"].take())
        .context("cannot understand `cargo metadata`")?;
    let crates = picture("crates", &crate_floors(&packages), |name| name.to_owned());
    println!("{crates}");
    let mut wrong = stale("crates", &crates, &document);
    for package in &packages {
        let is_root =
            |target: &&Target| target.kind.iter().any(|kind| kind == "lib" || kind == "bin");
        for target in package.targets.iter().filter(is_root) {
            let tree = parse::read(&target.src_path)?;
            let floors = package.metadata.as_ref().map_or(&[][..], |metadata| &metadata.floors);
            let picture = picture(&package.name, floors, |name| contents(&tree, name));
            println!("{picture}");
            wrong += stale(&package.name, &picture, &document);
            let problems = check::problems(&tree, floors);
            problems.iter().for_each(|problem| println!("    {problem}"));
            wrong += problems.iter().filter(|problem| !problem.starts_with(' ')).count();
        }
    }
    if wrong > 0 {
        bail!("problems found: {wrong}; each crate lists its floors in Cargo.toml");
    }
    Ok(())
}

/// The part of `cargo metadata` that this reads.
#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
    targets: Vec<Target>,
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `dev` or `build`.
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    src_path: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    floors: Floors,
}

/// The workspace's crates, each one floor below the lowest crate that depends on it.
fn crate_floors(packages: &[Package]) -> Floors {
    let mut depth: BTreeMap<&str, usize> = packages.iter().map(|p| (p.name.as_str(), 0)).collect();
    // Cargo rules out circles, so no path is longer than this.
    for _ in packages {
        for package in packages {
            let below = depth[package.name.as_str()] + 1;
            for dependency in package.dependencies.iter().filter(|d| d.kind.is_none()) {
                depth.entry(&dependency.name).and_modify(|depth| *depth = below.max(*depth));
            }
        }
    }
    let mut floors = Floors::new();
    for (name, depth) in depth {
        floors.resize(floors.len().max(depth + 1), Vec::new());
        floors[depth].push(name.to_owned());
    }
    floors
}

/// The pictures that ARCHITECTURE.md shows.
const DOCUMENTED: [&str; 2] = ["crates", "reuseport"];

/// Complains if the document has another picture of this name; returns the number of complaints.
fn stale(name: &str, picture: &str, document: &str) -> usize {
    if !DOCUMENTED.contains(&name) || document.contains(picture) {
        return 0;
    }
    println!("    ARCHITECTURE.md has another picture: replace it by this one");
    1
}

/// A title, and a line for each floor.
fn picture(title: &str, floors: &[Vec<String>], show: impl Fn(&str) -> String) -> String {
    let line = |floor: &Vec<String>| {
        let names: Vec<_> = floor.iter().map(|name| show(name)).collect();
        format!("    {}\n", names.join("  "))
    };
    format!("{title}\n{}", floors.iter().map(line).collect::<String>())
}

/// `state/{bpffs, group}` for a folder, `error` for a file.
fn contents(tree: &Tree, name: &str) -> String {
    let module = tree.0[0].children.get(name).map(|&module| &tree.0[module]);
    let children: Vec<_> = module.into_iter().flat_map(|module| module.children.keys()).collect();
    if children.is_empty() {
        return name.to_owned();
    }
    let children: Vec<_> = children.into_iter().map(String::as_str).collect();
    format!("{name}/{{{}}}", children.join(", "))
}
