//! `cargo xtask api`: prints what the public interface of each library has gained and lost since its committed
//! text, `api.txt` next to the manifest, and fails if that is anything. `--update` writes the text.
//!
//! The text is made from the source, because rustdoc's JSON takes a nightly compiler. Types stand there as they
//! are written. Calls of macros stand there as they are, with what the macro's definition makes. What is compiled
//! for tests alone is left out.

mod crates;
mod item;
mod surface;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use self::crates::Crate;
use crate::shell;

/// The libraries that users depend on.
const LIBRARIES: [&str; 2] = ["reuseport", "sk-reuseport"];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write the text
    #[arg(long)]
    pub(crate) update: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let crates = shell::workspace()?.join("crates");
    let mut changed = Vec::new();
    for name in LIBRARIES {
        let package = crates.join(name);
        let now = surface(name, &package.join("src/lib.rs"))?;
        let committed = package.join("api.txt");
        if args.update {
            fs::write(&committed, now)
                .with_context(|| format!("cannot write {}", committed.display()))?;
            continue;
        }
        let before = fs::read_to_string(&committed).unwrap_or_default();
        let difference = difference(&before, &now);
        if before != now {
            println!("{name}\n{difference}");
            changed.push(name);
        }
    }
    if !changed.is_empty() {
        bail!(
            "the public interface of {} is not the committed one; if that is wanted, \
             `cargo xtask api --update` writes it, and CHANGELOG.md says what users have to change",
            changed.join(" and of ")
        );
    }
    Ok(())
}

/// The public interface of the crate with this root file.
fn surface(name: &str, root: &Path) -> Result<String> {
    Ok(surface::text_of(&name.replace('-', "_"), &Crate::read(root)?))
}

/// The lines that are gone and those that are new.
fn difference(before: &str, now: &str) -> String {
    let [old, new] = [before, now].map(|text| text.lines().collect::<BTreeSet<_>>());
    let gone = old.difference(&new).map(|line| format!("    - {line}\n"));
    let came = new.difference(&old).map(|line| format!("    + {line}\n"));
    gone.chain(came).collect()
}
