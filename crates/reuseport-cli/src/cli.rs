//! The command line: its verbs. What several of them take is in [`args`](crate::args), each verb's
//! own options in its file below [`verb`](crate::verb).

use anyhow::Result;
use clap::builder::Styles;
use clap::{Command, Parser, Subcommand};

use crate::verb::{
    attach, completions, demo, detach, drain, ls, man, policy, show, undrain, weight,
};

/// Choose which of a server's SO_REUSEPORT sockets gets each connection
///
/// Several sockets can listen on one address and port if each sets SO_REUSEPORT: nginx, HAProxy,
/// unbound and many others run their workers so. The kernel deals connections and datagrams among
/// such a group of sockets by a hash, blindly. This command shows the groups on the host, and lets
/// an eBPF program decide instead, for servers that run already and need not be changed.
///
/// No daemon is needed: the program and its tables live in the kernel, pinned below
/// /sys/fs/bpf/reuseport, and stay until `detach`.
#[derive(Debug, Parser)]
#[command(
    name = "reuseport",
    version,
    max_term_width = 80,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    subcommand_value_name = "VERB",
    subcommand_help_heading = "Verbs",
    styles = STYLES,
    after_long_help = AFTER_HELP,
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

const STYLES: Styles = Styles::styled()
    .header(crate::output::BOLD)
    .usage(crate::output::BOLD)
    .literal(crate::output::GOOD)
    .placeholder(crate::output::PLAIN);

const AFTER_HELP: &str = "\
Examples:
  reuseport demo                                  see what it is about
  reuseport ls                                    which groups there are
  reuseport attach :8080                          steer one: the shortest queue
  reuseport show :8080                            who gets how much
  reuseport drain :8080 pid:1234                  nothing new for that worker
  reuseport detach :8080                          as it was before

Rights:
  Root, or CAP_BPF (programs), CAP_PERFMON (finding sockets) and
  CAP_SYS_PTRACE (reaching the sockets of other users' processes), with the
  right to write below /sys/fs/bpf.

Environment:
  REUSEPORT_LOG   what to log on standard error: error, warn (the default),
                  info, debug, trace; or by module, as in `reuseport=debug`
  NO_COLOR        if not empty, no colours; there are none but on a terminal

Exit status:
  0   done
  1   the answer is no: no such group, nothing attached
  2   wrong usage, or a failure; one line on standard error says what was
      tried, what the kernel said, and what to do
";

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Ls(ls::Ls),
    Show(show::Show),
    Attach(attach::Attach),
    Detach(detach::Detach),
    Policy(policy::Policy),
    Weight(weight::Weight),
    Drain(drain::Drain),
    Undrain(undrain::Undrain),
    Demo(demo::Demo),
    Completions(completions::Completions),
    Man(man::Man),
}

impl Verb {
    /// Does it. `command` is the whole command line, for the verbs that write about it.
    ///
    /// # Errors
    ///
    /// What the verb says; `main` makes exit codes of it.
    pub(crate) fn run(self, command: Command) -> Result<()> {
        match self {
            Self::Ls(verb) => verb.run(),
            Self::Show(verb) => verb.run(),
            Self::Attach(verb) => verb.run(),
            Self::Detach(verb) => verb.run(),
            Self::Policy(verb) => verb.run(),
            Self::Weight(verb) => verb.run(),
            Self::Drain(verb) => verb.run(),
            Self::Undrain(verb) => verb.run(),
            Self::Demo(verb) => verb.run(),
            Self::Completions(verb) => verb.run(command),
            Self::Man(verb) => verb.run(command),
        }
    }
}
