//! `reuseport doctor`: what is wrong, and what mends it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use reuseport::spec::GroupSpec;
use reuseport::{Examined, Host, checks, netns_names};

use crate::args::WhichArgs;
use crate::backend::{NamedNetns, Of};
use crate::config::{Config, FILE};
use crate::error::Failure;
use crate::output::doctor::{DoctorView, GroupFindings};
use crate::output::host::HostView;
use crate::output::{self, Reader};
use crate::silence::Silence;

/// Say what is wrong with groups, what follows from it, and what mends it
///
/// Looks at the groups, or at all of them, and at what the host allows. Changes nothing, and works for groups
/// without a program, too: look before you attach. A `problem` loses traffic, or keeps from working what was
/// asked for; `advice` is worth knowing. docs/findings.md has a section on each finding.
///
/// What cannot be looked at (`not seen`) is said, and is not taken for fine.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  0  nothing was found, and all could be looked at
  1  no such group
  2  wrong usage, or a failure
  3  something was found, or could not be looked at

Examples:
  reuseport doctor
  reuseport doctor :8080 udp::53
  reuseport doctor --silence no-watcher,drops@udp::53
  reuseport doctor --json | jq -r '.groups[].findings[].finding'
")]
pub(crate) struct Doctor {
    /// The groups, as `ls` prints them, or less; without one, every group and the host
    #[arg(value_name = "GROUP")]
    groups: Vec<GroupSpec>,

    #[command(flatten)]
    which: WhichArgs,

    /// Findings not to tell, by name; NAME@GROUP for one group
    #[arg(long, value_name = "NAME[,NAME]...")]
    silence: Vec<String>,

    /// The agent's file, whose `silence` counts, too
    ///
    /// The default one may be missing.
    #[arg(long, value_name = "FILE", default_value = FILE)]
    config: PathBuf,

    /// Print JSON, for programs; docs/json.md describes it
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(crate) fn run(self) -> Result<()> {
        let silence = Silence::of_names(&self.silence)?.and(self.silence_of_file()?);
        let reader = Reader::of_stdout();
        let host = Host::open();
        let (groups, failed) = match &host {
            Ok(host) => (Ok(self.groups(host, &silence, &reader)?), false),
            Err(error) => (Err(error.report().to_string()), true),
        };
        // What was asked for about groups is answered by them.
        let of_host = (self.groups.is_empty() || failed).then(|| {
            HostView::new(
                checks::checks(host.as_ref()),
                &checks::rights(),
                checks::settings(),
                |name| silence.covers_host(name),
            )
        });
        let view = DoctorView::new(groups, of_host);
        match self.json {
            true => output::print_json(&view)?,
            false => output::print(&output::doctor::text(&view, &reader))?,
        }
        match host {
            Err(error) if !self.groups.is_empty() => Err(error.into()),
            _ if view.is_fine() => Ok(()),
            _ => Err(Failure::findings().into()),
        }
    }

    /// What the agent's file silences. What is wrong with the default one keeps nothing from being told.
    fn silence_of_file(&self) -> Result<Silence> {
        let is_default = self.config == Path::new(FILE);
        if is_default && !self.config.exists() {
            return Ok(Silence::default());
        }
        match Config::read(&self.config).and_then(|config| Silence::of(config.silence)) {
            Err(error) if is_default => {
                tracing::warn!("nothing is silenced by the agent's file: {error}");
                Ok(Silence::default())
            }
            result => result,
        }
    }

    /// What is found about the groups that are named, or about all.
    fn groups(
        &self,
        host: &Host,
        silence: &Silence,
        reader: &Reader,
    ) -> Result<Vec<GroupFindings>> {
        let examined = self.examined(host)?;
        let names = netns_names();
        let findings = |group: &Examined| {
            let name = names.get(&group.status.group.key.netns.inode).cloned();
            GroupFindings::new(group, name, reader, |finding| {
                silence.covers(finding, &group.status.group)
            })
        };
        Ok(examined.iter().map(findings).collect())
    }

    fn examined(&self, host: &Host) -> Result<Vec<Examined>> {
        if !self.groups.is_empty() {
            let targets = self.which.targets(self.groups.clone())?;
            let found = targets.find(host, Of::Steered)?;
            let keys: Vec<_> = found.into_iter().map(|group| group.key).collect();
            return Ok(host.examine(Some(&keys))?);
        }
        let netns: Option<NamedNetns> = self.which.netns.resolve()?;
        let mut examined = host.examine(None)?;
        if let Some(netns) = netns {
            examined.retain(|group| group.status.group.key.netns.inode == netns.inode);
            if examined.is_empty() {
                netns.check()?;
            }
        }
        Ok(examined)
    }
}
