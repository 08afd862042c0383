//! `reuseport completions`: scripts that complete the command line.

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output;

/// Print the completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reuseport completions bash > /etc/bash_completion.d/reuseport
  reuseport completions zsh > /usr/local/share/zsh/site-functions/_reuseport
  reuseport completions fish > ~/.config/fish/completions/reuseport.fish
")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Result<()> {
        // Into memory first: the generator panics where a write fails.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "reuseport", &mut script);
        output::print_bytes(&script)?;
        Ok(())
    }
}
