//! `cargo xtask interop`: follows the recipes in `docs/recipes/` with real servers, and installs these. What cannot be
//! had is named, and is no failure.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::libtest::INTEROP;
use crate::servers::{Place, SERVERS, Server};
use crate::shell;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these servers
    #[arg(value_name = "SERVER", value_parser = SERVERS.map(|server| server.name))]
    servers: Vec<String>,
}

/// The result for one server.
#[derive(PartialEq)]
enum Outcome {
    Passed,
    Failed,
    NotToBeHad(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Failed => f.write_str("failed"),
            Self::NotToBeHad(why) => write!(f, "not to be had: {why}"),
        }
    }
}

/// Installs each server, runs its tests, and prints a line for each.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = shell::workspace()?;
    let place = Place::prepare(&root)?;
    let wanted = |server: &&Server| {
        args.servers.is_empty() || args.servers.iter().any(|it| it == server.name)
    };
    let mut outcomes = Vec::new();
    for server in SERVERS.iter().filter(wanted) {
        println!("== {}", server.name);
        let outcome = match place.install(&server.from) {
            Err(why) => Outcome::NotToBeHad(format!("{why:#}")),
            Ok(()) if test(&root, &place, server.name)? => Outcome::Passed,
            Ok(()) => Outcome::Failed,
        };
        outcomes.push((server.name, outcome));
    }
    println!();
    for (name, outcome) in &outcomes {
        println!("{name:9} {outcome}");
    }
    match outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Failed).count() {
        0 => Ok(()),
        failed => bail!("{failed} of {} servers failed", outcomes.len()),
    }
}

/// Runs the tests of one server, and shows what they print.
fn test(root: &Path, place: &Place, name: &str) -> Result<bool> {
    let mut cargo = shell::cargo(root);
    cargo.env("PATH", place.path()?).args([
        "test",
        "--workspace",
        "--all-features",
        "--test",
        "it",
    ]);
    cargo.args(["--", "--ignored", "--nocapture", &format!("{INTEROP}the_recipe_for_{name}_")]);
    let shown = shell::show(&cargo);
    Ok(cargo.status().with_context(|| format!("cannot start `{shown}`"))?.success())
}
