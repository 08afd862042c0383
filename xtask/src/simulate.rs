//! `cargo xtask simulate`: builds `benches` in release mode and runs the simulation
//! (`benches/src/simulate/`). It needs neither root nor bpffs. docs/simulation.md has the results.

use std::ffi::OsString;
use std::process::Command;

use anyhow::Result;

use crate::shell;

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Options of the simulation: `--json FILE`, `--help`
    #[arg(value_name = "OPTION", trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<OsString>,
}

/// Builds and runs.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = shell::workspace()?;
    shell::run(shell::cargo(&root).args([
        "build",
        "--release",
        "--quiet",
        "--package",
        "benches",
    ]))?;
    // `cargo run` would start it as root.
    let program = shell::target_directory(&root)?.join("release").join("benches");
    shell::run(Command::new(program).arg("simulate").args(&args.options))
}
