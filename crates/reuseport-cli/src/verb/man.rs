//! `reuseport man`: manual pages, generated from the text of `--help`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_mangen::roff::{Roff, roman};

use crate::output;

/// Print the manual page, or write all of them to a directory
///
/// Without --dir, prints reuseport(1). With it, writes reuseport.1 and a page for each verb
/// (reuseport-attach.1 and so on) there.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reuseport man | man -l -
  reuseport man --dir /usr/local/share/man/man1
")]
pub(crate) struct Man {
    /// Write the pages of the command and of every verb to this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    /// `command` is the whole command line.
    pub(crate) fn run(self, command: Command) -> Result<()> {
        let mut command = command.subcommand_help_heading("VERBS");
        command.build();
        match self.dir {
            None => output::print_bytes(&page(&command)?)?,
            Some(dir) => write_all(&command, &dir)?,
        }
        Ok(())
    }
}

fn write_all(command: &Command, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)
        .with_context(|| format!("cannot create the directory {}", dir.display()))?;
    // `help` is in the page of the command.
    let verbs = command.get_subcommands().filter(|verb| verb.get_name() != "help");
    for command in std::iter::once(command).chain(verbs) {
        let path = dir.join(clap_mangen::Man::new(command.clone()).get_filename());
        fs::write(&path, page(command)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// One page. The help text below the options becomes separate sections.
fn page(command: &Command) -> io::Result<Vec<u8>> {
    let man = clap_mangen::Man::new(command.clone()).manual("User Commands");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(text) = command.get_after_long_help().or(command.get_after_help()) {
        sections(&text.to_string()).to_writer(&mut page)?;
    }
    Ok(page)
}

/// Converts help text: headings such as `Examples:` become sections; the indented lines below stay
/// verbatim.
fn sections(text: &str) -> Roff {
    let mut roff = Roff::new();
    let mut verbatim = false;
    for line in text.lines().filter(|line| !line.is_empty()) {
        match line.strip_suffix(':').filter(|heading| !heading.starts_with(' ')) {
            Some(heading) => {
                if verbatim {
                    roff.control("fi", []);
                }
                roff.control("SH", [heading.to_uppercase().as_str()]);
                roff.control("nf", []);
                verbatim = true;
            }
            None => drop(roff.text([roman(line.strip_prefix("  ").unwrap_or(line))])),
        }
    }
    if verbatim {
        roff.control("fi", []);
    }
    roff
}
