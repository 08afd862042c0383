//! `cargo xtask arrows`: prints the floors of each crate, and fails if an import points up or imports
//! form a circle.
//!
//! A crate lists its modules from top to bottom in its manifest, under `package.metadata.floors`.
//! A module may use modules on its own floor and below. At every level of the module tree, the files
//! and folders next to each other form no circle. Methods are not followed: what a call needs is
//! usually imported, too.

mod check;
mod parse;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeMap;
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
    let mut metadata = shell::metadata(&shell::workspace()?)?;
    let packages: Vec<Package> = serde_json::from_value(metadata["packages"].take())
        .context("cannot understand `cargo metadata`")?;
    println!("crates\n{}", picture(&crate_floors(&packages), |name| name.to_owned()));
    let mut wrong = 0;
    for package in &packages {
        let is_root =
            |target: &&Target| target.kind.iter().any(|kind| kind == "lib" || kind == "bin");
        for target in package.targets.iter().filter(is_root) {
            let tree = parse::read(&target.src_path)?;
            let floors = package.metadata.as_ref().map_or(&[][..], |metadata| &metadata.floors);
            println!("{}\n{}", package.name, picture(floors, |name| contents(&tree, name)));
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

/// A line for each floor.
fn picture(floors: &[Vec<String>], show: impl Fn(&str) -> String) -> String {
    let line = |floor: &Vec<String>| {
        let names: Vec<_> = floor.iter().map(|name| show(name)).collect();
        format!("    {}\n", names.join("  "))
    };
    floors.iter().map(line).collect()
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
