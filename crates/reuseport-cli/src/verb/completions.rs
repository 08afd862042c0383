//! `reuseport completions`: scripts that complete the command line.

use anyhow::Result;
use clap::{Args, Command};
use clap_complete::Shell;

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
    /// `command` is the whole command line.
    pub(crate) fn run(self, mut command: Command) -> Result<()> {
        // Into memory first: the generator panics if a write fails.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "reuseport", &mut script);
        output::print_bytes(&script)?;
        Ok(())
    }
}
