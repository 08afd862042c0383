//! One load in a process that has loaded nothing before: what a command that runs once pays.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::SUBJECTS;

#[derive(clap::Args)]
pub(crate) struct Args {
    subject: String,
}

/// Loads once and prints how many microseconds it took.
pub(crate) fn run(args: &Args) -> Result<()> {
    let subject = SUBJECTS.iter().find(|s| s.name == args.subject).context("no such subject")?;
    println!("{}", (subject.load)(&super::listeners()?)?.total());
    Ok(())
}

/// Starts a process for it.
pub(super) fn in_a_process(subject: &str) -> Result<f64> {
    let own = std::env::current_exe().context("cannot find the own program")?;
    let output = Command::new(own).args(["load-once", subject]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("`load-once {subject}` failed: {}", said.trim());
    }
    let micros = String::from_utf8_lossy(&output.stdout);
    micros.trim().parse().with_context(|| format!("`load-once {subject}` said {micros:?}"))
}
