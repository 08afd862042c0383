//! `cargo xtask soak`: the long versions of tests, which `cargo test` ignores.

use anyhow::Result;

use crate::libtest::SOAK;
use crate::{prepare, shell};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only the tests whose names contain one of these
    #[arg(value_name = "NAME", default_value = SOAK)]
    names: Vec<String>,
}

/// Runs them on this kernel.
pub(crate) fn run(args: &Args) -> Result<()> {
    prepare::run()?;
    let mut cargo = shell::cargo(&shell::workspace()?);
    cargo.args(["test", "--workspace", "--all-features", "--no-fail-fast", "--tests"]);
    // Other ignored tests are helpers, which return at once.
    shell::run(cargo.args(["--", "--ignored"]).args(&args.names))
}
