//! One file per verb: its options and help, and what it does with them.

pub(crate) mod attach;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod detach;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod show;

use anyhow::Result;

use crate::cli::Verb;

impl Verb {
    /// Does it.
    ///
    /// # Errors
    ///
    /// What the verb says; [`main`](crate::main) makes exit codes of it.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Ls(verb) => verb.run(),
            Self::Show(verb) => verb.run(),
            Self::Attach(verb) => verb.run(),
            Self::Detach(verb) => verb.run(),
            Self::Demo(verb) => verb.run(),
            Self::Completions(verb) => verb.run(),
            Self::Man(verb) => verb.run(),
        }
    }
}
