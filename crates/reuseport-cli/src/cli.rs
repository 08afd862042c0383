//! The command line and its verbs. Arguments shared by several verbs are in [`args`](crate::args);
//! each verb's options are in its file below [`verb`](crate::verb).

use anyhow::Result;
use clap::builder::Styles;
use clap::{Command, Parser, Subcommand};

use crate::verb::{
    agent, attach, completions, demo, detach, doctor, drain, ls, man, metrics, policy, promote,
    reload, rollback, run, show, undrain, weight,
};

/// Choose which of a server's SO_REUSEPORT sockets gets each connection
///
/// Several sockets can listen on one address and port if each sets SO_REUSEPORT: nginx, HAProxy,
/// unbound and many others run their workers this way. The kernel spreads connections and datagrams
/// over such a group by a hash, without regard to load. This command lists the groups on the host,
/// and attaches an eBPF program that decides instead, to running servers, without changes to them.
///
/// There is no daemon: the program and its tables live in the kernel, pinned below the host's
/// /sys/fs/bpf/reuseport, until `detach`.
#[derive(Debug, Parser)]
#[command(
    name = "reuseport",
    version,
    max_term_width = 80,
    arg_required_else_help = true,
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
  reuseport demo                                  see what a policy changes
  reuseport ls                                    list the groups
  reuseport attach :8080                          attach the default policy
  reuseport show :8080                            see what each member gets
  reuseport drain :8080 pid:1234                  nothing new for that worker
  reuseport run --listen tcp:0.0.0.0:80 -- CMD    start workers, keep them
  reuseport doctor                                what is wrong, what mends it
  reuseport detach :8080                          back to the kernel's hash

Rights:
  Root, or CAP_BPF (programs), CAP_PERFMON (finding sockets) and
  CAP_SYS_PTRACE (reaching the sockets of other users' processes), with the
  right to write below /sys/fs/bpf.

Environment:
  REUSEPORT_LOG    what to log on standard error: error, warn (the default),
                   info, debug, trace; or by module, as in `reuseport=debug`
  REUSEPORT_RUN    the directory of `run` and `reload`, instead of
                   /run/reuseport, or a user's $XDG_RUNTIME_DIR/reuseport
  REUSEPORT_BPFFS  the BPF filesystem that holds the pinned state, instead of
                   the host's /sys/fs/bpf; for containers
  NO_COLOR         if set and not empty, no colours; only terminals get them

Exit status:
  0   done
  1   nothing to do: no such group, nothing attached
  2   wrong usage, or a failure; standard error says what failed and why,
      with a hint on what to do
  3   done, but not as wished; standard error says what is left
  Of several groups, the most serious decides: 2, then 3, then 1.
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
    Promote(promote::Promote),
    Rollback(rollback::Rollback),
    Run(run::Run),
    Reload(reload::Reload),
    Doctor(doctor::Doctor),
    Agent(agent::Agent),
    Metrics(metrics::Metrics),
    Demo(demo::Demo),
    Completions(completions::Completions),
    Man(man::Man),
}

impl Verb {
    /// Runs the verb. `command` is the whole command line, for the verbs that describe it.
    ///
    /// # Errors
    ///
    /// The verb's error; `main` maps it to an exit code.
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
            Self::Promote(verb) => verb.run(),
            Self::Rollback(verb) => verb.run(),
            Self::Run(verb) => verb.run(),
            Self::Reload(verb) => verb.run(),
            Self::Doctor(verb) => verb.run(),
            Self::Agent(verb) => verb.run(),
            Self::Metrics(verb) => verb.run(),
            Self::Demo(verb) => verb.run(),
            Self::Completions(verb) => verb.run(command),
            Self::Man(verb) => verb.run(command),
        }
    }
}
