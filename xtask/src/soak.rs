//! `cargo xtask soak`: the long versions of tests, which `cargo test` ignores, and thousands of restarts.

use std::ffi::OsString;

use anyhow::{Context, Result};

use crate::libtest::SOAK;
use crate::servers::{Place, SERVERS};
use crate::{prepare, shell};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    other: Option<Other>,
    /// Run only the tests whose names contain one of these
    #[arg(value_name = "NAME", default_value = SOAK)]
    names: Vec<String>,
}

#[derive(clap::Subcommand)]
enum Other {
    /// Restart real servers again and again while clients ask, and count what is lost
    ///
    /// Goes on where the last call stopped, for eight minutes, and prints the table of everything so far.
    #[command(disable_help_flag = true)]
    Restarts {
        /// Servers and options: `--help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// Runs them on this kernel.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(Other::Restarts { arguments }) = &args.other {
        return restarts(arguments);
    }
    prepare::run()?;
    let mut cargo = shell::cargo(&shell::workspace()?);
    cargo.args(["test", "--workspace", "--all-features", "--no-fail-fast", "--tests"]);
    // Other ignored tests are helpers, which return at once.
    shell::run(cargo.args(["--", "--ignored"]).args(&args.names))
}

/// Installs the servers, and starts the soak of `benches` with its results below cargo's target directory.
fn restarts(arguments: &[OsString]) -> Result<()> {
    let root = shell::workspace()?;
    let place = Place::prepare(&root)?;
    let is_named = |name: &str| arguments.iter().any(|argument| argument == name);
    let any_named = SERVERS.iter().any(|server| is_named(server.name));
    let mut missing: Vec<OsString> = Vec::new();
    for server in SERVERS.iter().filter(|server| !any_named || is_named(server.name)) {
        if let Err(why) = place.install(&server.from) {
            println!("{}: not to be had: {why:#}", server.name);
            missing.extend(["--without".into(), server.name.into()]);
        }
    }
    let build = ["build", "--release", "--quiet", "--package", "reuseport-cli"];
    shell::run(shell::cargo(&root).args(build))?;
    let results = shell::target_directory(&root)?.join("soak");
    std::fs::create_dir_all(&results)
        .with_context(|| format!("cannot create {}", results.display()))?;
    let mut cargo = shell::cargo(&root);
    cargo.args(["run", "--release", "--quiet", "--package", "benches", "--", "soak-restarts"]);
    cargo.arg("--results").arg(results.join("restarts.jsonl")).args(missing).args(arguments);
    shell::run(cargo.env("PATH", place.path()?))
}
