//! `cargo xtask bench`: builds `benches` and the command in release mode and runs one benchmark.
//! docs/figures.md has the results.

use std::ffi::OsString;

use anyhow::{Context, Result};

use crate::{prepare, shell};

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// `latency`, `bursts`, `load`, `select`, `ls`, `newcomer`, `restarts`, `idle`, `memory` or `metrics`, and its options: `--json FILE`, `--help`
    #[arg(value_name = "BENCH", trailing_var_arg = true, allow_hyphen_values = true)]
    bench: Vec<OsString>,
}

/// Builds and runs.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = shell::workspace()?;
    prepare::mount_bpffs()?;
    let build = ["build", "--release", "--quiet", "--package", "reuseport-cli"];
    shell::run(shell::cargo(&root).args(build))?;
    let mut cargo = shell::cargo(&root);
    // File names in the arguments are relative to the user's directory.
    cargo.current_dir(std::env::current_dir().context("cannot find the current directory")?);
    cargo.args(["run", "--release", "--quiet", "--package", "benches", "--manifest-path"]);
    shell::run(cargo.arg(root.join("Cargo.toml")).arg("--").args(&args.bench))
}
